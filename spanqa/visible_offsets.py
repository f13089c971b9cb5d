"""Offsets of pieces without the space that they carry, and which pieces continue a word: seen from the text itself.

For tokenizers whose pieces hold spaces (byte-level BPE, SentencePiece) or whose words are whatever stands between two
spaces. A piece of nothing but white space or control characters has no character of its own: it begins and ends no
span. A character of which pieces hold a byte each belongs to all of them.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_INVISIBLE = np.array([chr(code).isspace() or unicodedata.category(chr(code)) == "Cc" for code in range(1 << 16)])
"""White space and control characters, all of which are among Unicode's first 65,536."""
_UNSPACED = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF)),
    *((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x30FF), (0x3100, 0x312F), (0x31A0, 0x31BF)),
    *((0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAADF), (0xF900, 0xFAFF)),
    *((0xFF66, 0xFF9F), (0x11700, 0x1174F), (0x16FE0, 0x18DFF), (0x1AFF0, 0x1B2FF), (0x1F200, 0x1F265)),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no spaces between words: Han, Kana, Bopomofo, Thai, Lao, Tibetan, Burmese, Khmer and their kin
(the line breaking classes ID, CJ and SA of Unicode's Annex 14)."""
_PARTS = (("\u1160", "\u11ff"), ("\ud7b0", "\ud7fb"), ("\uff9e", "\uff9f"))
_JOINERS = frozenset("\u00ad\u200c\u200d\u2060")
"""Soft hyphen, the joiners of Persian, Hindi and emoji, and the word joiner: no word ends beside them."""


def visible_offsets(
    text: str, offsets: NDArray[np.int32], is_space: NDArray[np.bool_] | None = None
) -> NDArray[np.int32]:
    """Take white space and control characters off both ends of every piece.

    Args:
        text: The text.
        offsets: `int32 (n_pieces, 2)`: start and end (exclusive) of each piece as the tokenizer gives them.
        is_space: `bool (n_pieces,)`: which pieces are spaces that the tokenizer put there, whatever they stand for.

    Returns:
        Same shape and dtype. Starts and ends never decrease. A piece without a visible character has the start of what
        follows it and the end of what stands before it, so that its start is at least its end. Where a normaliser made
        one character of several (an e and its accent), the piece has all of them.
    """
    if not len(offsets):
        return offsets
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    visible = ~_INVISIBLE[np.minimum(codes, len(_INVISIBLE) - 1)]
    places = np.arange(len(codes), dtype=np.int32)
    # At each place of the text: the next visible character from there on, and the end of the last one before it.
    following = np.full(len(codes) + 1, len(codes), dtype=np.int32)
    following[:-1] = np.minimum.accumulate(np.where(visible, places, len(codes))[::-1])[::-1]
    preceding = np.zeros(len(codes) + 1, dtype=np.int32)
    preceding[1:] = np.maximum.accumulate(np.where(visible, places + 1, 0))
    starts, ends = following[offsets[:, 0]], preceding[offsets[:, 1]]
    if is_space is not None:
        ends = np.where(is_space, np.minimum(ends, preceding[offsets[:, 0]]), ends)
    chars = np.empty_like(offsets)
    chars[:, 0] = np.minimum.accumulate(starts[::-1])[::-1]
    chars[:, 1] = np.maximum.accumulate(ends)
    _take_in_what_was_composed(text, chars, visible)
    return chars


def _take_in_what_was_composed(text: str, chars: NDArray[np.int32], visible: NDArray[np.bool_]) -> None:
    """Lengthen pieces by the characters beside them that no piece has, but for controls, which normalisers delete."""
    starts, ends = chars[:, 0], chars[:, 1]
    shown = np.flatnonzero(starts < ends)
    lows, highs = np.append(0, ends[shown]), np.append(starts[shown], len(text))
    # The library gives a composed character the place of the first of those that it was made of, and what replaces two
    # signs the place of the second.
    is_told = visible[np.minimum(lows, len(text) - 1)] | visible[highs - 1]
    for gap in np.flatnonzero((lows < highs) & is_told).tolist():
        low, high = int(lows[gap]), int(highs[gap])
        while gap and low < high and _is_composed(text[low]):
            low += 1
        while gap < len(shown) and low < high and visible[high - 1] and _is_replaced(text[high - 1]):
            high -= 1
        if gap:  # with the blank pieces behind it, whose end is the same
            at = int(shown[gap - 1])
            ends[at : int(ends.searchsorted(ends[at], side="right"))] = low
        if gap < len(shown):  # with those before it, whose start is
            at = int(shown[gap])
            starts[int(starts.searchsorted(starts[at], side="left")) : at + 1] = high


def with_marks(text: str, chars: NDArray[np.int32]) -> NDArray[np.int32]:
    """Lengthen pieces by the marks right behind them that no piece has: accents that an uncased model takes away.

    Args:
        text: The text.
        chars: `int32 (n_pieces, 2)`: start and end (exclusive) of each piece, in order.

    Returns:
        The same array where the text has no marks, else one of the same shape.
    """
    if text.isascii() or not any(map(_is_composed, set(text))):
        return chars
    limits = np.append(chars[1:, 0], np.int32(len(text)))[: len(chars)]
    longer = chars.copy()
    for at in np.flatnonzero(chars[:, 1] < limits).tolist():
        while longer[at, 1] < limits[at] and _is_composed(text[longer[at, 1]]):
            longer[at, 1] += 1
    return longer


def _is_composed(character: str) -> bool:
    """Whether a character may be part of the one before it: marks, Hangul's vowels and finals, sound marks."""
    return unicodedata.category(character)[0] == "M" or any(low <= character <= high for low, high in _PARTS)


def _is_replaced(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CM"


def continuations(text: str, chars: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Say which pieces continue the word, or the character, of the piece before them.

    A word is a run of letters, digits and marks; in scripts without spaces each character with its marks is one, as
    Chinese characters are for BERT.

    Args:
        text: The text.
        chars: `int32 (n_pieces, 2)`, of `visible_offsets`.

    Returns:
        `bool (n_pieces,)`.
    """
    continues = np.zeros(len(chars), dtype=np.bool_)
    if len(chars) < 2:
        return continues
    starts, ends = chars[1:, 0], chars[:-1, 1]
    is_visible = starts < chars[1:, 1]
    for at in (np.flatnonzero(is_visible & (starts == ends)) + 1).tolist():
        place = int(chars[at, 0])
        continues[at] = place > 0 and _is_joined(text[place - 1], text[place])
    continues[1:][is_visible & (starts < ends)] = True
    return continues


@lru_cache(maxsize=1 << 16)
def _is_joined(before: str, after: str) -> bool:
    """Whether no word ends between two characters."""
    if after in _JOINERS or unicodedata.category(after)[0] == "M":
        return True
    if before in _JOINERS:
        return True
    if unicodedata.category(before)[0] not in "LNM" or unicodedata.category(after)[0] not in "LN":
        return False
    return not (_is_unspaced(before) or _is_unspaced(after))


def _is_unspaced(character: str) -> bool:
    code = ord(character)
    return code >= _UNSPACED[0][0] and any(low <= code <= high for low, high in _UNSPACED)
