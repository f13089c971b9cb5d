"""Word pieces of texts that were asked about before, so that each is tokenised once."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable

from spanqa.tokenization import Pieces

_ENTRY_BYTES = 650
"""What an entry takes beside its text and its arrays: measured with tracemalloc, CPython 3.11, rounded up."""


class PiecesCache:
    """Keeps the word pieces of texts, the least recently used forgotten first; for one thread at a time.

    Args:
        tokenize: Cuts texts into word pieces.
        limit_bytes: Memory that texts and pieces may take; a text that takes more than a quarter is never kept.
    """

    def __init__(self, tokenize: Callable[[list[str]], list[Pieces]], *, limit_bytes: int) -> None:
        self._tokenize, self._limit_bytes = tokenize, limit_bytes
        self._kept: OrderedDict[str, Pieces] = OrderedDict()
        self.n_bytes = 0
        self.n_hits = 0
        self.n_misses = 0

    def pieces(self, kept: Iterable[str], passing: Iterable[str] = ()) -> dict[str, Pieces]:
        """Give the word pieces of texts, each text tokenised once.

        Args:
            kept: Texts that are likely to come again: contexts.
            passing: Texts that are not: questions.

        Returns:
            Pieces by text.
        """
        found: dict[str, Pieces] = {}
        missing: dict[str, bool] = {}
        for text in kept:
            if text in self._kept:
                self._kept.move_to_end(text)
                found[text] = self._kept[text]
                self.n_hits += 1
            elif text in missing:
                self.n_hits += 1
            else:
                missing[text] = True
                self.n_misses += 1
        for text in passing:
            if text not in found:
                missing.setdefault(text, False)
        for (text, is_kept), pieces in zip(missing.items(), self._tokenize(list(missing)), strict=True):
            found[text] = pieces
            if is_kept:
                self._keep(text, pieces)
        return found

    def _keep(self, text: str, pieces: Pieces) -> None:
        size = _bytes_of(text, pieces)
        if size > self._limit_bytes // 4:
            return
        self._kept[text] = pieces
        self.n_bytes += size
        while self.n_bytes > self._limit_bytes:
            self.n_bytes -= _bytes_of(*self._kept.popitem(last=False))


def _bytes_of(text: str, pieces: Pieces) -> int:
    # The text with its copy in UTF-8, which stays with it once it was tokenised.
    arrays = pieces.ids.nbytes + pieces.chars.nbytes + pieces.continues.nbytes
    return sys.getsizeof(text) + arrays + _ENTRY_BYTES
