"""Where sentences begin and end, by rules: the one place that knows, for every language that ends them by a sign."""

from __future__ import annotations

import re
from collections.abc import Iterator

from spanqa.abbreviations import is_full_stop

_REACH = 2000
"""Characters before and after a span in which its sentence is looked for."""

_SPACE = re.compile(r"\s*")
_LINE_ENDS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_PARAGRAPH_SIGNS = frozenset("\f\u2029")
_RULES = frozenset("=-*_~")
_BULLETS = "-*+•‣◦▪●○·"
_ITEM = re.compile(rf"(?:[{_BULLETS}]|\#{{1,6}}|\(?(\d{{1,3}}[.)]|(?:[A-Za-z]|[ivxIVX]{{2,5}})\)))(?=\s)|\|")
"""What begins a line that no sentence runs into: an entry of a list, a heading, a row of a table."""
_FIRST_NUMBERS = frozenset(("1.", "1)", "a)", "A)", "i)", "I)"))
_LINE_STOPS = frozenset(".:;,!?…")
_MARKER = re.compile(
    rf"(?:[{_BULLETS}]\s+)?(?:\(?(?:\d{{1,3}}|[A-Za-z]|[ivxlIVXL]{{2,6}})[.)]|\d{{1,3}}(?:\.\d{{1,3}}){{1,6}}\.?)\s"
)
"""What numbers an entry of a list or a heading; a stop in it ends nothing."""

_STOPS = re.compile(r"[.!?…‼⁇⁈⁉\u037e。！？｡．।॥؟۔։።፧။]+")
_STOP_SIGNS = frozenset(".!?…‼⁇⁈⁉\u037e。！？｡．।॥؟۔։።፧။")
_STRONG = frozenset("。！？｡．।॥؟۔։።፧။")
"""Stops that need no space after them, and stand in no abbreviation."""
_CLOSING = r"[\"'”’»›)\]}」』】〉》）］｝〕*_`¹²³⁰⁴-⁹]*"
_NOTE = r"(?:\[\^?\w{1,8}\]|[ \u00a0\u202f](?:[”»]|'')(?=\s|\Z))"
"""What belongs to a sentence behind its stop: `[12]`, and quotes closed after a space, as in French."""
_OPENING = r"[\s\"'“”‘’«»‹›„‚(\[{「『【〈《（［｛¿¡—–\-*_`#>]*"
_AFTER_STRONG = re.compile(rf"({_CLOSING}(?:{_NOTE}{_CLOSING}){{0,20}})")
_AFTER = re.compile(rf"([“‘«]?{_CLOSING}(?:{_NOTE}{_CLOSING}){{0,20}})(\s{_OPENING})?")
"""What ends a sentence with its stop, and what comes before the next word; “ and « close German quotes."""
_QUOTING = frozenset("([{“‘«„「『（")
_INNER = frozenset(",;:)]}%&/=<~+|、，；：")
"""Signs that no sentence begins with."""
_PARTICLES = frozenset("とっがをはにの")
"""Japanese that goes on after a quotation."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Find the sentences of a text.

    A sentence ends at a stop, with the quotes and brackets that are closed there, or with its paragraph, heading or
    entry of a list. Where a stop may belong to an abbreviation, a number or a name, what stands around it decides.

    Args:
        text: Any text, in any language; one without stops is one sentence a paragraph.

    Returns:
        Start and end of each, in code points, ascending, without the white space around it; together they hold
        everything that is not white space.
    """
    spans = []
    for start, end in _blocks(text):
        for stop in _ends(text, start, end):
            spans.append((start, stop))
            start = _skip(_SPACE, text, stop, end)
        if start < end:
            spans.append((start, end))
    return spans


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Find the sentence that a span stands in, or the sentences where it crosses them.

    It looks at no more of the text than some thousand characters around the span; a longer sentence is cut there.

    Args:
        text: The text.
        start: Where the span starts in it, in code points.
        end: Where it ends, exclusive.

    Returns:
        A range that holds the span; the span itself where it stands in no sentence, between two paragraphs.
    """
    low = max(start - _REACH, 0)
    spans = sentence_spans(text[low : end + _REACH])
    # An empty span is in the sentence of the character after it.
    touched = [span for span in spans if span[0] + low < max(end, start + 1) and span[1] + low > start]
    if not touched:
        return start, end
    return min(start, touched[0][0] + low), max(end, touched[-1][1] + low)


def _skip(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    match = pattern.match(text, start, end)
    return match.end() if match else start


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Give the parts of a text that no sentence crosses: paragraphs, headings, entries of lists, rows of tables."""
    start = line = _skip(_SPACE, text, 0, len(text))
    item = _ITEM.match(text, start)
    for gap in _LINE_ENDS.finditer(text, start):
        if gap.end() == len(text):
            break
        following = _ITEM.match(text, gap.end())
        if (
            _is_blank(gap.group())
            or (following and _is_item(following, item, text[gap.start() - 1]))
            or (item and item.group()[0] in "#|")
            or _is_rule(text, line, gap.start())
        ):
            yield start, line + len(text[line : gap.start()].rstrip())
            start, item = gap.end(), following
        line = gap.end()
    if start < len(text):
        yield start, line + len(text[line:].rstrip())


