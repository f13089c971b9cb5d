"""JSON files of any size, read a value at a time: UTF-8, plain or gzipped, with the place of every fault."""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spanqa.errors import DataError

_CHUNK_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_LOOKAHEAD = 16
"""Characters that settle where a token ends; the longest that can be cut in two is `-Infinity`."""
_WHITE_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def read_json(path: str | Path) -> Any:
    """Parse a UTF-8 JSON file, plain or gzipped.

    Raises:
        DataError: Naming the file and the place in it that cannot be read.
    """
    path = Path(path)
    text = "".join(text_chunks(path))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise data_error_from_json(path, error, place) from error


def data_error_from_json(path: Path, error: ValueError | RecursionError, place: str) -> DataError:
    """Say in one line what the standard library says about a file's JSON.

    Args:
        path: The file.
        error: What `json` raised.
        place: Where in the file; empty where that is unknown.
    """
    where = f"{path}: {place}" if place else str(path)
    if isinstance(error, RecursionError):
        return DataError(f"{where}: not a dataset: its JSON is nested too deeply", place=where)
    problem = error.msg if isinstance(error, json.JSONDecodeError) else error
    return DataError(f"{where}: not valid JSON: {problem}", place=where)


def text_chunks(path: Path) -> Iterator[str]:
    """Decode a file piece by piece, without its byte order mark.

    Raises:
        DataError: It cannot be opened, is damaged, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    mark = "\ufeff"
    n_bytes = 0
    for raw in byte_chunks(path):
        # The decoder still holds the first bytes of a character that the last chunk cut in two.
        decoded_from = n_bytes - len(decoder.getstate()[0])
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: byte {decoded_from + error.start} is not UTF-8 ({error.object[error.start]:#04x}): "
                "convert the file to UTF-8 first"
            ) from error
        n_bytes += len(raw)
        if text:
            yield text.removeprefix(mark)
            mark = ""


def byte_chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked where it is gzipped; an empty chunk marks its end.

    Raises:
        DataError: It cannot be opened, or is damaged.
    """
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == _GZIP_MAGIC
            source = gzip.GzipFile(fileobj=file) if packed else file
            raw = b"-"
            while raw:
                raw = source.read(_CHUNK_BYTES)
                yield raw
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


class JsonStream:
    """Reads one JSON document from left to right, holding no more of it than the value that is being read.

    What is wrong with it is said in the words of the standard library, with the same line and column.

    Args:
        path: The file, for its name in errors.
        chunks: Its text, in pieces of any size.
    """

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self._path = path
        self._chunks = chunks
        self._text, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of the first character of _text

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            match = _WHITE_SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._grow()

    def value(self) -> Any:
        """Read the next value whole.

        Raises:
            DataError: It is not JSON.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or self._is_certain(error):
                    raise self._fault(error) from error
            except (ValueError, RecursionError) as error:
                raise self._fault(error) from error
            else:
                if self._ended or end + _LOOKAHEAD <= len(self._text):
                    self._at = end
                    return value
            self._grow()

    def items(self) -> Iterator[int]:
        """Walk a list: gives the index of each element, which the caller then reads.

        Raises:
            DataError: It is not JSON.
        """
        self._at += 1
        if self.peek() == "]":
            self._at += 1
            return
        for index in itertools.count():
            yield index
            if not self._another("]"):
                return

    def members(self) -> Iterator[str]:
        """Walk an object: gives each key; the caller then reads its value.

        Raises:
            DataError: It is not JSON.
        """
        self._at += 1
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            self._expect('"', "Expecting property name enclosed in double quotes")
            key = self.value()
            self._expect(":", "Expecting ':' delimiter")
            self._at += 1
            yield key
            if not self._another("}"):
                return

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            DataError: Something does.
        """
        self._expect("", "Extra data")

    def _another(self, closing: str) -> bool:
        """Step over the comma before another element, or over the closing bracket."""
        char = self.peek()
        if char != closing:
            self._expect(",", "Expecting ',' delimiter")
        self._at += 1
        return char != closing

    def _expect(self, char: str, problem: str) -> None:
        if self.peek() != char:
            raise self._fault(json.JSONDecodeError(problem, self._text, self._at))

    def _is_certain(self, error: json.JSONDecodeError) -> bool:
        """Whether more text could not mend it."""
        return error.pos < len(self._text) - _LOOKAHEAD and not error.msg.startswith("Unterminated string")

    def _fault(self, error: ValueError | RecursionError) -> DataError:
        # A file that is damaged or in another encoding says so rather than that its JSON is broken.
        for _ in self._chunks:
            pass
        place = ""
        if isinstance(error, json.JSONDecodeError):
            line, column = self._place(error.pos)
            place = f"line {line} column {column}"
        return data_error_from_json(self._path, error, place)

    def _grow(self) -> None:
        """Let go of what is read, and take in more."""
        self._line, self._column = self._place(self._at)
        parts = [self._text[self._at :]]
        n_wanted = len(parts[0])
        # As much again as is kept: a long value is scanned a few times, not once for each chunk.
        for chunk in self._chunks:
            parts.append(chunk)
            n_wanted -= len(chunk)
            if n_wanted <= 0:
                break
        else:
            self._ended = True
        self._text, self._at = "".join(parts), 0

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of a character of _text, counted from 1."""
        newline = self._text.rfind("\n", 0, at)
        column = self._column + at if newline < 0 else at - newline
        return self._line + self._text.count("\n", 0, at), column
