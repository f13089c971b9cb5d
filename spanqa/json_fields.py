"""Typed access to parsed JSON that names the file and the place in its errors."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from spanqa.errors import DataError

_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "true or false"}
_SHOWN_KEYS = 5
_SHOWN_CHARS = 40


class Fields:
    """Reads the fields of one file's objects.

    Args:
        path: The file, for its name in errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, place: str, problem: str) -> DataError:
        """Make the error that says what is wrong with the value at a place."""
        return DataError(f"{self.at(place)}: {problem}", place=self.at(place))

    def of_question(self, defect: DataError, place: str, question: Any) -> DataError:
        """Make the defect of a question say which question that is: its place, and its id where it has one."""
        given = question.get("id") if isinstance(question, dict) else None
        # Half of a surrogate pair may be the very defect, and lists of defects are written in UTF-8.
        question_id = str(given).encode(errors="backslashreplace").decode() if type(given) in (str, int) else ""
        return DataError(str(defect), place=self.at(place), question_id=question_id)

    def at(self, place: str) -> str:
        """Name the file and a place in it."""
        return f"{self._path}: {place}"

    def missing(self, place: str, keys: Collection[str]) -> DataError:
        """Make the error that says that an object lacks what should stand at a place."""
        shown = ", ".join(map(shortened, list(keys)[:_SHOWN_KEYS])) + (", ..." if len(keys) > _SHOWN_KEYS else "")
        return self.fail(place, f"missing; keys here: {shown or 'none'}")

    def checked(self, value: Any, place: str, kind: type) -> Any:
        """Give a value back when it is of its kind, and text that UTF-8 can carry.

        Raises:
            DataError: It is not.
        """
        if type(value) is not kind:
            raise self.fail(place, f"expected {_NAMES[kind]}, got {_described(value)}")
        if isinstance(value, str) and not value.isascii():
            self._check_text(value, place)
        return value

    def get(self, parent: Any, place: str, key: str, kind: type) -> Any:
        """Give a field of an object.

        Raises:
            DataError: There is no object, or it lacks the field, or the field is of another kind.
        """
        self.checked(parent, place, dict)
        if key not in parent:
            raise self.missing(join(place, key), parent)
        return self.checked(parent[key], join(place, key), kind)

    def each(self, parent: Any, place: str, key: str) -> Iterator[tuple[str, Any]]:
        """Give the elements of a field that is a list, each with its place; errors as `get`."""
        at_list = join(place, key)
        return ((f"{at_list}[{index}]", item) for index, item in enumerate(self.get(parent, place, key, list)))

    def _check_text(self, text: str, place: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.fail(
                place, f"character {error.start} is half of a surrogate pair, which no text may hold: fix the escape"
            ) from error


def join(place: str, key: str) -> str:
    """Name a field of the object at a place: a JSON path, or `line N` or `row N` of a file of rows."""
    return f"{place}: {key}" if place[-1:].isdigit() else f"{place}.{key}"


def shortened(text: str) -> str:
    """Quote a text for a message, only its beginning where it is long."""
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _described(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "nested too deeply to show"
    except TypeError:  # not from JSON: bytes or a date of a Parquet file
        text = repr(value)
    kind = _NAMES.get(type(value), type(value).__name__)
    return "null" if value is None else f"{kind} ({text[:_SHOWN_CHARS]}{'...' if len(text) > _SHOWN_CHARS else ''})"
