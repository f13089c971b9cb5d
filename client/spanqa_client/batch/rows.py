"""The rows of a batch, read from its inputs in one stream: each is to be answered, or settled as it is read."""

from __future__ import annotations

import itertools
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa.csv_rows import examples_from_csv, is_csv
from spanqa.errors import DataError
from spanqa.examples import Example, GoldAnswer, PlacedExample, Reading
from spanqa.json_fields import Fields, join, shortened
from spanqa.json_stream import byte_chunks, text_chunks
from spanqa.jsonl import RowReader, is_json_lines, rows_from_lines
from spanqa.squad import examples_from_json

NOT_READ = "what follows in the file was not read"
"""How the reason of a row ends that stands for the rest of a damaged file."""
_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_ROWS = 1000
_BUFFER_BYTES = 1 << 20
_FIRST_PLACES = 1 << 12
_CHUNK_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A question to be answered.

    Args:
        number: Its place over all inputs, counted from 0.
        id: Its id.
        question: The question.
        context: The text that may hold the answer; "" where an index is asked.
    """

    number: int
    id: str
    question: str
    context: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A row that is done with: answered, failed, or answered by an earlier run.

    Args:
        number: Its place over all inputs, counted from 0.
        id: Its id; "" where it has none that can be read.
        answer: The columns of its answer; None where it failed, or was answered earlier.
        reason: Why it failed; "" where it did not.
    """

    number: int
    id: str
    answer: dict[str, Any] | None = None
    reason: str = ""


class SeenIds:
    """Knows which ids it was given, in 12 to 24 bytes each: their hashes, each in the first free place from its own on.

    Two ids of a million share a hash of 64 bits once in forty million batches.
    """

    def __init__(self) -> None:
        self._places = array("q", bytes(8 * _FIRST_PLACES))
        self._n_ids = 0

    def add(self, row_id: str) -> bool:
        """Take note of an id, and say whether it is new."""
        if not self._put(hash(row_id) or 1):  # 0 is a free place
            return False
        self._n_ids += 1
        if 3 * self._n_ids > 2 * len(self._places):
            old, self._places = self._places, array("q", bytes(16 * len(self._places)))
            for key in old:
                if key:
                    self._put(key)
        return True

    def _put(self, key: int) -> bool:
        places, last = self._places, len(self._places) - 1
        at = key & last
        while there := places[at]:
            if there == key:
                return False
            at = (at + 1) & last
        places[at] = key
        return True


def read_rows(files: Sequence[Path], *, has_contexts: bool) -> Iterator[Row | Settled]:
    """Read inputs one after the other; what is broken is settled with its reason, and so is an id that stood before.

    Args:
        files: SQuAD JSON, JSON Lines or Parquet, plain or gzipped; answers in them are not looked at.
        has_contexts: Whether rows have contexts; else only their questions are read.

    Raises:
        DataError: A file cannot be read, or holds no question at all.
    """
    seen, numbers = SeenIds(), itertools.count()
    for file in files:
        for item in _items(file, has_contexts):
            number = next(numbers)
            if isinstance(item, DataError):
                yield Settled(number, item.question_id, reason=str(item))
            elif not seen.add(item.id):
                reason = f"{join(item.place, 'id')}: {shortened(item.id)} is the id of an earlier row: ids must differ"
                yield Settled(number, item.id, reason=reason)
            else:
                yield Row(number, item.id, item.question, item.context if has_contexts else "")


def check_inputs(files: Sequence[Path], *, has_contexts: bool) -> None:
    """Look at the beginning of every input, before much is done with the first.

    Raises:
        DataError: As `read_rows`.
    """
    for file in files:
        next(_items(file, has_contexts))


def chunked(rows: Iterable[Row], most_rows: int) -> Iterator[list[Row]]:
    """Cut rows into chunks that are answered at once: of so many rows, or of fewer where their texts are long."""
    chunk: list[Row] = []
    n_chars = 0
    for row in rows:
        chunk.append(row)
        n_chars += len(row.question) + len(row.context)
        if len(chunk) >= most_rows or n_chars >= _CHUNK_CHARS:
            yield chunk
            chunk, n_chars = [], 0
    if chunk:
        yield chunk


def _items(file: Path, has_contexts: bool) -> Iterator[Example | DataError]:
    """Examples and defects in the order of the file."""
    defects: list[DataError] = []
    reading = Reading(fields=Fields(file), report=defects.append, require_answers=False, mend=_as_it_is)
    n_items = 0
    try:
        for placed in _examples(file, reading, has_contexts):
            n_items += len(defects) + (placed is not None)
            yield from defects
            defects.clear()
            if placed:
                yield placed[1]
    except DataError as error:
        if not n_items and not defects:
            raise
        defects.append(DataError(f"{error}: {NOT_READ}"))
    yield from defects
    if not n_items and not defects:
        raise DataError(f"{file}: holds no question: expected rows with id, question and context, or SQuAD's JSON")


def _as_it_is(_context: str, text: str, _start: int) -> GoldAnswer:
    """Let an answer stand wherever it says: a batch has its own."""
    return GoldAnswer(text, 0)


def _examples(file: Path, reading: Reading, has_contexts: bool) -> Iterator[PlacedExample | None]:
    """The examples of a file; None where defects were reported instead, that they need not wait for the next one."""
    if is_csv(file):
        if not has_contexts:
            raise DataError(f"{file}: CSV is read with contexts: for a collection give JSON Lines or Parquet")
        return examples_from_csv(file, reading)
    if next(byte_chunks(file)).startswith(_PARQUET_MAGIC):
        columns = ["id", "question", "context"] if has_contexts else ["id", "question"]
        return _examples_from_rows(_rows_from_parquet(file, reading.fields, columns), reading, has_contexts)
    chunks = text_chunks(file)
    head = next(chunks, "")
    if is_json_lines(file, head):
        rows = rows_from_lines(file, itertools.chain((head,), chunks), reading.report)
        return _examples_from_rows(rows, reading, has_contexts)
    return examples_from_json(file, reading)


def _examples_from_rows(
    rows: Iterable[tuple[str, Any]], reading: Reading, has_contexts: bool
) -> Iterator[PlacedExample | None]:
    reader = RowReader(reading)
    for place, row in rows:
        if isinstance(row, dict):
            # No row fails for what is not looked at.
            row = row | {key: None for key in ("answers", "title") if key in row}
            if not has_contexts:
                row["context"] = ""
        yield next(reader.examples(place, row), None)


def _rows_from_parquet(file: Path, fields: Fields, columns: list[str]) -> Iterator[tuple[str, Any]]:
    import pyarrow  # takes its time, and only such files need it
    from pyarrow import parquet

    number = 0
    try:
        # Without a buffer, or with reading ahead, all of a row group would be held.
        with (
            _unpacked(file) as plain,
            parquet.ParquetFile(plain, buffer_size=_BUFFER_BYTES, pre_buffer=False) as opened,
        ):
            names = opened.schema_arrow.names
            for name in columns:
                if name not in names:
                    raise fields.missing(f"column {name}", names)
            for batch in opened.iter_batches(_PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield f"row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise fields.fail(f"row {number}", f"cannot be read as Parquet: {' '.join(str(error).split())}") from error


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """A Parquet file without its gzip: it is read from its end, and cannot be unpacked on the way."""
    with file.open("rb") as opened:
        is_packed = opened.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    if not is_packed:
        yield file
        return
    with tempfile.NamedTemporaryFile(suffix=".parquet") as unpacked:
        for chunk in byte_chunks(file):
            unpacked.write(chunk)
        unpacked.flush()
        yield Path(unpacked.name)
