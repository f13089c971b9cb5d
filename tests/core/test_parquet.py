"""Parquet files give the examples that the same rows give as JSON Lines; a broken row is named."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from spanqa.datasets import iter_dataset, iter_placed_dataset, read_dataset
from spanqa.errors import DataError
from spanqa.squad import GoldAnswer

ROW = {
    "id": "q1",
    "title": "Bridges",
    "context": "The bridge 🌉 was built in 1907.",
    "question": "When was it built?",
    "answers": {"text": ["1907"], "answer_start": [26]},
}


def rows_from(examples):
    return [
        {
            "id": example.id,
            "title": example.title,
            "context": example.context,
            "question": example.question,
            "answers": {
                "text": [answer.text for answer in example.answers],
                "answer_start": [answer.char_start for answer in example.answers],
            },
        }
        for example in examples
    ]


@pytest.fixture
def written(tmp_path):
    """Writes rows as a Parquet file."""

    def write(rows, schema=None, **options):
        path = tmp_path / "rows.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path, **options)
        return path

    return write


def assert_one_defect(path, message):
    with pytest.raises(DataError) as caught:
        list(iter_dataset(path))
    assert str(caught.value) == f"{path}: {message}"


def test_real_questions_are_the_same_from_every_format(written, tmp_path, real_questions):
    rows = rows_from(real_questions)
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = written(rows, row_group_size=30)
    assert list(iter_dataset(path)) == list(iter_dataset(lines)) == real_questions
    assert [place for place, _ in iter_placed_dataset(path)][-1] == f"row {len(rows) - 1}"


def test_narrow_integers_large_strings_and_other_columns_are_no_fault(written):
    schema = pyarrow.schema(
        {
            "extra": pyarrow.int8(),
            "id": pyarrow.large_string(),
            "title": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
            "context": pyarrow.large_string(),
            "question": pyarrow.string(),
            "answers": pyarrow.struct(
                {"text": pyarrow.list_(pyarrow.string()), "answer_start": pyarrow.large_list(pyarrow.int32())}
            ),
        }
    )
    (example,) = iter_dataset(written([{"extra": 1, **ROW}], schema))
    assert example.answers == (GoldAnswer("1907", 26),)
    assert example.title == "Bridges"


def test_a_title_may_be_null_or_missing(written):
    (example,) = iter_dataset(written([{**ROW, "title": None}]))
    assert example.title == ""
    del (row := dict(ROW))["title"]
    assert next(iter_dataset(written([row]))).title == ""


def test_answers_may_be_missing_where_they_are_not_needed(written):
    del (row := dict(ROW))["answers"]
    path = written([row])
    assert_one_defect(path, "column answers: missing; keys here: 'id', 'title', 'context', 'question'")
    (example,) = iter_dataset(path, require_answers=False)
    assert example.answers == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 1.5}, "row 0: id: expected a string, got float (1.5)"),
        ({"context": None}, "row 0: context: expected a string, got null"),
        ({"question": b"raw"}, "row 0: question: expected a string, got bytes (b'raw')"),
        ({"question": " "}, "row 0: question: is empty"),
        ({"answers": None}, "row 0: answers: expected an object, got null"),
        ({"answers": ["1907"]}, 'row 0: answers[0]: expected an object, got a string ("1907")'),
        ({"answers": {"text": ["1907"]}}, "row 0: answers.answer_start: missing; keys here: 'text'"),
        (
            {"answers": {"text": ["1907"], "answer_start": [26.0]}},
            "row 0: answers.answer_start[0]: expected an integer, got float (26.0)",
        ),
        (
            {"answers": {"text": ["1907"], "answer_start": [27]}},
            "row 0: answers.answer_start[0]: 27 holds '907.', not the answer '1907': it stands at 26",
        ),
        (
            {"answers": {"text": ["1907", "x"], "answer_start": [26]}},
            "row 0: answers: has 2 in text and 1 in answer_start: each text needs its own answer_start",
        ),
    ],
)
def test_a_broken_row_is_named(written, changes, message):
    assert_one_defect(written([{**ROW, **changes}]), message)


def test_reading_goes_on_behind_a_broken_row(written):
    path = written([{**ROW, "id": None}, ROW, {**ROW, "question": ""}, {**ROW, "id": "q4"}, ROW], row_group_size=2)
    defects = []
    examples = list(iter_dataset(path, on_defect=defects.append))
    assert [example.id for example in examples] == ["q1", "q4", "q1"]
    assert [str(defect).removeprefix(f"{path}: ") for defect in defects] == [
        "row 0: id: expected a string, got null",
        "row 2: question: is empty",
        "row 4: id: 'q1' is also the id of row 1: ids must differ",
    ]


@pytest.mark.parametrize("column", ["id", "context", "question"])
def test_a_missing_column_is_one_defect_of_the_file(written, column):
    rows = [{key: value for key, value in ROW.items() if key != column}] * 3
    defects = []
    path = written(rows)
    assert list(iter_dataset(path, on_defect=defects.append)) == []
    (defect,) = defects
    assert str(defect).startswith(f"{path}: column {column}: missing; keys here: ")


def test_a_file_without_rows_is_refused(written):
    path = written([], pyarrow.Table.from_pylist([ROW]).schema)
    assert_one_defect(path, "holds no question: expected data[].paragraphs[].qas[], or one row a question")


def test_what_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    assert_one_defect(path, "no such file")
    path.write_text('{"data": []}')
    with pytest.raises(DataError) as caught:
        list(iter_dataset(path))
    assert str(caught.value).startswith(f"{path}: row 0: cannot be read as Parquet: Parquet magic bytes not found")
    assert "\n" not in str(caught.value)


def test_damaged_bytes_never_go_unnoticed_where_the_file_holds_checksums(written, real_questions):
    path = written(rows_from(real_questions), row_group_size=50, write_page_checksum=True)
    data = path.read_bytes()
    n_noticed = 0
    for place in range(4, len(data) // 2, 499):
        path.write_bytes(data[:place] + bytes(255 - byte for byte in data[place : place + 64]) + data[place + 64 :])
        told = []
        examples = list(iter_dataset(path, on_defect=told.append))
        if told:
            (defect,) = told
            assert str(defect).startswith(f"{path}: row ")
            assert "\n" not in str(defect)
            n_noticed += 1
        else:  # bytes that say nothing about the content, such as the bounds of a page
            assert examples == real_questions
    assert n_noticed > 50


def test_a_truncated_file_is_refused(written):
    path = written([ROW])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(iter_dataset(path))


def test_a_row_group_is_not_held_whole(written):
    contexts = [f"{number} " * 400 for number in range(10_000, 30_000)]
    rows = [{**ROW, "id": text[:5], "context": text, "answers": {"text": [], "answer_start": []}} for text in contexts]
    path = written(rows, compression="none", use_dictionary=False)
    assert path.stat().st_size > 40_000_000
    del rows, contexts
    before = pyarrow.total_allocated_bytes()
    held = [pyarrow.total_allocated_bytes() - before for _ in iter_dataset(path)]
    assert len(held) == 20_000
    assert max(held) < 12_000_000


def test_parquet_is_known_by_its_suffix_in_any_case_of_letters(tmp_path, real_questions, root):
    path = tmp_path / "data.PARQUET"
    parquet.write_table(pyarrow.Table.from_pylist(rows_from(real_questions)), path)
    assert list(iter_dataset(path)) == read_dataset(root / "data" / "heldout200.json")
