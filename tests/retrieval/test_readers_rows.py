"""A row is a document, and so is a paragraph of SQuAD; a broken one is told with its place, and the others are read."""

import gzip
import json
from datetime import date, datetime, timezone
from decimal import Decimal

import pyarrow
import pytest
from pyarrow import parquet

from spanqa_retrieval.readers import parquet_rows, reading, rows
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.sources import find_sources

# Rows

ROWS = [
    {"id": "x1", "title": "Bridges", "text": "A bridge 🌉.", "year": 1907, "open": True, "height": 1.5, "by": "Zoë"},
    {"id": 2, "text": "A tower.", "title": None, "tags": ["a"], "of": {"b": 1}, "none": None, "bad": float("nan")},
    {"text": "A river."},
]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_parquet(rows, **options):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **options)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", as_lines(ROWS), "line 3"),
        ("a.json", as_lines(ROWS), "line 3"),
        ("a.json", json.dumps(ROWS), "[2]"),
        ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1), "data[2]"),
        (
            "a.parquet",
            as_parquet(
                [{key: None for row in ROWS for key in row} | row | {"id": str(row.get("id", ""))} for row in ROWS]
            ),
            "row 2",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_row_is_a_document(documents, name, content, place, packed):
    content = content if isinstance(content, bytes) else content.encode()
    name, content = (f"{name}.gz", gzip.compress(content)) if packed else (name, content)
    first, second, third = documents(name, content)
    assert (first.id, first.title, first.text) == ("x1", "Bridges", "A bridge 🌉.")
    assert first.metadata == {"year": 1907, "open": True, "height": 1.5, "by": "Zoë"}
    assert (second.id, second.title, second.text, second.metadata) == ("2", "", "A tower.", {})
    assert (third.id, third.title, third.text, third.metadata) == (f"{name}#{place}", "", "A river.", {})


def test_an_object_with_a_text_is_one_row(document):
    made = document("a.json", json.dumps({"title": "T", "text": "A bridge.", "year": 1907, "other": [1]}, indent=1))
    assert (made.id, made.title, made.text, made.metadata) == ("a.json", "T", "A bridge.", {"year": 1907})


def test_dates_and_decimals_of_parquet_are_metadata_as_they_are_written(document):
    row = {
        "text": "x",
        "day": date(1907, 5, 1),
        "at": datetime(1907, 5, 1, 12, tzinfo=timezone.utc),
        "price": Decimal("1.50"),
        "bytes": b"x",
        "list": [1],
    }
    metadata = document("a.parquet", as_parquet([row])).metadata
    assert metadata.pop("at").startswith("1907-05-01 12:00:00")
    assert metadata == {"day": "1907-05-01", "price": "1.50"}


GOOD = {"id": "good", "text": "A bridge."}
DEFECTS = [
    ('{"id": 1; }', "line 2 column 9: not valid JSON: Expecting ',' delimiter"),
    ("[" * 100_000, "line 2: not a dataset: its JSON is nested too deeply"),
    ('"text"', 'line 2: expected an object, got a string ("text")'),
    ({"id": "q", "context": "x"}, "line 2: text: missing; keys here: 'id', 'context'"),
    ({"text": 1}, "line 2: text: expected a string, got an integer (1)"),
    ({"text": None}, "line 2: text: expected a string, got null"),
    ({"text": " \n"}, "line 2: text: is empty"),
    ({"text": "x", "id": [1]}, "line 2: id: expected a string, got a list ([1])"),
    ({"text": "x", "title": 1}, "line 2: title: expected a string, got an integer (1)"),
    (
        {"text": "a\ud83c"},
        "line 2: text: character 1 is half of a surrogate pair, which no text may hold: fix the escape",
    ),
    (
        {"text": "x", "by": "\ud83c"},
        "line 2: by: character 0 is half of a surrogate pair, which no text may hold: fix the escape",
    ),
]


@pytest.mark.parametrize(("line", "message"), DEFECTS)
def test_a_broken_row_is_told_and_the_others_are_read(documents, tmp_path, line, message):
    told = []
    broken = line if isinstance(line, str) else json.dumps(line)
    lines = [json.dumps(GOOD), broken, json.dumps({**GOOD, "id": "behind"})]
    made = documents("a.jsonl", "\n".join(lines), told)
    assert [one.id for one in made] == ["good", "behind"]
    assert told == [f"{tmp_path}/a.jsonl: {message}"]


def test_of_many_broken_rows_the_first_are_told(documents, tmp_path):
    told = []
    documents("a.jsonl", as_lines([GOOD, *[{"id": 1}] * 100]), told)
    assert len(told) == reading.MOST_DEFECTS + 1
    assert told[-1] == f"{tmp_path}/a.jsonl: 80 more parts are left out"


def test_a_long_value_is_no_metadata_which_is_told_once(documents, tmp_path):
    told = []
    made = documents("a.jsonl", as_lines([{**GOOD, "html": "x" * 1001, "by": "Zoë"}] * 3), told)
    assert [one.metadata for one in made] == [{"by": "Zoë"}] * 3
    assert told == [
        f"{tmp_path}/a.jsonl: line 1: 'html' is longer than 1,000 characters: "
        "such values are left out of the metadata, here and in other rows"
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no text: give rows with `text`, or SQuAD's data[].paragraphs[].context"),
        ("a.json", b"[]", "holds no text: give rows with `text`, or SQuAD's data[].paragraphs[].context"),
        ("a.json", b"", "line 1 column 1: not valid JSON: Expecting value"),
        ("a.json", b'[{"text": "x"}', "line 1 column 15: not valid JSON: Expecting ',' delimiter"),
        ("a.json", b'[{"text": "x"}] []', "line 1 column 17: not valid JSON: Extra data"),
        ("a.json", b'{"a": 1, "b": "c"}', "data or text: missing; keys here: 'a', 'b'"),
        ("a.json", b"5", "top level: expected a list, got an integer (5)"),
        ("a.jsonl", b'{"text": "x"}\n\xff', "byte 14 is not UTF-8 (0xff): convert the file to UTF-8 first"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-20],
            "cannot be read: Compressed file ended before",
        ),
        ("a.parquet", b"", "row 0: cannot be read as Parquet: "),
        ("a.parquet", b"PAR1" * 10, "row 0: cannot be read as Parquet: "),
        ("a.parquet.gz", b"PAR1" * 10, "row 0: cannot be read as Parquet: "),
        ("a.parquet", as_parquet([{"id": "x", "context": "y"}]), "column text: missing; keys here: 'id', 'context'"),
    ],
)
def test_a_file_of_rows_that_cannot_be_read_is_told(problem, name, content, message):
    assert problem(name, content, []).startswith(message)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_too_long_is_told_before_it_is_held(problem, monkeypatch, name):
    monkeypatch.setattr(rows, "LONGEST_ROW", 1 << 20)
    row = '{"text": "' + "x" * (1 << 26)
    content = row if name == "a.jsonl" else f"[{row}"
    message = "holds a row of more than 1,048,576 characters, the most that is read: split it"
    assert problem(f"{name}.gz", gzip.compress(content.encode())) == message


