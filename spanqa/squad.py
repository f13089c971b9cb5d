"""JSON files as examples: SQuAD 1.1 and 2.0, rows under `data` or in a list, JSON Lines; or what is wrong where."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spanqa.errors import DataError
from spanqa.examples import (
    Example,
    GoldAnswer,
    PlacedExample,
    Reading,
    check_is_impossible,
    checked_id,
    checked_question,
    checked_title,
    listed_answers,
)
from spanqa.json_stream import JsonStream, read_json, text_chunks
from spanqa.jsonl import RowReader, examples_from_rows, is_json_lines, rows_from_lines

__all__ = ["Example", "GoldAnswer", "examples_from_json", "read_json"]

_KEYS_OF_ROWS = frozenset({"question", "context"})


def examples_from_json(path: Path, reading: Reading) -> Iterator[PlacedExample]:
    """Read a file's examples in one pass, holding one paragraph or row of it at a time.

    An article whose title comes after its paragraphs, or that has none, is held whole.

    Args:
        path: A SQuAD 1.1 or 2.0 file; the rows of Hugging Face's SQuAD (`answers: {"text": [...], "answer_start":
            [...]}`) under `data`, in a list, or one a line; in UTF-8, plain or gzipped.
        reading: How it is read.

    Yields:
        The questions in file order, each with its place: `data[0].paragraphs[0].qas[0]`, `[0]` or `line 1`.

    Raises:
        DataError: The file is no JSON, or no list of questions is where one must be.
    """
    chunks = text_chunks(path)
    head = next(chunks, "")
    chunks = itertools.chain((head,), chunks)
    if is_json_lines(path, head):
        return examples_from_rows(rows_from_lines(path, chunks, reading.report), reading)
    return _examples(JsonStream(path, chunks), reading)


def _examples(stream: JsonStream, reading: Reading) -> Iterator[PlacedExample]:
    if stream.peek() == "[":
        yield from _items(stream, reading, "")
        stream.end()
        return
    if stream.peek() != "{":
        reading.fields.checked(stream.value(), "top level", dict)
    keys = []
    for key in stream.members():
        keys.append(key)
        if key == "data":
            yield from _items(stream, reading, "data")
        else:
            stream.value()
    stream.end()
    if "data" not in keys:
        raise reading.fields.missing("data", keys)


def _items(stream: JsonStream, reading: Reading, at_list: str) -> Iterator[PlacedExample]:
    """The questions of a list of articles or of rows."""
    n_paragraphs = itertools.count()
    rows = RowReader(reading, n_paragraphs)
    for place in _elements(stream, reading, at_list):
        for at, title, found in _paragraphs(stream, reading, place):
            if title is None:
                yield from rows.examples(at, found)
            else:
                yield from _questions(reading, at, found, title, next(n_paragraphs))


def _elements(stream: JsonStream, reading: Reading, at_list: str) -> Iterator[str]:
    """The place of each element of a list, before it is read."""
    if stream.peek() == "[":
        for index in stream.items():
            yield f"{at_list}[{index}]"
    else:
        _read(stream, reading, at_list, list)


def _read(stream: JsonStream, reading: Reading, place: str, kind: type) -> Any:
    """The next value; None, and reported, where it is of another kind."""
    value = stream.value()
    try:
        return reading.fields.checked(value, place, kind)
    except DataError as defect:
        reading.report(defect)
        return None


def _paragraphs(stream: JsonStream, reading: Reading, place: str) -> Iterator[tuple[str, str | None, Any]]:
    """Place, title and content of each paragraph of an article; a row comes without a title, as it is.

    Paragraphs wait for a title that comes after them.
    """
    if stream.peek() != "{":
        _read(stream, reading, place, dict)
        return
    others: dict[str, Any] = {}
    waiting = []
    has_paragraphs = False
    for key in stream.members():
        if key != "paragraphs":
            others[key] = stream.value()
            continue
        has_paragraphs = True
        title = _title(reading, others, place) if "title" in others else None
        for at in _elements(stream, reading, f"{place}.paragraphs"):
            if title is None:
                waiting.append((at, stream.value()))
            else:
                yield at, title, stream.value()
    if not has_paragraphs and not _KEYS_OF_ROWS.isdisjoint(others):
        yield place, None, others
        return
    if not has_paragraphs:
        reading.report(reading.fields.missing(f"{place}.paragraphs", others))
    title = _title(reading, others, place) if waiting else ""
    for at, paragraph in waiting:
        yield at, title, paragraph


def _title(reading: Reading, article: dict[str, Any], place: str) -> str:
    """The title of an article; empty, and reported, where it is no text."""
    try:
        return checked_title(reading.fields, article, place)
    except DataError as defect:
        reading.report(defect)
        return ""


def _questions(reading: Reading, at: str, paragraph: Any, title: str, number: int) -> Iterator[PlacedExample]:
    fields = reading.fields
    try:
        context = fields.get(paragraph, at, "context", str)
        questions = fields.each(paragraph, at, "qas")
    except DataError as defect:
        reading.report(defect)
        return
    for place, qa in questions:
        try:
            example = Example(
                question=checked_question(fields, qa, place),
                id=checked_id(fields, qa, place),
                context=context,
                title=title,
                answers=_answers(reading, qa, place, context),
                paragraph=number,
                place=fields.at(place),
            )
        except DataError as defect:
            reading.report(fields.of_question(defect, place, qa))
        else:
            yield place, example


def _answers(reading: Reading, qa: Any, place: str, context: str) -> tuple[GoldAnswer, ...]:
    if "answers" not in qa and not reading.require_answers:
        return ()
    answers = listed_answers(reading, qa, place, context)
    check_is_impossible(reading.fields, qa, place, answers)
    return answers
