"""The exact search over a document's spans: each start + end logit within a band, in blocks of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.distinct import Best, distinct_spans
from spanqa.grid import SpanGrid

_BLOCK_CELLS = 1 << 18
"""Grid cells scanned at a time: 1 MiB of float32, so that a long document needs no more memory than a short one."""


@dataclass(slots=True)
class Candidates:
    """Spans as columns: logit `float32`, char_start and char_end `int32`, each `(n,)`."""

    logit: NDArray[np.float32]
    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]

    @classmethod
    def of(cls, spans: list[Best]) -> Candidates:
        """Spans one by one as columns."""
        return cls(
            np.array([span.logit for span in spans], dtype=np.float32),
            np.array([span.char_start for span in spans], dtype=np.int32),
            np.array([span.char_end for span in spans], dtype=np.int32),
        )

    @property
    def first(self) -> Best | None:
        """The first span; None where there is none."""
        if not len(self.logit):
            return None
        return Best(float(self.logit[0]), int(self.char_start[0]), int(self.char_end[0]))

    def best(self, n_best: int) -> Candidates:
        """The n best: logit descending, then char_start, then char_end."""
        order = np.lexsort((self.char_end, self.char_start, -self.logit))[:n_best]
        return Candidates(self.logit[order], self.char_start[order], self.char_end[order])

    def joined(self, other: Candidates) -> Candidates:
        """These spans and the others."""
        return Candidates(
            np.concatenate((self.logit, other.logit)),
            np.concatenate((self.char_start, other.char_start)),
            np.concatenate((self.char_end, other.char_end)),
        )


def search(grid: SpanGrid, *, n_best: int, temperature: float, distinct: bool) -> tuple[Candidates, float, float]:
    """Search all spans of a grid.

    Args:
        grid: The spans.
        n_best: Most spans returned.
        temperature: T of the sum.
        distinct: Whether the spans returned do not overlap.

    Returns:
        The best spans, best first; the largest logit S; the sum of exp((S(c) - S) / T) over all spans c. No spans,
        minus infinity and 0 where there is no span.

    Raises:
        LogitsError: If the windows do not cover the document.
    """
    best, top, mass = Candidates.of([]), -np.inf, 0.0
    tops: list[tuple[tuple[int, int], Best | None]] = []
    blocks = _blocks(grid.document.chars, grid.band)
    for first, last in blocks:
        cells = grid.rows(first, last)
        block, block_top, block_mass = _scan(cells, grid.document.chars, first, 1 if distinct else n_best, temperature)
        tops.append(((first, last), block.first))
        best = block if len(blocks) == 1 else best.joined(block).best(n_best)
        new_top = max(top, block_top)
        if np.isneginf(new_top):
            continue
        mass = mass * np.exp((top - new_top) / temperature) + block_mass * np.exp((block_top - new_top) / temperature)
        top = new_top
    if distinct:
        best = Candidates.of(distinct_spans(grid, tops, n_best, cells))
    return best, top, float(mass)


def _blocks(chars: NDArray[np.int32], band: int) -> list[tuple[int, int]]:
    """Cut the document into row ranges of bounded size, never between pieces that start at one character."""
    n_tokens = len(chars)
    step = max(1, _BLOCK_CELLS // band)
    if n_tokens <= step:
        return [(0, n_tokens)]
    char_starts = chars[:, 0]
    cuts = [0]
    for cut in range(step, n_tokens, step):
        moved = int(np.searchsorted(char_starts, char_starts[cut], side="left"))
        if moved > cuts[-1]:
            cuts.append(moved)
    return list(zip(cuts, [*cuts[1:], n_tokens], strict=True))


def _scan(
    cells: NDArray[np.float32], chars: NDArray[np.int32], first: int, n_best: int, temperature: float
) -> tuple[Candidates, float, float]:
    """Best spans of rows of a grid, from piece `first` on, their largest logit S, and the sum of exp((c - S) / T)."""
    if _are_all_different(chars[first : first + sum(cells.shape)]):
        found, values = _best_cells(cells, chars, first, n_best), cells
    else:
        merged = _merged(cells, chars, first)
        found, values = merged.best(n_best), merged.logit
    top = float(found.logit[0]) if len(found.logit) else -np.inf
    if not np.isfinite(top):
        return found, top, 0.0
    weights = values - np.float32(top)
    if temperature != 1.0:
        weights /= np.float32(temperature)
    return found, top, float(np.exp(weights, out=weights).sum())


def _are_all_different(chars: NDArray[np.int32]) -> bool:
    """Whether no two spans of some pieces are of the same characters; those without a visible one are in no span."""
    starts, ends = chars[chars[:, 0] < chars[:, 1]].T
    return bool((ends[:-1] <= starts[1:]).all())


def _best_cells(grid: NDArray[np.float32], chars: NDArray[np.int32], first: int, n_best: int) -> Candidates:
    """The best cells of a grid whose cells are all distinct character spans."""
    if n_best == 1:
        # The first of equals in a row-wise walk starts first and ends first: the order that `best` gives.
        start, n_more = divmod(int(grid.argmax()), grid.shape[1])
        token, n_found = first + start, 0 if np.isneginf(grid[start, n_more]) else 1
        end = token + n_more
        return Candidates(
            grid[start : start + n_found, n_more], chars[token : token + n_found, 0], chars[end : end + n_found, 1]
        )
    # Each of the n best rows holds a cell at least as good as the n-th best row's, so no better cell is lost; of fewer
    # rows than that every cell counts.
    row_best = grid.max(axis=1)
    nth = len(row_best) - n_best
    floor = np.partition(row_best, nth)[nth] if nth >= 0 else -np.inf
    cells = np.flatnonzero(grid >= floor)
    token_starts, extra = np.divmod(cells, grid.shape[1])
    token_starts += first
    logit = grid.reshape(-1)[cells]
    reachable = ~np.isneginf(logit)
    token_starts, token_ends, logit = token_starts[reachable], (token_starts + extra)[reachable], logit[reachable]
    return Candidates(logit, chars[token_starts, 0], chars[token_ends, 1]).best(n_best)


def _merged(grid: NDArray[np.float32], chars: NDArray[np.int32], first: int) -> Candidates:
    """All distinct character spans of a grid, each with its best logit.

    Several pieces may stand for one character (a Hangul syllable in parts), so several cells may be one span.
    """
    rows, extra = np.nonzero(~np.isneginf(grid))
    char_start = chars[rows + first, 0]
    char_end = chars[rows + first + extra, 1]
    logit = grid[rows, extra]
    order = np.lexsort((char_end, char_start))
    char_start, char_end, logit = char_start[order], char_end[order], logit[order]
    if not len(order):
        return Candidates(logit, char_start, char_end)
    new = np.ones(len(order), dtype=bool)
    new[1:] = (char_start[1:] != char_start[:-1]) | (char_end[1:] != char_end[:-1])
    groups = np.flatnonzero(new)
    return Candidates(np.maximum.reduceat(logit, groups), char_start[groups], char_end[groups])