def test_a_fault_far_from_the_end_of_a_long_file_is_told_as_it_is(problem, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST_ROW", 1 << 20)
    content = '[{"text": "x"}; ' + '{"text": "x"}, ' * 500_000
    assert problem("a.json", content) == "line 1 column 15: not valid JSON: Expecting ',' delimiter"


def test_a_parquet_file_that_unpacks_to_too_much_is_told(problem, monkeypatch):
    monkeypatch.setattr(parquet_rows, "UNPACKED_BYTES", 100)
    message = "unpacks to more than 100 bytes: unpack it, or split it"
    assert problem("a.parquet.gz", gzip.compress(as_parquet(ROWS[:1]))) == message


def test_rows_are_read_one_after_the_other(tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines([GOOD]) + "{")
    (source,) = find_sources([tmp_path / "a.jsonl"], pytest.fail)
    assert next(read_documents(source, pytest.fail)).id == "good"


# SQuAD


def article(title, *contexts):
    paragraphs = [{"context": context, "qas": [{"id": "q", "question": "?", "answers": []}]} for context in contexts]
    return {"title": title, "paragraphs": paragraphs}


@pytest.mark.parametrize("wrap", [lambda data: {"version": "2.0", "data": data}, lambda data: data])
def test_a_paragraph_of_squad_is_a_document(documents, wrap):
    data = [article("Old_bridges", "One.", "Two.", "One.", "Three."), article("Towers", "Two.", "Four.")]
    made = documents("dev.json", json.dumps(wrap(data)))
    assert [(one.id, one.title, one.text) for one in made] == [
        ("Old_bridges#1", "Old_bridges", "One."),
        ("Old_bridges#2", "Old_bridges", "Two."),
        ("Old_bridges#4", "Old_bridges", "Three."),
        ("Towers#2", "Towers", "Four."),
    ]
    assert {one.metadata["source"] for one in made} == {"dev.json"}


def test_articles_of_one_title_or_of_none_have_ids_that_differ(documents):
    data = [article("", "One."), article("T", "Two."), article("T", "Three."), article(None, "Four.")]
    made = documents("dev.json", json.dumps({"data": data}))
    assert [one.id for one in made] == ["dev.json#1", "T#1", "T#2", "dev.json#2"]


def test_a_broken_paragraph_is_told_and_the_others_are_read(documents, tmp_path):
    data = [article("T", "One.", 5, "Two."), {"title": "U", "paragraphs": 1}, {"title": 1, "paragraphs": []}]
    told = []
    made = documents("dev.json", json.dumps({"data": data}), told)
    assert [one.id for one in made] == ["T#1", "T#3"]
    assert told == [
        f"{tmp_path}/dev.json: data[0].paragraphs[1].context: expected a string, got an integer (5)",
        f"{tmp_path}/dev.json: data[1].paragraphs: expected a list, got an integer (1)",
        f"{tmp_path}/dev.json: data[2].title: expected a string, got an integer (1)",
    ]


def test_the_development_set_is_its_paragraphs(root):
    (source,) = find_sources([root / "tests" / "data" / "squad" / "dev-v2.0.json.gz"], pytest.fail)
    made = list(read_documents(source, pytest.fail))
    assert len(made) == len({one.id for one in made}) == 1204
