"""A JSON file read a value at a time gives what the standard library gives, its errors word for word."""

import gzip
import itertools
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa import json_stream
from spanqa.errors import DataError
from spanqa.json_stream import JsonStream, read_json, text_chunks

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def chunked(text, size):
    return (text[low : low + size] for low in range(0, len(text), size))


def walked(stream):
    """The next value, its lists and objects walked rather than read whole."""
    kind = stream.peek()
    if kind == "[":
        return [walked(stream) for _ in stream.items()]
    if kind == "{":
        return {key: walked(stream) for key in stream.members()}
    return stream.value()


def outcome(read):
    try:
        return read()
    except DataError as error:
        return str(error)


def streamed(tmp_path, text, size, read=walked):
    stream = JsonStream(tmp_path, chunked(text, size))
    value = read(stream)
    stream.end()
    return value


@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=values, layout=layouts, size=st.integers(1, 40))
def test_a_document_is_the_same_read_whole_or_walked_in_pieces_of_any_size(tmp_path_factory, value, layout, size):
    text = json.dumps(value, **layout)
    folder = tmp_path_factory.getbasetemp()
    assert streamed(folder, text, size) == json.loads(text)
    assert streamed(folder, text, size, JsonStream.value) == json.loads(text)


DOCUMENT = """ {"a": [1, -2.5e+3, "x\\ud83c\\udf09\\n", true, null, {}, []],
 "b c": {"d": [[ ], {"e": -Infinity}], "f": "" }, "g" : 1.5e-7
} """


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_document_cut_anywhere_fails_as_the_standard_library_does(tmp_path, size):
    path = tmp_path / "cut.json"
    n_failed = 0
    for cut in range(len(DOCUMENT)):
        text = DOCUMENT[:cut]
        path.write_text(text)
        expected = outcome(lambda: read_json(path))
        assert outcome(lambda: streamed(path, text, size)) == expected  # noqa: B023 called at once
        n_failed += isinstance(expected, str)
    assert n_failed == len(DOCUMENT.rstrip())


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("wrong", ["}", ",", ":", '"', "x", "\\", "1", "\x01"])
def test_a_document_with_a_wrong_character_anywhere_fails_as_the_standard_library_does(tmp_path, wrong, size):
    path = tmp_path / "wrong.json"
    for place in range(len(DOCUMENT)):
        text = DOCUMENT[:place] + wrong + DOCUMENT[place + 1 :]
        path.write_text(text)
        expected = outcome(lambda: read_json(path))
        assert outcome(lambda: streamed(path, text, size)) == expected  # noqa: B023 called at once


def test_what_follows_a_syntax_error_is_not_held(tmp_path):
    rest = (" " * 1000 for _ in range(10_000))
    stream = JsonStream(tmp_path, itertools.chain(['{"a": [1, 2]; '], rest))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="line 1 column 13: not valid JSON: Expecting ',' delimiter"):
            stream.value()
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert next(rest, None) is None


def test_a_long_value_is_not_scanned_once_for_each_chunk(tmp_path, monkeypatch):
    scanned = []

    class Decoder(json.JSONDecoder):
        def raw_decode(self, text, at=0):
            scanned.append(len(text) - at)
            return super().raw_decode(text, at)

    monkeypatch.setattr(json_stream, "_DECODER", Decoder())
    text = json.dumps("x" * 100_000)
    assert streamed(tmp_path, text, 100, JsonStream.value) == "x" * 100_000
    assert sum(scanned) < 4 * len(text)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 18])
def test_characters_cut_in_two_by_a_chunk_are_whole(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", size)
    path = tmp_path / "text.json"
    path.write_bytes(b"\xef\xbb\xbf" + "aé東🌉\ufeff".encode())
    assert "".join(text_chunks(path)) == "aé東🌉\ufeff"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 18])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "place", "byte"),
    [
        ("ab🌉".encode() + b"\xffcd", 6, "0xff"),
        (b"\xef\xbb\xbf" + "é".encode() + b"\xc3(", 5, "0xc3"),
        ("aé".encode()[:-1], 1, "0xc3"),
    ],
)
def test_the_first_byte_that_is_not_utf_8_is_named(tmp_path, monkeypatch, size, pack, content, place, byte):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", size)
    path = tmp_path / "text.json"
    path.write_bytes(pack(content))
    with pytest.raises(DataError) as caught:
        list(text_chunks(path))
    assert str(caught.value) == f"{path}: byte {place} is not UTF-8 ({byte}): convert the file to UTF-8 first"


def test_a_damaged_file_says_so_rather_than_that_its_json_is_broken(tmp_path):
    path = tmp_path / "damaged.json.gz"
    data = bytearray(gzip.compress(b'{"a": 1; "b": 2}'))
    data[-8] ^= 1  # of the checksum
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read: CRC check failed"):
        JsonStream(path, text_chunks(path)).value()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
