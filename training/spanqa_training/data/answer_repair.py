"""Answers that do not stand where they say, and where they do stand."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from spanqa.examples import GoldAnswer

_HANGUL_PARTS = frozenset(map(chr, range(0x1160, 0x1200)))
"""Vowels and finals of decomposed Hangul: they belong to the character before them, yet do not count as combining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """An answer as it should be.

    Args:
        answer: The answer, a slice of its context.
        rule: How it was found.
    """

    answer: GoldAnswer
    rule: str


def mended_answer(context: str, text: str, start: int) -> Mended | None:
    """Find where an answer stands, without guessing.

    Args:
        context: The context.
        text: The answer as it is given, not empty.
        start: Where it is said to begin; negative where nothing is said.

    Returns:
        The answer at the offset that is meant in UTF-16 units or in UTF-8 bytes; else where its text stands once; else
        the context's own spelling of it, where that differs only in white space or Unicode form and stands once, or
        just there. None where it stands nowhere, or several times with nothing to decide.
    """
    meant = {
        point: f"its offset counts {unit}"
        for unit, point in (("UTF-16 units", _point(context, start, 2)), ("UTF-8 bytes", _point(context, start, 1)))
        if point is not None and context.startswith(text, point)
    }
    if len(meant) == 1:
        ((point, rule),) = meant.items()
        return Mended(answer=GoldAnswer(text, point), rule=rule)
    first = context.find(text)
    if first >= 0:
        stands_once = context.find(text, first + 1) < 0
        return Mended(answer=GoldAnswer(text, first), rule="its text stands once") if stands_once else None
    return _in_other_form(context, text, start)


def _point(context: str, offset: int, unit_bytes: int) -> int | None:
    """The code point at an offset in units of UTF-16 (2 bytes) or UTF-8 (1 byte); None inside of one, or beyond."""
    size_of: Callable[[str], int] = (
        (lambda text: len(text.encode("utf-16-le"))) if unit_bytes == 2 else (lambda text: len(text.encode()))
    )
    at_bytes = offset * unit_bytes
    # As many code points cannot take fewer bytes than units: the offset is the highest that the point can be.
    low, high = 0, min(max(offset, 0), len(context))
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if size_of(context[:middle]) < at_bytes else (low, middle)
    return low if offset >= 0 and size_of(context[:low]) == at_bytes else None


def _in_other_form(context: str, text: str, start: int) -> Mended | None:
    wanted, _ = _folded(text.strip())
    folded, places = _folded(context)
    found = []
    at = folded.find(wanted) if wanted else -1
    while at >= 0:
        first, last = places[at], places[at + len(wanted) - 1]
        # A match that begins or ends inside a character of the context is none.
        if (at == 0 or places[at - 1] != first) and places[at + len(wanted) : at + len(wanted) + 1] != [last]:
            found.append((first[0], last[1]))
        at = folded.find(wanted, at + 1)
    there = [span for span in found if span[0] == start] or found
    if len(there) != 1:
        return None
    begin, end = there[0]
    return Mended(answer=GoldAnswer(context[begin:end], begin), rule="its text differs in white space or Unicode form")


def _folded(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text in NFKC with every run of white space one blank, and where each character of that comes from."""
    folded: list[str] = []
    places: list[tuple[int, int]] = []
    at = 0
    while at < len(text):
        end = at + 1
        if text[at].isspace():
            while end < len(text) and text[end].isspace():
                end += 1
            made = " "
        else:
            while end < len(text) and (unicodedata.combining(text[end]) or text[end] in _HANGUL_PARTS):
                end += 1
            made = unicodedata.normalize("NFKC", text[at:end])
        folded.append(made)
        places += [(at, end)] * len(made)
        at = end
    return "".join(folded), places
