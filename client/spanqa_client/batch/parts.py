"""The Parquet files of a batch: the answers of each block of input rows are in one file, whole or not there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from spanqa.errors import DataError
from spanqa_client.batch.rows import Row, Settled

UNFINISHED = ".new"
"""How the name of a file ends that is being written; it begins with a dot."""
_PLACE = [("char_start", pa.int32()), ("char_end", pa.int32())]
_SPAN = pa.struct([("text", pa.string()), ("score", pa.float32()), *_PLACE, ("logit", pa.float32())])
ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        *_SPAN,
        ("has_answer", pa.bool_()),
        ("no_answer_margin", pa.float32()),
        ("question_truncated", pa.bool_()),
        ("model_version", pa.string()),
        ("spans", pa.list_(_SPAN)),
    ]
)
"""Columns of answers from contexts; the numbers are float32, as they come over the wire."""
_FOUND = pa.struct(
    [
        ("document", pa.string()),
        ("title", pa.string()),
        ("page", pa.int32()),
        ("text", pa.string()),
        *_PLACE,
        ("sentence", pa.string()),
        ("sentence_start", pa.int32()),
        ("sentence_end", pa.int32()),
        ("score", pa.float64()),
        ("no_answer_margin", pa.float64()),
        ("retrieval_score", pa.float64()),
    ]
)
FOUND_ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("score", pa.float64()),
        *_PLACE,
        ("has_answer", pa.bool_()),
        ("no_answer_margin", pa.float64()),
        *[(name, _FOUND.field(name).type) for name in ("document", "title", "page", "sentence")],
        ("passages_read", pa.int32()),
        ("model_version", pa.string()),
        ("answers", pa.list_(_FOUND)),
    ]
)
"""Columns of answers from a collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCount:
    """What a part holds.

    Args:
        n_rows: Its rows.
        n_without_answer: Those of them that say that there is no answer.
        versions: Rows by the version of the model that answered.
    """

    n_rows: int
    n_without_answer: int
    versions: Counter[str]


class Parts:
    """The parts in a folder: block N of the input rows has its answers in part N, in the order of the input.

    Args:
        folder: The folder.
        rows_per_part: Input rows of a block.
        schema: Columns of a part.
    """

    def __init__(self, folder: Path, rows_per_part: int, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self.rows_per_part = rows_per_part

    def path(self, block: int) -> Path:
        """Give the place of a block's part."""
        return self._folder / f"part-{block:05d}.parquet"

    def left_out(self, items: Iterator[Row | Settled]) -> Iterator[Row | Settled]:
        """Settle the rows whose answers are in their part.

        Args:
            items: Rows in the order of the input.

        Raises:
            DataError: A part cannot be read.
        """
        block, done = -1, frozenset[str]()
        for item in items:
            if item.number // self.rows_per_part != block:
                block = item.number // self.rows_per_part
                done = frozenset(self._read(block, ["id"])["id"].to_pylist() if self.path(block).exists() else ())
            is_done = isinstance(item, Row) and item.id in done
            yield Settled(item.number, item.id) if is_done else item

    def write(self, block: int, rows: Sequence[Settled]) -> PartCount:
        """Write a block's new answers, beside those that are in its part; what is there is whole at any moment.

        Args:
            block: The block.
            rows: Its rows, failed ones too.

        Raises:
            DataError: The part cannot be read or written.
        """
        path, numbers = self.path(block), {row.id: row.number for row in rows if not row.reason}
        new = pa.Table.from_pylist([{"id": row.id, **row.answer} for row in rows if row.answer], schema=self._schema)
        table = pa.concat_tables([self._read(block), new]) if path.exists() else new
        if len(new):
            order = pa.array([numbers[row_id] for row_id in table["id"].to_pylist()])
            table = table.take(pc.sort_indices(order))
            with written_whole(path) as file, writing(path):
                parquet.write_table(table, file, compression="zstd")
        counts = pc.value_counts(table["model_version"]).to_pylist()
        versions = Counter({pair["values"]: pair["counts"] for pair in counts})
        n_with_answer = pc.sum(table["has_answer"]).as_py() or 0
        return PartCount(n_rows=len(table), n_without_answer=len(table) - n_with_answer, versions=versions)

    def _read(self, block: int, columns: list[str] | None = None) -> pa.Table:
        path = self.path(block)
        try:
            with parquet.ParquetFile(path) as file:
                return file.read(columns or self._schema.names).cast(
                    pa.schema([self._schema.field(name) for name in columns]) if columns else self._schema
                )
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{path}: cannot be read: {said}: delete it, and its rows are answered again") from error


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write; it is on the disk and takes its place when it is closed, and none after an error.

    Args:
        path: The file, in a folder that nobody else writes to.

    Raises:
        DataError: The place cannot be written to.
    """
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with writing(path):
            file = unfinished.open("wb")
        with file:
            yield file
            with writing(path):
                file.flush()
                os.fsync(file.fileno())
        with writing(path):
            os.replace(unfinished, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # its new name, too
            finally:
                os.close(folder)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of which file it is that a write fails.

    Args:
        path: The file.

    Raises:
        DataError: A write fails.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}: make room, then --resume") from error
