"""Questions one a row, in the columns of Hugging Face's SQuAD: from JSON Lines, or from whoever has such rows."""

from __future__ import annotations

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
    check_is_impossible,
    checked_answer,
    checked_question,
)
from spanqa.json_fields import Fields, join
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


def examples_from_rows(
    rows: Iterable[tuple[str, Any]], fields: Fields, require_answers: bool, report: OnDefect
) -> Iterator[PlacedExample]:
    """Make examples of rows; neighbours with the same context are of one paragraph.

    Args:
        rows: The place and the content of each: an object with id, question, context, answers and perhaps title.
        fields: Names the file in errors.
        require_answers: Whether a row without answers is a defect.
        report: Is told of rows with a defect; they are left out.

    Yields:
        Place and example.
    """
    context, paragraph = "", -1
    for place, row in rows:
        try:
            own_context = fields.get(row, place, "context", str)
            if own_context != context or paragraph < 0:
                context, paragraph = own_context, paragraph + 1
            example = Example(
                question=checked_question(fields, row, place),
                id=fields.get(row, place, "id", str),
                context=context,
                title="" if row.get("title") is None else fields.get(row, place, "title", str),
                answers=_answers(fields, row, place, context, require_answers),
                paragraph=paragraph,
                place=fields.at(place),
            )
        except DataError as defect:
            report(defect)
        else:
            yield place, example


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Lines without their ends. Only the line feed ends one: JSON texts may hold the other separators of Unicode."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from whole
    yield rest


def _answers(fields: Fields, row: Any, place: str, context: str, require_answers: bool) -> tuple[GoldAnswer, ...]:
    if row.get("answers") is None and not require_answers:
        return ()
    at = join(place, "answers")
    columns = fields.get(row, place, "answers", dict)
    texts, starts = (list(fields.each(columns, at, key)) for key in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise fields.fail(
            at, f"has {len(texts)} in text and {len(starts)} in answer_start: each text needs its own answer_start"
        )
    answers = tuple(
        checked_answer(
            fields,
            context,
            fields.checked(text, at_text, str),
            fields.checked(start, at_start, int),
            at_text,
            at_start,
        )
        for (at_text, text), (at_start, start) in zip(texts, starts, strict=True)
    )
    check_is_impossible(fields, row, place, answers)
    return answers
