"""Parquet files as rows of scalar values: the columns that can be text or metadata, a batch at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spanqa.json_fields import Fields
from spanqa.json_stream import byte_chunks
from spanqa_retrieval.errors import SourceError

UNPACKED_BYTES = 8 << 30
"""Of a gzipped file, which is unpacked on the disk."""
BATCH_ROWS = 256
"""Held at once."""
_BUFFER_BYTES = 1 << 20


def rows_from_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a Parquet file; a gzipped one is unpacked first, as it is read from its end.

    Args:
        path: The file.

    Yields:
        `row N`, counted from 0, and the row, without columns of lists, objects and bytes.

    Raises:
        DataError: It is damaged, or has no column `text`.
        SourceError: It unpacks to too much, or pyarrow is not installed.
    """
    if not path.name.lower().endswith(".gz"):
        yield from _rows_of_parquet(path, path)
        return
    with tempfile.NamedTemporaryFile(suffix=".parquet") as unpacked:
        n_bytes = 0
        for chunk in byte_chunks(path):
            n_bytes += len(chunk)
            if n_bytes > UNPACKED_BYTES:
                raise SourceError(f"{path}: unpacks to more than {UNPACKED_BYTES:,} bytes: unpack it, or split it")
            unpacked.write(chunk)
        unpacked.flush()
        yield from _rows_of_parquet(path, Path(unpacked.name))


def _rows_of_parquet(path: Path, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the rows of a Parquet file, their scalar columns alone.

    Args:
        path: Its name, for errors.
        file: The file itself.
    """
    fields, number = Fields(path), 0
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{path}: is read by pyarrow, which is not installed: pip install 'spanqa[parquet]'"
        ) from error
    try:
        # Without a buffer, or with reading ahead, all of a row group would be held.
        with parquet.ParquetFile(
            file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as opened:
            schema = opened.schema_arrow
            if "text" not in schema.names:
                raise fields.missing("column text", schema.names)
            columns = [column.name for column in schema if _is_scalar_type(column.type)]
            for batch in opened.iter_batches(BATCH_ROWS, columns=columns):
                plain = pyarrow.RecordBatch.from_arrays(list(map(_plain, batch.columns)), batch.schema.names)
                for row in plain.to_pylist():
                    yield f"row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise fields.fail(f"row {number}", f"cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _is_scalar_type(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(test(kind) for test in tests) or _is_written(kind)


def _is_written(kind: Any) -> bool:
    """Whether values of a type are metadata as they are written: dates, times and decimal numbers."""
    from pyarrow import types

    return any(test(kind) for test in (types.is_date, types.is_time, types.is_timestamp, types.is_decimal))


def _plain(column: Any) -> Any:
    import pyarrow

    if not _is_written(column.type):
        return column
    if getattr(column.type, "tz", None):
        column = column.cast(pyarrow.timestamp(column.type.unit))
    return column.cast(pyarrow.string())
