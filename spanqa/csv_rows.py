"""CSV files with a header, a question a row, as examples."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spanqa.errors import DataError
from spanqa.examples import PlacedExample, Reading
from spanqa.json_stream import text_chunks
from spanqa.jsonl import examples_from_rows

_NEEDED = ("id", "question", "context")
_ANSWERS = "answers"
_SUFFIXES = (".csv", ".tsv")
_SEPARATORS = (",", ";", "\t")
"""Of which the header tells the one: spreadsheets of half the world write the second."""


def is_csv(path: Path) -> bool:
    """Whether a file is CSV, by its name."""
    return path.name.lower().removesuffix(".gz").endswith(_SUFFIXES)


def examples_from_csv(path: Path, reading: Reading) -> Iterator[PlacedExample]:
    """Read a CSV file a row at a time: RFC 4180, the cells separated by commas, semicolons or tabs.

    The columns id, question and context are needed; title is taken where it is there, and so is answers, whose cells
    are JSON as in a row of JSON Lines, or empty for none. Cells are taken as they stand: nothing is stripped.

    Args:
        path: The file.
        reading: How it is read; without the column answers it is refused where answers are required.

    Yields:
        `line N`, on which the row begins, counted from 1, and its example.

    Raises:
        DataError: The file is damaged, or lacks a column.
    """
    return examples_from_rows(_rows(path, reading), reading)


def csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a CSV file as they stand, each with its cells by the header's names.

    Args:
        path: The file.

    Raises:
        DataError: It is damaged.
    """
    csv.field_size_limit(sys.maxsize)
    lines = _lines(text_chunks(path))
    head = list(itertools.islice(lines, 1))
    rows = csv.DictReader(itertools.chain(head, lines), delimiter=_separator("".join(head)))
    try:
        yield from rows
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} cannot be read as CSV: {error}") from error


def _rows(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    # A context may be longer than the library's limit of a cell, which holds for the whole process.
    csv.field_size_limit(sys.maxsize)
    fields = reading.fields
    placed = _placed_cells(path, reading)
    place, header = next(placed, ("line 1", []))
    needed = (*_NEEDED, _ANSWERS) if reading.require_answers else _NEEDED
    for name in needed:
        if name not in header:
            raise fields.missing(f"{place}: column {name}", header)
        if header.count(name) > 1:
            raise fields.fail(place, f"two columns are called {name}: leave one out")
    for place, cells in placed:
        if len(cells) != len(header):
            reading.report(
                fields.fail(
                    place, f"has {len(cells)} cells, the header {len(header)}: quote cells that hold separators"
                )
            )
            continue
        row: dict[str, Any] = dict(zip(header, cells, strict=True))
        if _ANSWERS in row:
            try:
                row[_ANSWERS] = json.loads(row[_ANSWERS]) if row[_ANSWERS].strip() else []
            except (ValueError, RecursionError) as error:
                reading.report(fields.fail(f"{place}: {_ANSWERS}", f"is not JSON: {error}"))
                continue
        row.pop("is_impossible", None)  # a text here, which says nothing that the answers do not
        yield place, row


def _placed_cells(path: Path, reading: Reading) -> Iterator[tuple[str, list[str]]]:
    """The cells of each row that is not blank, and the line that it begins on."""
    lines = _lines(text_chunks(path))
    head = list(itertools.islice(lines, 1))
    rows = csv.reader(itertools.chain(head, lines), delimiter=_separator("".join(head)), strict=True)
    place = "line 1"
    try:
        while True:
            place = f"line {rows.line_num + 1}"
            cells = next(rows, None)
            if cells is None:
                return
            if cells:
                yield place, cells
    except csv.Error as error:
        raise reading.fields.fail(place, f"the row that begins here is not CSV: {error}") from error


def _separator(header: str) -> str:
    """The separator that gives the header the most of the columns needed."""
    names = [{cell.strip().strip('"') for cell in header.rstrip("\r\n").split(separator)} for separator in _SEPARATORS]
    return max(zip(names, _SEPARATORS, strict=True), key=lambda one: len(one[0].intersection(_NEEDED)))[1]


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Lines with their ends; a quoted cell may go over several."""
    held: list[str] = []
    for chunk in chunks:
        *whole, rest = chunk.split("\n")
        for line in whole:
            held.append(line + "\n")
            yield "".join(held)
            held.clear()
        held.append(rest)
    if any(held):
        yield "".join(held)
