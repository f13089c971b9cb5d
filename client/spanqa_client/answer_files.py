"""Answers of a dataset as a file of rows: JSON Lines, CSV or Parquet, as the file's suffix says."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from spanqa.errors import DataError, SpanqaError
from spanqa.files import open_atomically
from spanqa.sentences import sentence_around
from spanqa_client.served import ServedRun

JSON_LINES, CSV, PARQUET = ".jsonl", ".csv", ".parquet"
_FORMATS = {JSON_LINES: JSON_LINES, ".ndjson": JSON_LINES, CSV: CSV, PARQUET: PARQUET}
_PLACE = ("text", "score", "char_start", "char_end", "logit")
_COLUMNS = ("id", "question", *_PLACE, "has_answer", "no_answer_margin", "question_truncated", "model_version")
_TEXTS = ("id", "question", "text", "model_version")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so."""


def format_of(path: str) -> str | None:
    """Give the format of rows that a file's name asks for, ".jsonl", ".csv" or ".parquet"; None for any other file.

    Raises:
        SpanqaError: It is Parquet, and pyarrow is not installed.
    """
    found = _FORMATS.get(Path(path).suffix.lower())
    if found == PARQUET:
        _pyarrow()
    return found


def write_rows(path: str, served: ServedRun, *, forced: bool, spreadsheet: bool = False) -> int:
    """Write a row for each question that was answered.

    Args:
        path: The file; its suffix says the format.
        served: The run.
        forced: Whether the best span stands even where there is no answer.
        spreadsheet: Whether cells of a CSV that a spreadsheet would run get an apostrophe before them. Without it,
            every cell is what was asked and what stands in the context, unchanged.

    Returns:
        How many cells of a CSV a spreadsheet would run.

    Raises:
        DataError: The place cannot be written to.
    """
    kind, rows = format_of(path), list(_rows(served, forced))
    if kind == PARQUET:
        _write_parquet(path, rows)
        return 0
    with open_atomically(path) as file:
        if kind == CSV:
            return _write_csv(file, rows, spreadsheet)
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return 0


def _rows(served: ServedRun, forced: bool) -> Iterator[dict[str, Any]]:
    for example in served.examples:
        answer = served.answers.get(example.id)
        if answer is None:
            continue
        row = {"id": example.id, "question": example.question, **answer.to_dict(example.context)}
        span = answer.best_span
        if forced and span is not None:
            start, end = sentence_around(example.context, span.char_start, span.char_end)
            sentence = {"sentence": example.context[start:end], "sentence_start": start, "sentence_end": end}
            row |= span.to_dict() | sentence
        yield row


def _write_csv(file: IO[str], rows: Sequence[dict[str, Any]], spreadsheet: bool) -> int:
    has_more = any(len(row["spans"]) > 1 for row in rows)
    writer = csv.writer(file, lineterminator="\r\n")  # so the library quotes a cell with either
    writer.writerow([*_COLUMNS, "spans"] if has_more else _COLUMNS)
    n_formulas = 0
    for row in rows:
        cells = dict(row)
        for name in _TEXTS:
            if cells[name].startswith(_FORMULA_STARTS):
                n_formulas += 1
                cells[name] = "'" + cells[name] if spreadsheet else cells[name]
        for name in ("has_answer", "question_truncated"):
            cells[name] = json.dumps(cells[name])
        values = [cells[name] for name in _COLUMNS]
        writer.writerow([*values, json.dumps(cells["spans"], ensure_ascii=False)] if has_more else values)
    return n_formulas


def _write_parquet(path: str, rows: Sequence[dict[str, Any]]) -> None:
    pa, parquet = _pyarrow()
    place = [("score", pa.float32()), ("char_start", pa.int32()), ("char_end", pa.int32()), ("logit", pa.float32())]
    types = {
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict(place),
        **dict.fromkeys(("has_answer", "question_truncated"), pa.bool_()),
        "no_answer_margin": pa.float32(),
    }
    schema = pa.schema(
        [*((name, types[name]) for name in _COLUMNS), ("spans", pa.list_(pa.struct([("text", pa.string()), *place])))]
    )
    new = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    try:
        try:
            with new.open("wb") as file:  # by us: pyarrow's own errors name its source
                parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), file, compression="zstd")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SpanqaError(
            "Parquet is written by pyarrow, which is not installed: pip install 'spanqa[parquet]', or end in .csv"
        ) from error
    return pyarrow, parquet