def _is_item(found: re.Match[str], item: re.Match[str] | None, before: str) -> bool:
    """Whether a line begins an entry of a list: a number may be one of its sentence, as in CO\\n2."""
    number = found.group(1)
    return number is None or item is not None or number in _FIRST_NUMBERS or before in _LINE_STOPS


def _is_blank(gap: str) -> bool:
    """Whether white space between two lines holds an empty one."""
    if gap == "\n":
        return False
    return gap.count("\n") + gap.count("\r") - gap.count("\r\n") > 1 or not _PARAGRAPH_SIGNS.isdisjoint(gap)


def _is_rule(text: str, start: int, end: int) -> bool:
    """Whether a line is drawn with one sign: it underlines a heading or stands between two parts."""
    if text[start] not in _RULES:
        return False
    line = text[start:end].rstrip()
    return len(line) > 2 and line.count(line[0]) == len(line)


def _ends(text: str, low: int, high: int) -> Iterator[int]:
    """Give the ends of the sentences of a block."""
    # Without a capital in it, a small letter says nothing.
    is_uncased = text[low:high].islower()
    for stop in _STOPS.finditer(text, _skip(_MARKER, text, low, high), high):
        if stop.group() == "." or _STRONG.isdisjoint(stop.group()):
            end = _weak_end(text, stop, low, high, is_uncased)
        else:
            end = _strong_end(text, stop, high)
        if end:
            yield end


def _strong_end(text: str, stop: re.Match[str], high: int) -> int:
    """Give the end of the sentence that a stop like 。 ends; 0 where it goes on."""
    end = _skip(_AFTER_STRONG, text, stop.end(), high)
    following = text[end] if end < high else ""
    goes_on = (
        following in _INNER
        or (following in _PARTICLES and end > stop.end())
        or (stop.group() == "．" and following.isdigit())
    )
    return 0 if goes_on else end


def _weak_end(text: str, stop: re.Match[str], low: int, high: int, is_uncased: bool) -> int:
    """Give the end of the sentence that a stop like . ends; 0 where it goes on."""
    first, last = stop.span()
    after = _AFTER.match(text, last, high)
    end, begin = (after.end(1), after.end()) if after else (last, last)
    if end == high:
        return end
    if begin == end:
        is_pause = "…" in stop.group() or ".." in stop.group()
        return end if _is_cjk(text[end]) and first > low and _is_cjk(text[first - 1]) and not is_pause else 0
    if begin == high or text[begin] in _STOP_SIGNS or text[begin] in _INNER:
        return 0
    # A word like iPhone begins one.
    if text[begin].islower() and not is_uncased and not text[begin + 1 : begin + 2].isupper():
        return 0
    if end > last and first > low and text[first - 1] in _QUOTING:  # a sign that is spoken of: (!)
        return 0
    if stop.group() != ".":
        return end
    return end if is_full_stop(text, low, first, begin, is_closed=end > last, is_uncased=is_uncased) else 0


def _is_cjk(char: str) -> bool:
    return (
        "\u2e80" <= char <= "\u9fff"
        or "\uf900" <= char <= "\ufaff"
        or "\uff00" <= char <= "\uffef"
        or char > "\U0001ffff"
    )
