"""One way to open a dataset: the same questions from every format, plain or gzipped, ids and titles as people write."""

import errno
import gzip
import json
import os
import resource
import signal
import sys

import pytest

from spanqa.datasets import iter_placed_dataset, read_dataset
from spanqa.errors import DataError, SpanqaError
from spanqa.examples import GoldAnswer

CONTEXT = "The bridge was built in 1907 and widened in 1950."
QUESTIONS = [
    (1, "When was it built?", [("1907", 24)]),
    (2, "Who built it?", []),
    (3, "When was it widened?", [("1950", 44), ("in 1950", 41)]),
]


def columns(answers):
    return {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}


def objects(answers):
    return [{"text": text, "answer_start": start} for text, start in answers]


def rows(form):
    return [
        {"id": id_, "title": None, "context": CONTEXT, "question": question, "answers": form(answers)}
        for id_, question, answers in QUESTIONS
    ]


def squad():
    qas = [{"id": id_, "question": question, "answers": objects(answers)} for id_, question, answers in QUESTIONS]
    return {"data": [{"title": None, "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}


def parquet(path):
    import pyarrow
    from pyarrow import parquet as file

    file.write_table(pyarrow.Table.from_pylist(rows(columns)), path)


def json_lines(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(columns)), encoding="utf-8")


def written_json(make):
    return lambda path: path.write_text(json.dumps(make(), indent=1), encoding="utf-8")


FORMATS = {
    "SQuAD": written_json(squad),
    "rows under data": written_json(lambda: {"data": rows(columns)}),
    "a list of rows": written_json(lambda: rows(columns)),
    "a list of rows whose answers are objects": written_json(lambda: rows(objects)),
    "JSON Lines": json_lines,
    "Parquet": parquet,
}


@pytest.fixture(params=FORMATS)
def dataset(request, tmp_path):
    path = tmp_path / "questions"  # no suffix: what is in a file decides
    FORMATS[request.param](path)
    return path


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_every_format_gives_the_same_questions(dataset, packed):
    if packed:
        dataset.write_bytes(gzip.compress(dataset.read_bytes()))
    examples = read_dataset(dataset)
    assert [example.id for example in examples] == ["1", "2", "3"]
    assert [example.question for example in examples] == [question for _, question, _ in QUESTIONS]
    assert {(example.context, example.title, example.paragraph) for example in examples} == {(CONTEXT, "", 0)}
    assert [example.answers for example in examples] == [
        tuple(GoldAnswer(text, start) for text, start in answers) for _, _, answers in QUESTIONS
    ]


@pytest.mark.parametrize("name", ["integer_ids", "null_title", "rows_under_data", "rows_list"])
def test_shapes_that_annotation_tools_write_are_read(name, root):
    assert read_dataset(root / "tests" / "data" / "shapes" / f"{name}.json")


def test_the_same_id_as_a_number_and_as_a_text_stands_twice(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({**row, "id": id_}) + "\n" for row, id_ in zip(rows(columns), (7, "7"), strict=False))
    )
    with pytest.raises(DataError, match=r"line 2: id: '7' is also the id of line 1: ids must differ"):
        read_dataset(path)
    assert len([place for place, _ in iter_placed_dataset(path, check_ids=False)]) == 2


def test_an_answer_that_stands_elsewhere_may_be_mended(tmp_path):
    path = tmp_path / "questions.json"
    document = squad()
    first, _, third = document["data"][0]["paragraphs"][0]["qas"]
    first["answers"][0]["answer_start"] = 3
    del third["answers"][0]["answer_start"]
    path.write_text(json.dumps(document))
    told = []

    def mend(context, text, start):
        told.append((text, start))
        return GoldAnswer(text, context.index(text))

    examples = [example for _, example in iter_placed_dataset(path, mend=mend)]
    assert told == [("1907", 3), ("1950", -1)]
    assert examples[0].answers == (GoldAnswer("1907", 24),)
    with pytest.raises(DataError, match=r"qas\[0\].answers\[0\].answer_start: 3 holds ' bri"):
        read_dataset(path)


def test_where_the_library_of_parquet_is_missing_one_sentence_names_its_extra(tmp_path, monkeypatch):
    path = tmp_path / "questions.parquet"
    parquet(path)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        SpanqaError, match=r"questions.parquet: Parquet is read by pyarrow, .* pip install 'spanqa\[parquet\]'"
    ):
        read_dataset(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_a_pipe_is_read_once(pack):
    reader, writer = os.pipe()
    os.write(writer, pack(json.dumps(squad()).encode()))
    os.close(writer)
    try:
        assert [example.id for example in read_dataset(f"/dev/fd/{reader}")] == ["1", "2", "3"]
    finally:
        os.close(reader)


def test_a_full_disk_is_no_fault_of_a_gzipped_dataset(tmp_path):
    path = tmp_path / "questions.parquet.gz"
    parquet(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            read_dataset(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG


def test_an_answer_in_columns_may_lack_its_own_offset_where_it_is_mended(tmp_path):
    path = tmp_path / "rows.json"
    first = rows(columns)[0]
    path.write_text(json.dumps([{**first, "answers": {"text": ["1907"], "answer_start": [None]}}]))
    with pytest.raises(DataError, match=r"answer_start\[0\]: expected an integer, got null"):
        read_dataset(path)
    mended = iter_placed_dataset(path, mend=lambda context, text, _: GoldAnswer(text, context.index(text)))
    assert [example.answers for _, example in mended] == [(GoldAnswer("1907", 24),)]
