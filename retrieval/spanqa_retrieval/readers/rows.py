"""Files of many documents: JSON Lines, Parquet and JSON with one a row, and SQuAD files with one a paragraph."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from spanqa.errors import DataError
from spanqa.examples import checked_id, checked_title
from spanqa.json_fields import Fields, join, shortened
from spanqa.json_stream import JsonStream, text_chunks
from spanqa.jsonl import rows_from_lines
from spanqa_retrieval.document import Document, Scalar
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.readers.parquet_rows import rows_from_parquet
from spanqa_retrieval.sources import Source

LONGEST_ROW = 32 << 20
"""Characters of a row or an article: it is held whole."""
LONGEST_METADATA = 1000
"""Characters of a value of metadata: every passage carries it."""
MOST_FIELDS = 1000
"""Of an object that is a row by itself."""
_TOP = "top level"
_OWN_FIELDS = ("id", "title", "text")

OnDefect = Callable[[str], None]
"""Is told of a row that is left out."""
Placed = tuple[str, Any]
"""A row or an article, after its place in the file."""


def read_rows(source: Source, on_defect: OnDefect) -> Iterator[Document]:
    """Read the documents of a file of rows, holding one at a time.

    A row has a `text`, perhaps an `id` and a `title`; what else it has, and is no list or object, is metadata. A
    paragraph of a SQuAD file is a document where its context is another than those before.

    Args:
        source: The file: JSON Lines, Parquet or JSON, plain or gzipped.
        on_defect: Is told of what is left out; reading goes on.

    Raises:
        SourceError: It holds no document, or a row that is too long.
        DataError: It is damaged or of another format.
    """
    found = _Rows(source, on_defect)
    if source.kind == "parquet":
        rows = rows_from_parquet(source.path)
    elif source.kind == "json lines":
        rows = _lines(source.path, text_chunks(source.path), on_defect)
    else:
        rows = _json_rows(source.path, on_defect)
    is_empty = True
    for place, row in rows:
        for document in found.documents(place, row):
            is_empty = False
            yield document
    if is_empty:
        raise SourceError(
            f"{source.path}: holds no text: give rows with `text`, or SQuAD's data[].paragraphs[].context"
        )


class _Rows:
    """Makes documents of rows and articles.

    Args:
        source: The file.
        on_defect: Is told of what is left out.
    """

    def __init__(self, source: Source, on_defect: OnDefect) -> None:
        self._source, self._on_defect = source, on_defect
        self._fields = Fields(source.path)
        self._paragraphs: Counter[str] = Counter()
        self._contexts: set[bytes] = set()
        self._told: set[str] = set()

    def documents(self, place: str, row: Any) -> Iterator[Document]:
        """Give the documents of a row, which is one, or of an article."""
        try:
            if isinstance(row, dict) and "paragraphs" in row:
                yield from self._of_article(place, row)
            else:
                yield self._of_row(place, row)
        except DataError as defect:
            self._on_defect(str(defect))

    def _of_row(self, place: str, row: Any) -> Document:
        text = self._fields.get(row, place, "text", str)
        if not text or text.isspace():
            raise self._fields.fail(join(place, "text"), "is empty")
        has_id = row.get("id") not in (None, "")
        at = f"{self._source.name}#{place}" if place != _TOP else self._source.name
        return Document(
            id=checked_id(self._fields, row, place) if has_id else at,
            text=text,
            title=checked_title(self._fields, row, place),
            metadata=dict(self._metadata(place, row)),
        )

    def _metadata(self, place: str, row: dict[str, Any]) -> Iterator[tuple[str, Scalar]]:
        for key, value in row.items():
            if key in _OWN_FIELDS or not _is_scalar(value):
                continue
            self._fields.checked(key, place, str)
            if not isinstance(value, str):
                yield key, value
            elif len(value) <= LONGEST_METADATA:
                yield key, self._fields.checked(value, join(place, key), str)
            elif key not in self._told:
                self._told.add(key)
                self._on_defect(
                    f"{self._fields.at(join(place, shortened(key)))} is longer than {LONGEST_METADATA:,} characters: "
                    "such values are left out of the metadata, here and in other rows"
                )

    def _of_article(self, place: str, article: dict[str, Any]) -> Iterator[Document]:
        title = checked_title(self._fields, article, place)
        name = title or self._source.name
        for at, paragraph in self._fields.each(article, place, "paragraphs"):
            self._paragraphs[name] += 1
            try:
                context = self._fields.get(paragraph, at, "context", str)
            except DataError as defect:
                self._on_defect(str(defect))
                continue
            digest = hashlib.blake2b(context.encode(), digest_size=16).digest()
            if digest not in self._contexts and context.strip():
                self._contexts.add(digest)
                number = self._paragraphs[name]
                metadata = {"source": self._source.name}
                yield Document(id=f"{name}#{number}", text=context, title=title, metadata=metadata)


def _lines(path: Path, chunks: Iterable[str], on_defect: OnDefect) -> Iterator[Placed]:
    return rows_from_lines(path, _with_short_lines(path, chunks), lambda defect: on_defect(str(defect)))


def _with_short_lines(path: Path, chunks: Iterable[str]) -> Iterator[str]:
    """Pass chunks on as long as no line of them is too long to be held."""
    length = 0
    for chunk in chunks:
        newline = chunk.rfind("\n")
        length = length + len(chunk) if newline < 0 else len(chunk) - newline - 1
        if length > LONGEST_ROW:
            raise _too_long(path)
        yield chunk


def _too_long(path: Path) -> SourceError:
    return SourceError(f"{path}: holds a row of more than {LONGEST_ROW:,} characters, the most that is read: split it")


class _BoundedStream(JsonStream):
    """Refuses a value that is too long to be held."""

    def _grow(self) -> None:
        super()._grow()
        if len(self._text) > 2 * LONGEST_ROW:
            raise _too_long(self._path)


def _json_rows(path: Path, on_defect: OnDefect) -> Iterator[Placed]:
    """Give rows and articles of a JSON file: of a list, of the list `data`, of its lines, or the one that it is."""
    chunks = text_chunks(path)
    head = next(chunks, "")
    chunks = itertools.chain((head,), chunks)
    if _is_lines(head):
        yield from _lines(path, chunks, on_defect)
        return
    stream, fields = _BoundedStream(path, chunks), Fields(path)
    if stream.peek() == "[":
        yield from ((f"[{index}]", stream.value()) for index in stream.items())
    elif stream.peek() == "{":
        yield from _members(stream, fields)
    else:
        fields.checked(stream.value(), _TOP, list)
    stream.end()


def _is_lines(head: str) -> bool:
    """Whether a JSON file holds a row a line, though its name does not say so."""
    line, _, rest = head.lstrip().partition("\n")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "text" in row and bool(rest.strip())


def _members(stream: JsonStream, fields: Fields) -> Iterator[Placed]:
    row: dict[str, Any] = {}
    has_data = False
    for key in stream.members():
        if key == "data" and stream.peek() == "[":
            has_data = True
            yield from ((f"data[{index}]", stream.value()) for index in stream.items())
            continue
        value = stream.value()
        # What stands beside `data` may be as long as the file.
        if key in _OWN_FIELDS or (len(row) < MOST_FIELDS and _is_scalar(value) and len(str(value)) <= LONGEST_METADATA):
            row[key] = value
    if has_data:
        return
    if "text" not in row:
        raise fields.missing("data or text", row)
    yield _TOP, row


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Scalar) and not (isinstance(value, float) and not math.isfinite(value))
