"""JSON Lines in Hugging Face's columns are read like SQuAD files; a broken line is named, and the rest is read."""

import gzip
import json

import pytest

from spanqa.datasets import iter_dataset, iter_placed_dataset, read_dataset
from spanqa.errors import DataError
from spanqa.squad import GoldAnswer

ROW = {
    "id": "q1",
    "title": "Bridges",
    "context": "The bridge 🌉 was built in 1907.",
    "question": "When was it built?",
    "answers": {"text": ["1907", "in 1907"], "answer_start": [26, 23]},
}
UNANSWERABLE = {**ROW, "id": "q2", "question": "Who painted it?", "answers": {"text": [], "answer_start": []}}
OTHER = {**ROW, "id": "q3", "context": "Two people live there.", "answers": {"text": ["Two"], "answer_start": [0]}}


@pytest.fixture
def written(tmp_path):
    """Writes rows, or text, as lines of a file."""

    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        data = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.ndjson", "rows.jsonl.gz", "ROWS.JSONL", "rows.json", "rows", "rows.json.gz"]
)
def test_rows_are_known_by_the_suffix_or_by_the_first_line(written, name):
    first, second, third = read_dataset(written(ROW, UNANSWERABLE, OTHER, name=name))
    assert (first.id, first.title, first.question) == ("q1", "Bridges", "When was it built?")
    assert first.answers == (GoldAnswer("1907", 26), GoldAnswer("in 1907", 23))
    assert second.answers == ()
    assert [example.paragraph for example in (first, second, third)] == [0, 0, 1]


def test_rows_that_come_back_to_a_context_begin_a_paragraph(written):
    examples = read_dataset(written(ROW, OTHER, {**ROW, "id": "q4"}))
    assert [example.paragraph for example in examples] == [0, 1, 2]


def test_a_squad_file_of_one_line_is_no_file_of_rows(written):
    paragraph = {"context": "x", "qas": [{"id": "q", "question": "what?", "answers": []}]}
    assert len(read_dataset(written({"data": [{"paragraphs": [paragraph]}]}, name="one-line.json"))) == 1


def test_blank_lines_other_line_ends_and_a_missing_last_one_are_no_fault(written):
    path = written("", json.dumps(ROW) + "\r", "  ", json.dumps(OTHER))
    path.write_bytes(path.read_bytes()[:-1])
    assert [(place, example.id) for place, example in iter_placed_dataset(path)] == [
        ("line 2", "q1"),
        ("line 4", "q3"),
    ]


def test_separators_of_unicode_inside_a_text_end_no_line(written):
    row = {**ROW, "context": "one\u2028two\u0085three\x0b", "answers": {"text": [], "answer_start": []}}
    path = written(json.dumps(row, ensure_ascii=False).replace("\x0b", "\\u000b"))
    assert read_dataset(path)[0].context == row["context"]


def test_a_row_may_lack_its_title_and_its_answers_where_they_are_not_needed(written):
    row = {key: value for key, value in ROW.items() if key not in ("title", "answers")}
    path = written(row, {**row, "id": "q2", "title": None, "answers": None})
    examples = list(iter_dataset(path, require_answers=False))
    assert [(example.title, example.answers) for example in examples] == [("", ()), ("", ())]


BROKEN = [
    ('{"id": "q1"; }', "line 2 column 12: not valid JSON: Expecting ',' delimiter"),
    ('{"id": "q1"', "line 2 column 12: not valid JSON: Expecting ',' delimiter"),
    ("[" * 100_000, "line 2: not a dataset: its JSON is nested too deeply"),
    ("[1]", "line 2: expected an object, got a list ([1])"),
    ({"id": "q"}, "line 2: context: missing; keys here: 'id'"),
    ({**ROW, "context": 1}, "line 2: context: expected a string, got an integer (1)"),
    ({**ROW, "id": True}, "line 2: id: expected a string, got true or false (true)"),
    ({**ROW, "title": []}, "line 2: title: expected a string, got a list ([])"),
    ({**ROW, "question": "\t"}, "line 2: question: is empty"),
    (
        {**ROW, "question": "a\ud83c"},
        "line 2: question: character 1 is half of a surrogate pair, which no text may hold: fix the escape",
    ),
    ({**ROW, "answers": None}, "line 2: answers: expected an object, got null"),
    ({**ROW, "answers": "1907"}, 'line 2: answers: expected an object, got a string ("1907")'),
    ({**ROW, "answers": {"text": []}}, "line 2: answers.answer_start: missing; keys here: 'text'"),
    (
        {**ROW, "answers": {"text": "1907", "answer_start": [26]}},
        'line 2: answers.text: expected a list, got a string ("1907")',
    ),
    (
        {**ROW, "answers": {"text": ["1907"], "answer_start": []}},
        "line 2: answers: has 1 in text and 0 in answer_start: each text needs its own answer_start",
    ),
    (
        {**ROW, "answers": {"text": ["1907"], "answer_start": ["26"]}},
        'line 2: answers.answer_start[0]: expected an integer, got a string ("26")',
    ),
    (
        {**ROW, "answers": {"text": ["1907", "1907"], "answer_start": [26, 27]}},
        "line 2: answers.answer_start[1]: 27 holds '907.', not the answer '1907': it stands at 26",
    ),
    (
        {**ROW, "answers": {"text": [""], "answer_start": [0]}},
        "line 2: answers.text[0]: is empty: an unanswerable question has an empty list of answers",
    ),
    ({**ROW, "is_impossible": True}, "line 2: is_impossible: is true, yet answers are given: correct one of the two"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_line_is_named_and_the_lines_around_it_are_read(written, line, message):
    path = written({**ROW, "id": "before"}, line, {**OTHER, "id": "behind"})
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert str(caught.value) == f"{path}: {message}"
    defects = []
    examples = list(iter_dataset(path, on_defect=defects.append))
    assert [example.id for example in examples] == ["before", "behind"]
    assert list(map(str, defects)) == [f"{path}: {message}"]


def test_an_id_used_twice_names_both_lines(written):
    path = written(ROW, UNANSWERABLE, {**OTHER, "id": "q1"})
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert str(caught.value) == f"{path}: line 3: id: 'q1' is also the id of line 1: ids must differ"


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_any_row_is_refused(written, text):
    with pytest.raises(DataError, match="holds no question"):
        read_dataset(written(text))


@pytest.mark.parametrize("n_chars", [1 << 16, 1 << 19])
def test_rows_with_a_long_first_line_need_no_suffix(tmp_path, n_chars):
    path = tmp_path / "rows.txt"
    rows = [{**ROW, "context": ROW["context"] + "x" * n_chars}, {**OTHER, "id": "q2"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [example.id for example in read_dataset(path)] == ["q1", "q2"]


def test_a_squad_file_on_one_long_line_is_no_rows(tmp_path):
    path = tmp_path / "squad.txt"
    question = {"id": "q1", "question": "who", "answers": []}
    data = [{"title": "one", "paragraphs": [{"context": "word " * 200_000, "qas": [question]}]}]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    assert [example.id for example in read_dataset(path)] == ["q1"]
