"""SQuAD 1.1 and 2.0 files, and JSON Lines of their questions, as examples; or one sentence on what is wrong where."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    checked_examples,
    checked_question,
)
from spanqa.json_fields import Fields
from spanqa.json_stream import JsonStream, read_json, text_chunks
from spanqa.jsonl import examples_from_rows, is_json_lines, rows_from_lines

__all__ = ["Example", "GoldAnswer", "iter_examples", "iter_placed_examples", "read_json", "read_squad"]

_SHOWN_ITEMS = 40
"""Elements of a list in the wrong place that are read: more than fit into the message about it."""


def read_squad(path: str | Path, *, require_answers: bool = True) -> list[Example]:
    """Read all examples of a file; arguments and errors as `iter_examples`.

    Returns:
        The questions in file order.
    """
    return list(iter_examples(path, require_answers=require_answers))


def iter_examples(
    path: str | Path, *, require_answers: bool = True, on_defect: OnDefect | None = None
) -> Iterator[Example]:
    """Read a file's examples in one pass, holding one paragraph or row of it at a time.

    An article whose title comes after its paragraphs, or that has none, is held whole.

    Args:
        path: A SQuAD 1.1 or 2.0 file, or JSON Lines with one question a line in Hugging Face's columns
            (`answers: {"text": [...], "answer_start": [...]}`); in UTF-8, plain or gzipped.
        require_answers: Whether a question without the key `answers` is an error; without it, such a
            question counts as unanswerable (files to predict on).
        on_defect: Is told of every defect, and reading goes on with the next question where that is possible;
            without it the first defect is raised. Ids that stand twice are noticed at the end.

    Yields:
        The questions in file order.

    Raises:
        DataError: Naming the file, the place in it and what is wrong.
    """
    for _, example in iter_placed_examples(path, require_answers=require_answers, on_defect=on_defect):
        yield example


def iter_placed_examples(
    path: str | Path, *, require_answers: bool = True, on_defect: OnDefect | None = None
) -> Iterator[PlacedExample]:
    """As `iter_examples`, each example with its place: `data[0].paragraphs[0].qas[0]` or `line 1`."""
    path = Path(path)
    return checked_examples(path, lambda report: _placed_examples(path, require_answers, report), on_defect)


def _placed_examples(path: Path, require_answers: bool, report: OnDefect) -> Iterator[PlacedExample]:
    fields = Fields(path)
    chunks = text_chunks(path)
    head = next(chunks, "")
    chunks = itertools.chain((head,), chunks)
    if is_json_lines(path, head):
        return examples_from_rows(rows_from_lines(path, chunks, report), fields, require_answers, report)
    return _squad_examples(JsonStream(path, chunks), fields, require_answers, report)


def _squad_examples(
    stream: JsonStream, fields: Fields, require_answers: bool, report: OnDefect
) -> Iterator[PlacedExample]:
    if stream.peek() == "[":
        shown = [stream.value() for _ in itertools.islice(stream.items(), _SHOWN_ITEMS)]
        fields.checked(shown, "top level", dict)
    if stream.peek() != "{":
        fields.checked(stream.value(), "top level", dict)
    n_paragraphs = itertools.count()
    keys = []
    for key in stream.members():
        keys.append(key)
        if key != "data":
            stream.value()
            continue
        for at_article in _elements(stream, fields, "data", report):
            for at_paragraph, title, paragraph in _paragraphs(stream, fields, at_article, report):
                yield from _questions(
                    fields, at_paragraph, paragraph, title, next(n_paragraphs), require_answers, report
                )
    stream.end()
    if "data" not in keys:
        raise fields.missing("data", keys)


def _elements(stream: JsonStream, fields: Fields, at_list: str, report: OnDefect) -> Iterator[str]:
    """The place of each element of a list, before it is read."""
    if stream.peek() == "[":
        for index in stream.items():
            yield f"{at_list}[{index}]"
    else:
        _read(stream, fields, at_list, list, report)


def _read(stream: JsonStream, fields: Fields, place: str, kind: type, report: OnDefect) -> Any:
    """The next value; None, and reported, where it is of another kind."""
    value = stream.value()
    try:
        return fields.checked(value, place, kind)
    except DataError as defect:
        report(defect)
        return None


def _paragraphs(
    stream: JsonStream, fields: Fields, at_article: str, report: OnDefect
) -> Iterator[tuple[str, str, Any]]:
    """Place, title and content of each paragraph of an article; they wait for a title that comes after them."""
    if stream.peek() != "{":
        _read(stream, fields, at_article, dict, report)
        return
    title: str | None = None
    waiting = []
    keys = []
    for key in stream.members():
        keys.append(key)
        if key == "title":
            title = _read(stream, fields, f"{at_article}.title", str, report) or ""
        elif key == "paragraphs":
            for place in _elements(stream, fields, f"{at_article}.paragraphs", report):
                if title is None:
                    waiting.append((place, stream.value()))
                else:
                    yield place, title, stream.value()
        else:
            stream.value()
    if "paragraphs" not in keys:
        report(fields.missing(f"{at_article}.paragraphs", keys))
    for place, paragraph in waiting:
        yield place, title or "", paragraph


def _questions(
    fields: Fields, at: str, paragraph: Any, title: str, number: int, require_answers: bool, report: OnDefect
) -> Iterator[PlacedExample]:
    try:
        context = fields.get(paragraph, at, "context", str)
        questions = fields.each(paragraph, at, "qas")
    except DataError as defect:
        report(defect)
        return
    for place, qa in questions:
        try:
            example = Example(
                question=checked_question(fields, qa, place),
                id=fields.get(qa, place, "id", str),
                context=context,
                title=title,
                answers=_answers(fields, qa, place, context, require_answers),
                paragraph=number,
                place=fields.at(place),
            )
        except DataError as defect:
            report(defect)
        else:
            yield place, example


def _answers(fields: Fields, qa: Any, place: str, context: str, require_answers: bool) -> tuple[GoldAnswer, ...]:
    if "answers" not in qa and not require_answers:
        return ()
    answers = tuple(_answer(fields, answer, at, context) for at, answer in fields.each(qa, place, "answers"))
    check_is_impossible(fields, qa, place, answers)
    return answers


def _answer(fields: Fields, answer: Any, place: str, context: str) -> GoldAnswer:
    text = fields.get(answer, place, "text", str)
    start = fields.get(answer, place, "answer_start", int)
    return checked_answer(fields, context, text, start, f"{place}.text", f"{place}.answer_start")
