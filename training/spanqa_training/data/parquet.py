"""Parquet files in the columns of Hugging Face's SQuAD, as examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from spanqa.errors import DataError
from spanqa.examples import OnDefect, PlacedExample, checked_examples
from spanqa.json_fields import Fields
from spanqa.jsonl import examples_from_rows

_NEEDED = ("id", "context", "question")
_COLUMNS = (*_NEEDED, "title", "answers", "is_impossible")
_BATCH_ROWS = 1000
_BUFFER_BYTES = 1 << 20


def iter_parquet(path: Path, *, require_answers: bool, on_defect: OnDefect | None) -> Iterator[PlacedExample]:
    """Read a Parquet file a batch of rows at a time.

    Args:
        path: The file.
        require_answers: Whether a file without the column `answers`, or a row without a value in it, is a defect.
        on_defect: Is told of every defect, and reading goes on; without it the first is raised.

    Yields:
        `row N`, counted from 0, and its example.

    Raises:
        DataError: Naming the file, the row and what is wrong.
    """
    fields = Fields(path)
    needed = (*_NEEDED, "answers") if require_answers else _NEEDED
    return checked_examples(
        path,
        lambda report: examples_from_rows(_rows(path, fields, needed), fields, require_answers, report),
        on_defect,
    )


def _rows(path: Path, fields: Fields, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
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
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: row {number}: cannot be read as Parquet: {reason}") from error
