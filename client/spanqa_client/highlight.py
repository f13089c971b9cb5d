"""A span shown in the sentence it stands in."""

from __future__ import annotations

from spanqa.sentences import sentence_around
from spanqa_client.answer import Span

_BOLD = "\x1b[1m"
_PLAIN = "\x1b[0m"
_LONGEST_SIDE = 200
"""Characters shown at most before and after the span."""


def highlighted(context: str, span: Span, *, bold: bool) -> str:
    """Show the sentence that a span stands in, the span between marks.

    Args:
        context: The context that was asked.
        span: A span of it.
        bold: Whether to mark by a terminal's bold type; otherwise by square brackets.

    Returns:
        One line; control characters of the context become spaces, what is left out becomes "...".
    """
    start, end = sentence_around(context, span.char_start, span.char_end)
    before = _one_line(context[start : span.char_start]).lstrip()
    after = _one_line(context[span.char_end : end]).rstrip()
    if len(before) > _LONGEST_SIDE:
        before = "..." + before[-_LONGEST_SIDE:]
    if len(after) > _LONGEST_SIDE:
        after = after[:_LONGEST_SIDE] + "..."
    opening, closing = (_BOLD, _PLAIN) if bold else ("[", "]")
    return f"{before}{opening}{_one_line(context[span.char_start : span.char_end])}{closing}{after}"


def _one_line(text: str) -> str:
    # Also keeps escape sequences of a hostile document away from the terminal.
    return "".join([char if char.isprintable() else " " for char in text])
