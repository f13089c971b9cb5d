"""Parquet files in the columns of Hugging Face's SQuAD, as examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spanqa.errors import SpanqaError
from spanqa.examples import PlacedExample, Reading
from spanqa.json_fields import Fields
from spanqa.jsonl import examples_from_rows

_NEEDED = ("id", "context", "question")
_COLUMNS = (*_NEEDED, "title", "answers", "is_impossible")
_BATCH_ROWS = 1000
_BUFFER_BYTES = 1 << 20


def examples_from_parquet(path: Path, reading: Reading) -> Iterator[PlacedExample]:
    """Read a Parquet file a batch of rows at a time.

    Args:
        path: The file.
        reading: How it is read; without the column `answers` it is refused where answers are required.

    Yields:
        `row N`, counted from 0, and its example.

    Raises:
        DataError: The file is damaged, or lacks a column.
        SpanqaError: pyarrow is not installed.
    """
    needed = (*_NEEDED, "answers") if reading.require_answers else _NEEDED
    return examples_from_rows(_rows(path, reading.fields, needed), reading)


def _rows(path: Path, fields: Fields, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SpanqaError(
            f"{fields.at('Parquet')} is read by pyarrow, which is not installed: pip install 'spanqa[parquet]'"
        ) from error
    number = 0
    try:
        # Without a buffer, or with reading ahead, all of a row group would be held.
        with parquet.ParquetFile(
            path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            names = file.schema_arrow.names
            for name in needed:
                if name not in names:
                    raise fields.missing(f"column {name}", names)
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name for name in _COLUMNS if name in names]):
                for row in batch.to_pylist():
                    yield f"row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise fields.fail(f"row {number}", f"cannot be read as Parquet: {reason}") from error
