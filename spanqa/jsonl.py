"""Questions one a row, in the columns of Hugging Face's SQuAD: from JSON Lines, or from whoever has such rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from spanqa.errors import DataError
from spanqa.examples import (
    Example,
    GoldAnswer,
    OnDefect,
    PlacedExample,
    Reading,
    check_is_impossible,
    checked_answer,
    checked_id,
    checked_question,
    checked_title,
    listed_answers,
)
from spanqa.json_fields import join
from spanqa.json_stream import JsonStream, data_error_from_json

_SUFFIXES = (".jsonl", ".ndjson")


def is_json_lines(path: Path, head: str) -> bool:
    """Whether a file holds a question a line: by its suffix, else by the keys of its first line.

    Args:
        path: The file.
        head: The beginning of its text, which may end in the first line.
    """
    if path.name.lower().removesuffix(".gz").endswith(_SUFFIXES):
        return True
    line = JsonStream(path, iter([head.lstrip().partition("\n")[0]]))
    keys = set()
    if line.peek() == "{":
        with suppress(DataError):
            for key in line.members():
                keys.add(key)
                line.value()
    return "data" not in keys and not keys.isdisjoint(("question", "context"))


def rows_from_lines(path: Path, chunks: Iterable[str], report: OnDefect) -> Iterator[tuple[str, Any]]:
    """Parse JSON Lines.

    Args:
        path: The file, for its name in errors.
        chunks: Its text, in pieces of any size.
        report: Is told of lines that are not JSON; they are left out. Blank lines are none.

    Yields:
        `line N`, counted from 1, and what the line says.
    """
    for number, line in enumerate(_lines(chunks), start=1):
        if not line or line.isspace():
            continue
        place = f"line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = f" column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            report(data_error_from_json(path, error, place + column))
        else:
            yield place, row


class RowReader:
    """Makes examples of rows; neighbours with the same context are of one paragraph.

    Args:
        reading: How the file is read.
        paragraphs: Numbers the paragraphs.
    """

    def __init__(self, reading: Reading, paragraphs: Iterator[int] | None = None) -> None:
        self._reading = reading
        self._paragraphs = paragraphs or itertools.count()
        self._context: str | None = None
        self._paragraph = -1

    def examples(self, place: str, row: Any) -> Iterator[PlacedExample]:
        """Give the row's place and example; nothing, and the defect is reported, where it has one.

        Args:
            place: Its place in the file.
            row: An object with id, question, context, answers and perhaps title.
        """
        fields = self._reading.fields
        try:
            context = fields.get(row, place, "context", str)
            if context != self._context:
                self._context, self._paragraph = context, next(self._paragraphs)
            example = Example(
                question=checked_question(fields, row, place),
                id=checked_id(fields, row, place),
                context=context,
                title=checked_title(fields, row, place),
                answers=_answers(self._reading, row, place, context),
                paragraph=self._paragraph,
                place=fields.at(place),
            )
        except DataError as defect:
            self._reading.report(fields.of_question(defect, place, row))
        else:
            yield place, example


def examples_from_rows(rows: Iterable[tuple[str, Any]], reading: Reading) -> Iterator[PlacedExample]:
    """Make examples of rows, each with its place; as `RowReader`."""
    reader = RowReader(reading)
    for place, row in rows:
        yield from reader.examples(place, row)


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Lines without their ends. Only the line feed ends one: JSON texts may hold the other separators of Unicode."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from whole
    yield rest


def _answers(reading: Reading, row: Any, place: str, context: str) -> tuple[GoldAnswer, ...]:
    given = row.get("answers")
    if given is None and not reading.require_answers:
        return ()
    if isinstance(given, list):
        answers = listed_answers(reading, row, place, context)
    else:
        answers = _answers_in_columns(reading, row, place, context)
    check_is_impossible(reading.fields, row, place, answers)
    return answers


def _answers_in_columns(reading: Reading, row: Any, place: str, context: str) -> tuple[GoldAnswer, ...]:
    fields, at = reading.fields, join(place, "answers")
    columns = fields.get(row, place, "answers", dict)
    if reading.mend and columns.get("answer_start") is None and isinstance(columns.get("text"), list):
        columns = {**columns, "answer_start": [-1] * len(columns["text"])}
    texts, starts = (list(fields.each(columns, at, key)) for key in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise fields.fail(
            at, f"has {len(texts)} in text and {len(starts)} in answer_start: each text needs its own answer_start"
        )
    return tuple(
        checked_answer(
            reading,
            context,
            (fields.checked(text, at_text, str), at_text),
            (-1 if reading.mend and start is None else fields.checked(start, at_start, int), at_start),
        )
        for (at_text, text), (at_start, start) in zip(texts, starts, strict=True)
    )
