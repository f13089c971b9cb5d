"""The best spans that do not overlap: greedily, each the best of all that overlap none before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.grid import SpanGrid


@dataclass(frozen=True, slots=True)
class Best:
    """One span: its logit S, and its first code point and end."""

    logit: float
    char_start: int
    char_end: int


def distinct_spans(
    grid: SpanGrid,
    tops: list[tuple[tuple[int, int], Best | None]],
    n_best: int,
    last_cells: NDArray[np.float32],
) -> list[Best]:
    """Take spans by logit descending, then char_start, then char_end, leaving out what overlaps one already taken.

    Args:
        grid: The spans.
        tops: The grid in blocks of rows (first, last), in order, and the best span of each; None where it has none.
        n_best: Most spans returned.
        last_cells: The rows of the last block, which are overwritten.

    Returns:
        The spans, best first.
    """
    free = _FreeSpans(grid, tops[-1][0], last_cells)
    best_of_block = dict(tops)
    taken: list[Best] = []
    while len(taken) < n_best:
        best = None
        for candidate in best_of_block.values():
            # The first of equals starts first, as blocks never part pieces that start at one character.
            if candidate is not None and (best is None or candidate.logit > best.logit):
                best = candidate
        if best is None:
            break
        taken.append(best)
        if len(taken) == n_best:
            break
        low, high = free.take(best)
        for block in best_of_block:
            if best_of_block[block] is not None and block[0] < high and low < block[1]:
                best_of_block[block] = free.best(block)
    return taken


class _FreeSpans:
    """The spans that overlap none taken. One block's cells are kept; those of another are made again when needed."""

    def __init__(self, grid: SpanGrid, block: tuple[int, int], cells: NDArray[np.float32]) -> None:
        self._grid = grid
        self._starts = np.ascontiguousarray(grid.document.chars[:, 0])
        self._ends = np.ascontiguousarray(grid.document.chars[:, 1])
        self._taken: list[tuple[int, int]] = []
        # Row j of the last rows before a piece: minus infinity where a span reaches that piece.
        reach = np.arange(grid.band) >= np.arange(grid.band - 1, 0, -1)[:, None]
        self._reaching = np.where(reach, np.float32(-np.inf), np.float32(0))
        self._block, self._cells = block, cells

    def take(self, span: Best) -> tuple[int, int]:
        """Close all spans that overlap one; returns the range of the rows that may have lost a cell."""
        # Offsets never go back from one piece to the next, so pieces i .. j overlap the span where i < high, j >= low.
        low = int(self._ends.searchsorted(span.char_start, side="right"))
        high = int(self._starts.searchsorted(span.char_end, side="left"))
        self._taken.append((low, high))
        self._close(low, high)
        return low - self._grid.band + 1, high

    def best(self, block: tuple[int, int]) -> Best | None:
        """The best free span that begins in a block; None where there is none."""
        if block != self._block:
            self._block, self._cells = block, self._grid.rows(*block)
            for low, high in self._taken:
                self._close(low, high)
        row, n_more = divmod(int(self._cells.argmax()), self._grid.band)
        logit = self._cells[row, n_more]
        if np.isneginf(logit):
            return None
        piece = block[0] + row
        char_start, char_end = self._starts[piece], self._ends[piece + n_more]
        n_same = int(self._starts.searchsorted(char_start, side="right")) - piece
        if n_same > 1:
            rows, more = np.nonzero(self._cells[row : row + n_same] == logit)
            char_end = self._ends[piece + rows + more].min()
        return Best(float(logit), int(char_start), int(char_end))

    def _close(self, low: int, high: int) -> None:
        first, last = self._block
        self._cells[max(low, first) - first : max(high, first) - first] = -np.inf
        above, below = max(low - self._grid.band + 1, first), min(low, last)
        if above < below:
            shift = self._grid.band - 1 - low
            self._cells[above - first : below - first] += self._reaching[above + shift : below + shift]
