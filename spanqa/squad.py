"""SQuAD 1.1 and 2.0 files as examples, or one sentence on what is wrong with a file and where."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa.errors import DataError

_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class GoldAnswer:
    """One annotator's answer: its text, and its offset in the context in code points."""

    text: str
    char_start: int

    @property
    def char_end(self) -> int:
        """End of the answer in the context, exclusive."""
        return self.char_start + len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question about one context.

    Args:
        id: The question's id, unique in its file.
        question: The question as written.
        context: The paragraph as written.
        title: The article's title; empty where the file gives none.
        answers: Gold answers; none for an unanswerable question.
        paragraph: Index of the paragraph in its file, counted over all articles.
    """

    id: str
    question: str
    context: str
    title: str
    answers: tuple[GoldAnswer, ...]
    paragraph: int


def read_squad(path: str | Path, *, require_answers: bool = True) -> list[Example]:
    """Read a SQuAD 1.1 or 2.0 file, plain or gzipped.

    Args:
        path: A `.json` or `.json.gz` file in UTF-8.
        require_answers: Whether a question without the key `answers` is an error; without it, such a
            question counts as unanswerable (files to predict on).

    Returns:
        The questions in file order.

    Raises:
        DataError: Naming the file, the JSON path and what is wrong.
    """
    path = Path(path)
    seen: dict[str, str] = {}
    examples = []
    for where, example in _examples(path, read_json(path), require_answers):
        if example.id in seen:
            raise DataError(f"{path}: {where}.id: {example.id!r} is also the id of {seen[example.id]}: ids must differ")
        seen[example.id] = where
        examples.append(example)
    if not examples:
        raise DataError(f"{path}: holds no question: expected data[].paragraphs[].qas[]")
    return examples


def read_json(path: str | Path) -> Any:
    """Parse a UTF-8 JSON file, plain or gzipped.

    Raises:
        DataError: Naming the file and the place in it that cannot be read.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 ({raw[error.start]:#04x}): convert the file to UTF-8 first"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} column {error.colno}: not valid JSON: {error.msg}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not a SQuAD file: its JSON is nested too deeply") from error


class _Reader:
    """Typed access to parsed JSON that names the place in its errors."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, where: str, problem: str) -> DataError:
        return DataError(f"{self._path}: {where}: {problem}")

    def get(self, parent: Any, where: str, key: str, kind: type) -> Any:
        if type(parent) is not dict:
            raise self.fail(where or "top level", f"expected an object, got {_describe(parent)}")
        place = f"{where}.{key}" if where else key
        if key not in parent:
            keys = ", ".join(map(repr, list(parent)[:5])) + (", ..." if len(parent) > 5 else "")
            raise self.fail(place, f"missing; keys here: {keys or 'none'}")
        value = parent[key]
        if type(value) is not kind:
            raise self.fail(place, f"expected {_NAMES[kind]}, got {_describe(value)}")
        if isinstance(value, str) and not value.isascii():
            self.check_text(value, place)
        return value

    def check_text(self, text: str, where: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.fail(
                where, f"character {error.start} is half of a surrogate pair, which no text may hold: fix the escape"
            ) from error

    def each(self, parent: Any, where: str, key: str) -> Iterator[tuple[str, Any]]:
        place = f"{where}.{key}" if where else key
        for index, item in enumerate(self.get(parent, where, key, list)):
            yield f"{place}[{index}]", item


def _describe(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "nested too deeply to show"
    kind = _NAMES.get(type(value), type(value).__name__)
    return "null" if value is None else f"{kind} ({text[:40]}{'...' if len(text) > 40 else ''})"


def _examples(path: Path, document: Any, require_answers: bool) -> Iterator[tuple[str, Example]]:
    read = _Reader(path)
    n_paragraphs = 0
    for at_article, article in read.each(document, "", "data"):
        title = read.get(article, at_article, "title", str) if "title" in article else ""
        for at_paragraph, paragraph in read.each(article, at_article, "paragraphs"):
            context = read.get(paragraph, at_paragraph, "context", str)
            for where, qa in read.each(paragraph, at_paragraph, "qas"):
                question = read.get(qa, where, "question", str)
                if not question.strip():
                    raise read.fail(f"{where}.question", "is empty")
                yield (
                    where,
                    Example(
                        id=read.get(qa, where, "id", str),
                        question=question,
                        context=context,
                        title=title,
                        answers=_answers(read, qa, where, context, require_answers),
                        paragraph=n_paragraphs,
                    ),
                )
            n_paragraphs += 1


def _answers(read: _Reader, qa: Any, where: str, context: str, require_answers: bool) -> tuple[GoldAnswer, ...]:
    if "answers" not in qa and not require_answers:
        return ()
    answers = tuple(_answer(read, answer, at_answer, context) for at_answer, answer in read.each(qa, where, "answers"))
    if "is_impossible" in qa and read.get(qa, where, "is_impossible", bool) == bool(answers):
        state = "true, yet answers are given" if answers else "false, yet there is no answer"
        raise read.fail(f"{where}.is_impossible", f"is {state}: correct one of the two")
    return answers


def _answer(read: _Reader, answer: Any, where: str, context: str) -> GoldAnswer:
    text = read.get(answer, where, "text", str)
    start = read.get(answer, where, "answer_start", int)
    if not text:
        raise read.fail(f"{where}.text", "is empty: an unanswerable question has an empty list of answers")
    if start < 0 or context[start : start + len(text)] != text:
        there = context[max(start, 0) : max(start, 0) + len(text)]
        found = context.find(text)
        mend = f"it stands at {found}" if found >= 0 else "it stands nowhere in the context"
        raise read.fail(f"{where}.answer_start", f"{start} holds {there!r}, not the answer {text!r}: {mend}")
    return GoldAnswer(text, start)
