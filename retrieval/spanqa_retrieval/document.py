"""What a collection is made of: documents, and the passages that an index keeps of them."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Scalar = str | int | float | bool
"""A value of a document's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document as text.

    Args:
        id: Its name in the collection: a path below the source that it was found in, or the id of a row.
        text: All of it; every offset counts code points of this text.
        title: What it is called; "" where it has no title.
        metadata: What else is known of it, to filter by.
        page_starts: Where each of its pages begins, ascending, the first at 0; empty for a text without pages.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    page_starts: tuple[int, ...] = ()

    def page_at(self, place: int) -> int | None:
        """Give the number of the page, from 1, that an offset is on; None for a text without pages."""
        return bisect_right(self.page_starts, place) if self.page_starts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A range of a document's text: what an index finds, and a reader reads.

    Args:
        document: The document's id.
        title: The document's title.
        text: The range.
        char_start: Where it starts in the document, in code points.
        page_starts: As a document's, counted from the passage's start: where each page begins that it has a part of,
            the first at 0.
        first_page: The number of the first of these pages; None for a text without pages.
        metadata: The document's metadata.
    """

    document: str
    title: str
    text: str
    char_start: int
    page_starts: tuple[int, ...] = ()
    first_page: int | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def char_end(self) -> int:
        """Where it ends in the document, exclusive, in code points."""
        return self.char_start + len(self.text)

    def page_at(self, place: int) -> int | None:
        """Give the number of the page that an offset of the passage is on; None for a text without pages."""
        if self.first_page is None:
            return None
        return self.first_page + max(bisect_right(self.page_starts, place) - 1, 0)


def label_of(key: str, value: Scalar) -> str:
    """Give the one word under which documents with a value of metadata are found."""
    return as_utf8(f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def as_utf8(text: str) -> str:
    """Give a text that UTF-8 can carry: halves of surrogate pairs, as a shell's stray bytes become, are replaced."""
    return text.encode("utf-8", "replace").decode()


def printable(text: str | Path) -> str:
    """Give a text as one line that any terminal shows: what is not printable, as in names of files, is escaped."""
    shown = os.fspath(text)
    return shown if shown.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in shown)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
