"""A span shown where it stands: in its sentence or in the whole context, for a terminal or for a page."""

from __future__ import annotations

import html

from spanqa.sentences import sentence_around
from spanqa_client.answer import Span

_BOLD = "\x1b[1m"
_PLAIN = "\x1b[0m"
_LONGEST_SIDE = 200
"""Characters shown at most before and after the span, in its sentence."""


def highlighted(context: str, span: Span, *, bold: bool, whole: bool = False) -> str:
    """Show a span between marks.

    Args:
        context: The context that was asked.
        span: A span of it.
        bold: Whether to mark by a terminal's bold type; otherwise by square brackets.
        whole: Whether to show the whole context rather than the sentence that the span stands in.

    Returns:
        Text whose control characters have become spaces. A sentence is one line; a whole context keeps its lines.
    """
    before, text, after = map(_printable, _around(context, span, whole=whole))
    if not whole:
        before, text, after = before.replace("\n", " "), text.replace("\n", " "), after.replace("\n", " ")
    opening, closing = (_BOLD, _PLAIN) if bold else ("[", "]")
    return f"{before}{opening}{text}{closing}{after}"


def highlighted_html(context: str, span: Span, *, whole: bool = False) -> str:
    """Show a span in a `<mark>` element.

    Args:
        context: The context that was asked.
        span: A span of it.
        whole: As in `highlighted`; style its element with `white-space: pre-wrap` to keep the lines.

    Returns:
        A piece of HTML without any other element: whatever the context holds is text.
    """
    before, text, after = [html.escape(part.replace("\0", " ")) for part in _around(context, span, whole=whole)]
    return f"{before}<mark>{text}</mark>{after}"


def _around(context: str, span: Span, *, whole: bool) -> tuple[str, str, str]:
    """What is shown before a span, the span, and what is shown after it; what is left out becomes "..."."""
    text = context[span.char_start : span.char_end]
    if whole:
        return context[: span.char_start], text, context[span.char_end :]
    start, end = sentence_around(context, span.char_start, span.char_end)
    before, after = context[start : span.char_start].lstrip(), context[span.char_end : end].rstrip()
    if len(before) > _LONGEST_SIDE:
        before = "..." + before[-_LONGEST_SIDE:]
    if len(after) > _LONGEST_SIDE:
        after = after[:_LONGEST_SIDE] + "..."
    return before, text, after


def _printable(text: str) -> str:
    # Also keeps escape sequences of a hostile document away from the terminal.
    return "".join([char if char.isprintable() or char == "\n" else " " for char in text])
