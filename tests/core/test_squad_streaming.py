"""A file is read a paragraph at a time: every defect is told, and the good questions around it are given."""

import gzip
import itertools
import json
import tracemalloc
from pathlib import Path

import pytest

from spanqa import json_stream
from spanqa.datasets import iter_dataset, iter_placed_dataset, read_dataset

DOCUMENT = json.loads((Path(__file__).parents[1] / "data" / "bridges.json").read_text(encoding="utf-8"))
CONTEXT = DOCUMENT["data"][0]["paragraphs"][0]["context"]


def defects_of(path, **options):
    """The examples of a file, and the part behind its name of every defect that is told."""
    defects = []
    examples = list(iter_dataset(path, on_defect=defects.append, **options))
    assert all(str(defect).startswith(f"{path}: ") for defect in defects)
    return examples, [str(defect).removeprefix(f"{path}: ") for defect in defects]


def test_every_defect_is_told_and_reading_goes_on_behind_it(written):
    good = DOCUMENT["data"][0]["paragraphs"][1]

    def question(**changes):
        return {"context": "Two", "qas": [{**good["qas"][0], "id": "x", **changes}]}

    document = {
        "data": [
            5,
            {"title": "no paragraphs"},
            {"title": 7, "paragraphs": [question(id="a")]},
            {"title": "", "paragraphs": {}},
            {
                "title": "",
                "paragraphs": [
                    [],
                    {"qas": []},
                    {"context": "x"},
                    {"context": "x", "qas": ["y"]},
                    question(question=" "),
                    question(id=None),
                    question(answers=[{"text": "Two", "answer_start": 1}, {"text": "One", "answer_start": 0}]),
                    question(is_impossible=True),
                    question(id="b"),
                    question(id="a"),
                    question(id="a"),
                ],
            },
        ]
    }
    examples, defects = defects_of(written(document))
    assert [example.id for example in examples] == ["a", "b", "a", "a"]
    assert [example.paragraph for example in examples] == [0, 9, 10, 11]
    assert examples[0].title == ""
    assert defects == [
        "data[0]: expected an object, got an integer (5)",
        "data[1].paragraphs: missing; keys here: 'title'",
        "data[2].title: expected a string, got an integer (7)",
        "data[3].paragraphs: expected a list, got an object ({})",
        "data[4].paragraphs[0]: expected an object, got a list ([])",
        "data[4].paragraphs[1].context: missing; keys here: 'qas'",
        "data[4].paragraphs[2].qas: missing; keys here: 'context'",
        'data[4].paragraphs[3].qas[0]: expected an object, got a string ("y")',
        "data[4].paragraphs[4].qas[0].question: is empty",
        "data[4].paragraphs[5].qas[0].id: expected a string, got null",
        "data[4].paragraphs[6].qas[0].answers[0].answer_start: 1 holds 'wo', not the answer 'Two': it stands at 0",
        "data[4].paragraphs[7].qas[0].is_impossible: is true, yet answers are given: correct one of the two",
        "data[4].paragraphs[9].qas[0].id: 'a' is also the id of data[2].paragraphs[0].qas[0]: ids must differ",
        "data[4].paragraphs[10].qas[0].id: 'a' is also the id of data[2].paragraphs[0].qas[0]: ids must differ",
    ]


def test_a_syntax_error_ends_the_reading_after_what_came_before_it(written):
    text = json.dumps(DOCUMENT).replace('"Two people', '"Two \n people')
    examples, defects = defects_of(written(text.encode()))
    assert [example.id for example in examples] == ["q1", "q2"]
    assert defects == [f"line 1 column {text.index(chr(10)) + 1}: not valid JSON: Invalid control character at"]


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"[]", "holds no question: expected data[].paragraphs[].qas[], or one row a question"),
        (b'{"data": {}}', "data: expected a list, got an object ({})"),
        (b'{"version": 1}', "data: missing; keys here: 'version'"),
        (b'{"data": []}', "holds no question: expected data[].paragraphs[].qas[], or one row a question"),
        (b'{"data": "\xff"}', "byte 10 is not UTF-8 (0xff): convert the file to UTF-8 first"),
        (
            gzip.compress(b"{}", mtime=0)[:-1],
            "cannot be read: Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_defect(written, content, defect):
    assert defects_of(written(content)) == ([], [defect])


def test_a_list_of_any_length_at_the_top_is_read_a_row_at_a_time(written):
    rows = [
        {"id": number, "question": "what?", "context": f"a context {number}", "answers": []} for number in range(12_000)
    ]
    path = written(json.dumps(rows).encode())

    def read():
        assert sum(1 for _ in iter_dataset(path)) == 12_000

    assert peak_bytes(read) < 2_000_000


def peak_bytes(action):
    """Most memory that Python's objects took during an action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_places_lead_to_the_questions(written):
    assert [(place, example.id) for place, example in iter_placed_dataset(written(DOCUMENT))] == [
        ("data[0].paragraphs[0].qas[0]", "q1"),
        ("data[0].paragraphs[0].qas[1]", "q2"),
        ("data[0].paragraphs[1].qas[0]", "q3"),
    ]


def test_a_file_is_read_with_the_memory_of_a_paragraph(written):
    paragraphs = (
        json.dumps(
            {"context": f"{CONTEXT} {number}" * 20, "qas": [{"id": str(number), "question": "When?", "answers": []}]}
        )
        for number in range(10_000)
    )
    path = written(b'{"data": [{"title": "", "paragraphs": [' + ",".join(paragraphs).encode() + b"]}]}")
    assert path.stat().st_size > 8_000_000
    ids = iter(range(10_000))

    def read():
        assert all(example.id == str(next(ids)) for example in iter_dataset(path))

    assert peak_bytes(read) < 2_000_000
    assert next(ids, None) is None


@pytest.mark.parametrize("size", [1, 64, 1 << 18])
def test_the_size_of_the_pieces_that_are_read_changes_nothing(written, monkeypatch, size):
    path = written(json.dumps(DOCUMENT, ensure_ascii=False, indent=1).encode())
    expected = read_dataset(path)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", size)
    assert read_dataset(path) == expected


def test_examples_come_before_the_file_is_read_to_its_end(written, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 64)
    path = written(json.dumps(DOCUMENT).encode()[:-3])
    assert [example.id for example in itertools.islice(iter_dataset(path), 2)] == ["q1", "q2"]
