"""Text as HTML: escaped, and with nothing in it that could change how the text around it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from math import isnan
from typing import Any

_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c\ufeff\ud800-\udfff"
"""Control characters, direction marks and halves of surrogate pairs: invisible, and able to turn a line around."""
_CONTROL = re.compile(f"[{_CONTROLS}]")


def shown(text: str) -> str:
    """Escape a text, with its invisible controls as small labels such as U+202E."""
    parts = []
    end = 0
    for found in _CONTROL.finditer(text):
        parts.append(escape(text[end : found.start()]))
        parts.append(f'<span class="control">U+{ord(found[0]):04X}</span>')
        end = found.end()
    parts.append(escape(text[end:]))
    return "".join(parts)


def without_controls(text: str) -> str:
    """A text with a mark in the place of each of its invisible controls."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def plain(text: str) -> str:
    """Escape a text for a place that takes no elements, without its invisible controls."""
    return escape(without_controls(text))


def isolated(text: str) -> str:
    """A text in an element of its own, whose direction is its own too."""
    return f'<bdi dir="auto">{shown(text)}</bdi>'


def json_for_script(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    # Halves of surrogate pairs are no UTF-8.
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    texts: Sequence[int] = (),
    least: Sequence[int] = (),
) -> str:
    """Lay a table out.

    Args:
        head: The columns' names, as HTML; a table's first cell names its row.
        rows: The cells, as HTML.
        caption: What it shows, for those who do not see it.
        texts: Columns that hold text, beside the first; the others hold numbers.
        least: Columns that a narrow screen can do without.
    """

    def kind(column: int) -> str:
        names = (["number"] if column and column not in texts else []) + (["least"] if column in least else [])
        return f' class="{" ".join(names)}"' if names else ""

    heads = "".join(f'<th scope="col"{kind(column)}>{cell}</th>' for column, cell in enumerate(head))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{kind(column)}>{cell}</td>" for column, cell in enumerate(others, start=1))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><caption class="unseen">{plain(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def percent(value: float, digits: int = 1) -> str:
    """A number of percent, with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def with_interval(value: float, interval: Sequence[float] | None, digits: int = 2) -> str:
    """A number and its interval beside it, quieter."""
    if interval is None or isnan(interval[0]):
        return percent(value, digits)
    low, high = (percent(end, 1) for end in interval)
    return f'{percent(value, digits)} <span class="interval">{low}\N{EN DASH}{high}</span>'


def number(value: float | None, digits: int = 3) -> str:
    """A number such as a threshold; a dash where there is none."""
    if value is None:
        return "\N{EM DASH}"
    if value in (float("inf"), float("-inf")):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    if value and abs(value) < 10 ** (1 - digits):  # what would be shown as nothing
        return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
    return percent(value, digits)
