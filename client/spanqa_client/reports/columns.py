"""A user's own columns: what else is known of each question, to see scores by it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spanqa.csv_rows import csv_rows, is_csv
from spanqa.errors import DataError, SpanqaError
from spanqa.examples import raise_defect
from spanqa.json_stream import read_json, text_chunks
from spanqa.jsonl import is_json_lines, rows_from_lines

_PARQUET_MAGIC = b"PAR1"
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"
_QUARTER = re.compile(rf"below ({_NUMBER})|({_NUMBER}) (?:to below {_NUMBER}|or more)")
_MOST_NUMBERS = 12
"""Different numbers that are shown one by one; more of them are cut into quarters."""


def column_from_argument(argument: str, datasets: Sequence[str | Path]) -> tuple[str, dict[str, str]]:
    """Read what `--slice` names.

    Args:
        argument: `COLUMN`, a column of the dataset's rows or a key of its questions; or `NAME=FILE`, a JSON object
            from question id to value, or a CSV file with the columns `id` and NAME.
        datasets: The dataset's files.

    Returns:
        The column's name, and its values by question id.

    Raises:
        DataError: The file cannot be read, or there is no such column.
    """
    name, is_given, file = argument.partition("=")
    if not name or (is_given and not file):
        raise DataError(f"--slice {argument!r}: give a column of the dataset, or NAME=FILE (JSON or CSV)")
    values = _from_file(Path(file), name) if is_given else _from_datasets(name, datasets)
    return name, _as_texts(values)


def _from_file(path: Path, name: str) -> dict[str, Any]:
    if path.name.lower().removesuffix(".gz").endswith(".csv"):
        return _from_csv(path, name)
    document = read_json(path)
    if not isinstance(document, dict) or not document:
        raise DataError(f'{path}: expected one object {{"question id": value}}, or a .csv file with the column id')
    return document


def _from_csv(path: Path, name: str) -> dict[str, Any]:
    rows = csv.DictReader(io.StringIO("".join(text_chunks(path)), newline=""))
    names = list(rows.fieldnames or [])
    if "id" not in names or name not in names:
        raise DataError(f"{path}: has the columns {', '.join(names) or '(none)'}: expected id and {name}")
    try:
        return {row["id"]: row[name] for row in rows}
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} cannot be read as CSV: {error}") from error


def _from_datasets(name: str, datasets: Sequence[str | Path]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path in map(Path, datasets):
        values |= {str(row["id"]): row[name] for row in _rows(path, name) if name in row and "id" in row}
    if not values:
        files = ", ".join(map(str, datasets))
        raise DataError(f"--slice {name}: no question of {files} has it: name a column of its rows, or give NAME=FILE")
    return values


def _rows(path: Path, name: str) -> Iterator[Mapping[str, Any]]:
    """The questions of a file as they stand in it, whatever its format."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if is_parquet:
        yield from _parquet_rows(path, name)
        return
    if is_csv(path):
        yield from csv_rows(path)
        return
    chunks = text_chunks(path)
    head = next(chunks, "")
    if is_json_lines(path, head):
        for _, row in rows_from_lines(path, itertools.chain((head,), chunks), raise_defect):
            if isinstance(row, dict):
                yield row
        return
    document = read_json(path)
    yield from _questions(document.get("data", []) if isinstance(document, dict) else document, {})


def _questions(items: Any, above: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Rows, or the questions of articles and paragraphs with the keys of what they stand in."""
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict):
            continue
        inner = next((key for key in ("paragraphs", "qas") if key in item), None)
        keys = {**above, **{key: value for key, value in item.items() if key != inner}}
        if inner:
            yield from _questions(item[inner], keys)
        else:
            yield keys


def _parquet_rows(path: Path, name: str) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SpanqaError(
            f"{path}: is read by pyarrow, which is not installed: pip install 'spanqa[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "id" in names and name in names:
                for batch in file.iter_batches(columns=["id", name]):
                    yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    numbers = {key: _number(value) for key, value in values.items() if value not in (None, "")}
    known = [number for number in numbers.values() if number is not None]
    if known and len(known) == len(numbers) and len(set(known)) > _MOST_NUMBERS:
        return _in_quarters({key: number for key, number in numbers.items() if number is not None})
    return {key: _text(value) for key, value in values.items() if value not in (None, "")}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _in_quarters(numbers: Mapping[str, float]) -> dict[str, str]:
    ordered = sorted(numbers.values())
    cuts = sorted({ordered[len(ordered) * quarter // 4] for quarter in (1, 2, 3)})
    names = _names_between(cuts)
    return {key: names[sum(number >= cut for cut in cuts)] for key, number in numbers.items()}


def _names_between(cuts: Iterable[float]) -> list[str]:
    bounds = [f"{cut:g}" for cut in cuts]
    between = [f"{low} to below {high}" for low, high in itertools.pairwise(bounds)]
    return [f"below {bounds[0]}", *between, f"{bounds[-1]} or more"]


def ordered_quarters(values: Iterable[str]) -> list[str]:
    """Give the quarters of a column of numbers in their order; nothing where values are anything else.

    Args:
        values: The column's values as texts; those of questions without one do not matter.
    """
    found = {value: match for value in set(values) if (match := _QUARTER.fullmatch(value))}
    places = {value: (float(match[1] or match[2]), match[1] is None) for value, match in found.items()}
    return sorted(places, key=places.__getitem__)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
