"""How well a vocabulary fits a domain: into how many pieces it splits the words that the texts are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from spanqa.tokenization import Pieces

MOST_WORDS = 2_000_000
"""Words looked at, the first of all: of so many the figures no longer move."""
BADLY_SPLIT = 3
"""Pieces from which on a word counts as badly split."""
PLAIN_PIECES_A_WORD, PLAIN_BADLY_SPLIT = 1.11, 0.030
"""Those of plain English: the paragraphs of SQuAD 2.0's development set in BERT's uncased vocabulary."""
_MUCH_WORSE = 2.0
"""Times the share of badly split words."""
_LEAST_COUNT = 3
_SHOWN = 10


class VocabularyReport:
    """Counts words, in lower case, that hold a letter."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._split: dict[str, str] = {}
        self._n_pieces: dict[str, int] = {}
        self._n_words = 0

    def add(self, text: str, pieces: Pieces) -> None:
        """Count the words of a text.

        Args:
            text: The text.
            pieces: Its word pieces.
        """
        if self._n_words >= MOST_WORDS or not len(pieces):
            return
        firsts = np.flatnonzero(~pieces.continues).tolist()
        chars = pieces.chars.tolist()
        for first, end in zip(firsts, [*firsts[1:], len(pieces)], strict=True):
            word = text[chars[first][0] : chars[end - 1][1]].lower()
            if not any(map(str.isalpha, word)):
                continue
            self._n_words += 1
            self._counts[word] += 1
            if word not in self._split:
                self._n_pieces[word] = end - first
                self._split[word] = "|".join(text[low:high].lower() for low, high in chars[first:end])

    def values(self) -> dict[str, Any]:
        """Give the figures, as JSON values."""
        n_words = max(1, self._n_words)
        n_pieces = sum(count * self._n_pieces[word] for word, count in self._counts.items())
        n_badly = sum(count for word, count in self._counts.items() if self._n_pieces[word] >= BADLY_SPLIT)
        return {
            "words": self._n_words,
            "pieces_a_word": round(n_pieces / n_words, 4),
            "badly_split_share": round(n_badly / n_words, 4),
            "most_split": [
                {"word": self._split[word], "pieces": self._n_pieces[word], "count": self._counts[word]}
                for word in self._most_split()
            ],
        }

    def _most_split(self) -> Sequence[str]:
        """Frequent words of many pieces, those first that cost the most pieces in all."""
        bad = [w for w, n in self._n_pieces.items() if n >= BADLY_SPLIT and self._counts[w] >= _LEAST_COUNT]
        bad.sort(key=lambda word: (-self._counts[word] * (self._n_pieces[word] - 1), word))
        return bad[:_SHOWN]


def report_lines(values: dict[str, Any]) -> list[str]:
    """Give the figures as a short table, and a sentence where the vocabulary fits the texts badly."""
    share, pieces = values["badly_split_share"], values["pieces_a_word"]
    rows = [
        ("", "these texts", "plain English"),
        ("words", f"{values['words']:,}", ""),
        ("pieces a word", f"{pieces:.2f}", f"{PLAIN_PIECES_A_WORD:.2f}"),
        (f"words of {BADLY_SPLIT} pieces or more", f"{share:.1%}", f"{PLAIN_BADLY_SPLIT:.1%}"),
    ]
    lines = [f"{label:<26}{ours:>12}{plain:>15}".rstrip() for label, ours, plain in rows]
    if values["most_split"]:
        shown = ", ".join(f"{one['word']} ({one['count']:,})" for one in values["most_split"])
        lines.append(f"most split frequent words: {shown}")
    if is_badly_split(values):
        lines.append(
            f"the vocabulary splits {share / PLAIN_BADLY_SPLIT:.1f} times as many words into {BADLY_SPLIT} pieces or "
            "more as in plain English: adapting helps less than a model whose vocabulary was made for such texts"
        )
    return lines


def is_badly_split(values: dict[str, Any]) -> bool:
    """Whether a vocabulary fits texts much worse than plain English."""
    return bool(values["badly_split_share"] > _MUCH_WORSE * PLAIN_BADLY_SPLIT)
