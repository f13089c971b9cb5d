"""The words by which passages are found: cut out, made small and stemmed alike for texts and for queries.

tantivy could cut words by a regular expression of its own; on texts of 130 words that took five times what all the rest
of its indexing takes (measured), so it gets words that need no more than a cut at spaces.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import tantivy

LONGEST_WORD = 40
"""Bytes; what is as long is no word that anybody asks for: tantivy's own limit in its analysers of languages."""
_MOST_STEMS = 200_000
"""Kept; a language's running text has fewer, garbage has any number."""
_SINGLE_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3038, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
"""Scripts that set no words apart: each of their letters, digits and marks stands for itself."""
_ASCII_WORDS = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
"""What each character of ASCII becomes before a cut at spaces: half the time of a regular expression."""
_SIMPLE_WORDS = re.compile(r"[^\W_]+")
_NOT_SIMPLE = re.compile("[\u0300-\u036f\u0483-\u1cff\u1dc0-\u1dff\u20d0-\u20ff\u2c80-\U0003ffff\U000e0100-\U000e01ef]")
"""Every mark and every letter of the blocks above is among these; other texts are cut in a quarter of the time."""


class Words:
    """Cuts a text into the words that are compared.

    Args:
        stemmer: Language whose words are cut to their stems, one of `STEMMERS`.
    """

    def __init__(self, stemmer: str) -> None:
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.raw())
        if stemmer != "none":
            builder = builder.filter(tantivy.Filter.stemmer(stemmer))
        self._stems = _Stems(builder.build())

    def of(self, text: str) -> list[str]:
        """Give a text's words in order; words that differ in case, in their ending or in Unicode's form are one.

        Args:
            text: Any text that UTF-8 can carry.
        """
        return self.spaced(text).split()

    def spaced(self, text: str) -> str:
        """Give these words in one text, with one space or more between them."""
        if len(self._stems) > _MOST_STEMS:
            self._stems.clear()
        if text.isascii():
            found = text.translate(_ASCII_WORDS).split()
        else:
            # A Turkish capital İ becomes small as two characters, i and a dot above it.
            lowered = unicodedata.normalize("NFC", text.casefold()).replace("i\u0307", "i")
            pattern = _words_of_any_script() if _NOT_SIMPLE.search(lowered) else _SIMPLE_WORDS
            found = pattern.findall(lowered)
        return " ".join(map(self._stems.__getitem__, found))


class _Stems(dict[str, str]):
    """The stem of each word that was met; "" for one that is left out."""

    def __init__(self, analyzer: tantivy.TextAnalyzer) -> None:
        super().__init__()
        self._analyzer = analyzer

    def __missing__(self, word: str) -> str:
        stems = self._analyzer.analyze(word) if len(word.encode()) < LONGEST_WORD else ()
        stem = self[word] = stems[0] if stems else ""
        return stem


@cache
def _words_of_any_script() -> re.Pattern[str]:
    # Made when it is needed: thousands of characters are looked at for it.
    singles = "".join(f"{chr(first)}-{chr(last)}" for first, last in _SINGLE_BLOCKS)
    marks = "".join(map(chr, filter(_is_mark, range(0x300, 0x1F000))))
    letters = rf"[^\W_{singles}]"
    return re.compile(rf"(?=[\w{marks}])[{singles}]|{letters}+(?:[{marks}]+{letters}*)*")


def _is_mark(code: int) -> bool:
    return unicodedata.category(chr(code))[0] == "M" and not any(low <= code <= high for low, high in _SINGLE_BLOCKS)
