"""A file that was cut off, damaged, or is no JSON in UTF-8 is refused in one sentence that says where the fault is."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.datasets import read_dataset
from spanqa.errors import DataError
from spanqa.squad import read_json

DOCUMENT = json.loads((Path(__file__).parents[1] / "data" / "bridges.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "line 1 column 1: not valid JSON"),
        (b'{"data": [\n{"title" 1}]}', "line 2 column 10: not valid JSON"),
        (b'{"data": []', "line 1 column 12: not valid JSON"),
        (b'{"data": []} {}', "line 1 column 14: not valid JSON: Extra data"),
    ],
)
def test_bad_json_names_line_and_column(written, content, place, tools):
    tools.assert_one_error(written(content), place)


def test_json_nested_too_deeply_is_refused(written, tools):
    deep = 200_000
    tools.assert_one_error(
        written(b'{"data": ' + b"[" * deep + b"]" * deep + b"}"), "not a dataset", "nested too deeply"
    )


def test_any_depth_of_nesting_gives_the_one_error(written):
    limit = sys.getrecursionlimit()
    for deep in range(limit - 150, limit + 20):
        path = written(b'{"data": {"a": ' + b"[" * deep + b"]" * deep + b"}}")
        with pytest.raises(DataError, match=r"data: expected a list|nested too deeply"):
            read_dataset(path)


def test_an_integer_too_long_for_python_is_refused(written, tools):
    tools.assert_one_error(written(b'{"data": ' + b"1" * 5000 + b"}"), "")


@pytest.mark.parametrize("cut", [3, 12, 40, -9, -1])
def test_a_truncated_gzip_is_refused(written, cut, tools):
    path = written(gzip.compress(json.dumps(DOCUMENT).encode())[:cut], "squad.json.gz")
    tools.assert_one_error(path, "cannot be read")


def test_a_gzip_with_a_damaged_byte_is_read_whole_or_refused(written):
    data = gzip.compress(json.dumps(DOCUMENT).encode(), mtime=0)
    n_refused = 0
    for place in range(2, len(data)):
        path = written(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :], "squad.json.gz")
        try:
            n_questions = len(read_dataset(path))
        except DataError:
            n_refused += 1
        else:  # a byte of the header that says nothing about the content
            assert n_questions == 3
    assert n_refused > len(data) - 12


def test_a_folder_and_a_missing_file_are_refused(tmp_path, tools):
    tools.assert_one_error(tmp_path, "cannot be read", "Is a directory")
    tools.assert_one_error(tmp_path / "none.json", "no such file")


SHORT = json.dumps(DOCUMENT, indent=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(place=st.integers(0, len(SHORT) - 1), wrong=st.sampled_from(list('{}[],:"\\ 0x')), cut=st.booleans())
def test_json_that_is_broken_anywhere_is_refused_in_the_same_words_as_when_read_whole(
    tmp_path_factory, place, wrong, cut
):
    path = tmp_path_factory.getbasetemp() / "broken.json"
    path.write_text(SHORT[:place] + ("" if cut else wrong + SHORT[place + 1 :]))
    whole, streamed = (failure(read, path) for read in (read_json, read_dataset))
    if "not valid JSON" in streamed:
        assert streamed == whole
    elif whole:  # what stands before the syntax error is wrong already
        assert streamed.startswith((f"{path}: data", f"{path}: top level", f"{path}: ["))


def failure(read, path):
    try:
        read(path)
    except DataError as error:
        return str(error)
    return ""
