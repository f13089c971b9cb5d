"""What is read: every format, numbers as ids, and whatever is broken in its place."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from spanqa.errors import DataError
from spanqa_client.batch.rows import NOT_READ, Row, SeenIds, Settled, check_inputs, chunked, read_rows


def read(*paths, has_contexts=True):
    return list(read_rows(list(paths), has_contexts=has_contexts))


def test_every_format_is_read_plain_and_gzipped_with_numbers_as_ids(two_questions):
    first, second = read(two_questions)
    assert (first.number, first.id, first.question) == (0, "1", "When was the first bridge built?")
    assert (second.number, second.id) == (1, "2")
    assert first.context == second.context == "The first bridge was built in 1907 and widened in 1950."


def test_rows_need_no_answers_and_none_fails_for_those_that_it_has(write_lines, rows):
    strange = [None, [], "Paris", ["Paris"], {"text": ["nowhere"], "answer_start": [900]}, {"text": 3}]
    path = write_lines({**rows(number), "answers": answers, "title": 5} for number, answers in enumerate(strange))
    assert [item.id for item in read(path) if isinstance(item, Row)] == [f"q{number}" for number in range(6)]


def test_a_squad_file_may_have_answers_that_stand_elsewhere(tmp_path):
    qas = [{"id": "a", "question": "Who?", "answers": [{"text": "nobody", "answer_start": 3}]}]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "Some text.", "qas": qas}]}]}))
    assert read(path) == [Row(0, "a", "Who?", "Some text.")]


def test_what_is_broken_is_settled_in_its_place_with_its_reason(write_lines, rows):
    lines = [
        rows(0),
        "{not json",
        {**rows(2), "context": None},
        {"id": "q3", "question": "Where?"},
        {**rows(4), "id": 1.5},
        {**rows(5), "question": " "},
        '{"id": "\\ud800", "question": "Who?", "context": "text"}',
        "[]",
        rows(8),
    ]
    items = read(write_lines(lines))
    assert [item.number for item in items] == list(range(9))
    assert [isinstance(item, Row) for item in items] == [True, *[False] * 7, True]
    reasons = [item.reason for item in items if isinstance(item, Settled)]
    assert [item.id for item in items] == ["q0", "", "q2", "q3", "", "q5", "\\ud800", "", "q8"]
    for reason, said in zip(
        reasons,
        [
            "line 2 column 2: not valid JSON",
            "line 3: context: expected a string, got null",
            "line 4: context: missing; keys here: 'id', 'question'",
            "line 5: id: expected a string",
            "line 6: question: is empty",
            "line 7: id: character 0 is half of a surrogate pair",
            "line 8: expected an object, got a list",
        ],
        strict=True,
    ):
        assert said in reason


def test_an_id_that_stood_before_is_settled_whichever_file_it_is_in(write_lines, rows):
    first = write_lines([rows(0), rows(1), rows(0)], "a.jsonl")
    second = write_lines([{**rows(1), "id": 7}, {**rows(5), "id": "7"}, rows(1)], "b.jsonl")
    items = read(first, second)
    assert [(item.number, item.id) for item in items if isinstance(item, Settled)] == [(2, "q0"), (4, "7"), (5, "q1")]
    assert "b.jsonl: line 2: id: '7' is the id of an earlier row" in items[4].reason


def test_against_an_index_only_questions_are_read(tmp_path, write_lines):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2], "question": ["Who?", None], "other": [1, 2]}), path)
    assert read(path, has_contexts=False)[0] == Row(0, "1", "Who?", "")
    lines = write_lines([{"id": "a", "question": "Who?"}, {"id": "b", "question": "What?", "context": 5}])
    assert [item.context for item in read(lines, has_contexts=False)] == ["", ""]


def test_csv_is_read_with_its_contexts_alone(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('id,question,context\na,Who?,"Some, text."\n')
    assert read(path) == [Row(0, "a", "Who?", "Some, text.")]
    with pytest.raises(DataError, match=r"rows\.csv: CSV is read with contexts"):
        read(path, has_contexts=False)


def test_parquet_with_broken_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = {"id": ["a", None, "c"], "question": ["Who?", "Who?", "Who?"], "context": ["x", "y", None]}
    parquet.write_table(pyarrow.table(columns), path)
    assert [isinstance(item, Row) for item in read(path)] == [True, False, False]


def test_a_damaged_file_is_read_as_far_as_it_goes(tmp_path, write_lines, rows):
    whole = gzip.compress(write_lines(rows(number) for number in range(20_000)).read_bytes())
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(whole[: len(whole) // 2])
    items = read(damaged, write_lines([rows(30_000)], "other.jsonl"))
    ends = [place for place, item in enumerate(items) if isinstance(item, Settled)]
    assert ends == [len(items) - 2]
    assert len(items) > 1000
    assert items[-2].reason.endswith(NOT_READ)
    assert items[-1].id == "q30000"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "holds no question"),
        ("empty.json", b'{"data": []}', "holds no question"),
        ("table.csv", b"id,question\n1,Who?\n", "column context: missing"),
        ("notes.txt", b"Who is it?\n", "not valid JSON"),
        ("half.parquet", b"PAR1abc", "cannot be read as Parquet"),
        ("half.gz", gzip.compress(b"x" * 1000)[:20], "cannot be read"),
    ],
    ids=["no line", "no paragraph", "a column too few", "another format", "half of Parquet", "half of a gzip"],
)
def test_a_file_without_any_row_is_refused_before_the_first_one_is_read(
    tmp_path, write_lines, rows, name, content, said
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        check_inputs([write_lines([rows(1)], "good.jsonl"), path], has_contexts=True)


def test_a_parquet_file_without_contexts_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"id": ["a"], "question": ["Who?"], "text": ["x"]}), path)
    with pytest.raises(DataError, match="column context: missing; keys here: 'id', 'question', 'text'"):
        read(path)


def test_ids_are_known_again_however_many_there_are():
    seen = SeenIds()
    assert all(seen.add(f"id{number}") for number in range(20_000))
    assert not any(seen.add(f"id{number}") for number in range(20_000))
    assert seen.add("another")


def test_chunks_are_shorter_where_texts_are_long():
    short = [Row(number, str(number), "Who?", "text") for number in range(70)]
    assert [len(chunk) for chunk in chunked(short, 32)] == [32, 32, 6]
    long = [Row(number, str(number), "Who?", "x" * 600_000) for number in range(5)]
    assert [len(chunk) for chunk in chunked(long, 32)] == [2, 2, 1]
