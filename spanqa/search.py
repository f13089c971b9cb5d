"""The exact search over a document's spans: each start + end logit within a band, in blocks of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import LogitsError
from spanqa.windows import Windows

_BLOCK_CELLS = 1 << 18
"""Grid cells scanned at a time: 1 MiB of float32, so that a long document needs no more memory than a short one."""


@dataclass(slots=True)
class Candidates:
    """Spans as columns: logit `float32`, char_start and char_end `int32`, each `(n,)`."""

    logit: NDArray[np.float32]
    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]

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


def search(
    windows: Windows,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    *,
    band: int,
    n_best: int,
    temperature: float,
) -> tuple[Candidates, float, float]:
    """Search all spans of at most `band` pieces.

    Args:
        windows: The windows that the encoder read.
        start_logits: `float32 (n_windows, length)`.
        end_logits: Same shape and dtype.
        band: Longest span in word pieces.
        n_best: Most spans returned.
        temperature: T of the sum.

    Returns:
        The best spans, best first; the largest logit S; the sum of exp((S(c) - S) / T) over all spans c.

    Raises:
        LogitsError: If the windows do not cover the document.
    """
    best, top, mass = None, -np.inf, 0.0
    for first, last in _blocks(windows, band):
        grid = _grid(windows, start_logits, end_logits, first, last, band)
        block, block_top, block_mass = _scan(grid, windows.document.chars, first, n_best, temperature)
        best = block if best is None else best.joined(block).best(n_best)
        new_top = max(top, block_top)
        if np.isneginf(new_top):
            continue
        mass = mass * np.exp((top - new_top) / temperature) + block_mass * np.exp((block_top - new_top) / temperature)
        top = new_top
    if best is None:
        raise LogitsError("no window holds any piece of the context")
    return best, top, float(mass)


def _blocks(windows: Windows, band: int) -> list[tuple[int, int]]:
    """Cut the document into row ranges of bounded size, never between pieces that start at one character."""
    n_tokens = len(windows.document)
    step = max(1, _BLOCK_CELLS // band)
    if n_tokens <= step:
        return [(0, n_tokens)]
    char_starts = windows.document.chars[:, 0]
    cuts = [0]
    for cut in range(step, n_tokens, step):
        moved = int(np.searchsorted(char_starts, char_starts[cut], side="left"))
        if moved > cuts[-1]:
            cuts.append(moved)
    return list(zip(cuts, [*cuts[1:], n_tokens], strict=True))


def _scan(
    grid: NDArray[np.float32], chars: NDArray[np.int32], first: int, n_best: int, temperature: float
) -> tuple[Candidates, float, float]:
    """Best spans of a grid whose first row is piece `first`, their largest logit S, and the sum of exp((c - S) / T)."""
    char_starts, char_ends = chars[first : first + sum(grid.shape)].T
    if (char_starts < char_ends).all() and (char_ends[:-1] <= char_starts[1:]).all():
        found, values = _best_cells(grid, chars, first, n_best), grid
    else:
        merged = _merged(grid, chars, first)
        found, values = merged.best(n_best), merged.logit
    top = float(found.logit[0]) if len(found.logit) else -np.inf
    if not np.isfinite(top):
        return found, top, 0.0
    weights = values - np.float32(top)
    if temperature != 1.0:
        weights /= np.float32(temperature)
    return found, top, float(np.exp(weights, out=weights).sum())


def _grid(
    windows: Windows,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    first: int,
    last: int,
    band: int,
) -> NDArray[np.float32]:
    """`float32 (last - first, band)`: cell (i, k) is the best logit of pieces first + i .. first + i + k."""
    grid = None
    offset = windows.context_offset
    for index, (start, length) in enumerate(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True)):
        low, high = max(start, first), min(start + length, last)
        if low >= high:
            continue
        ends = np.full(length + band - 1, -np.inf, dtype=np.float32)
        ends[:length] = end_logits[index, offset : offset + length]
        # Row i of the view is ends[i : i + band]; made directly, as as_strided costs five times as much.
        band_ends: NDArray[np.float32] = np.ndarray(
            (high - low, band), np.float32, ends, offset=4 * (low - start), strides=(4, 4)
        )
        starts = start_logits[index, offset + low - start : offset + high - start, None]
        if grid is None and (low, high) == (first, last):
            grid = starts + band_ends
            continue
        if grid is None:
            grid = np.full((last - first, band), -np.inf, dtype=np.float32)
        rows = grid[low - first : high - first]
        np.maximum(rows, starts + band_ends, out=rows)
    if grid is None:
        raise LogitsError(f"no window covers the pieces {first}..{last - 1} of the context")
    return grid


def _best_cells(grid: NDArray[np.float32], chars: NDArray[np.int32], first: int, n_best: int) -> Candidates:
    """The best cells of a grid whose cells are all distinct character spans."""
    if n_best == 1:
        # The first of equals in a row-wise walk starts first and ends first: the order that `best` gives. It is
        # reachable, as every piece alone is a span.
        start, n_more = divmod(int(grid.argmax()), grid.shape[1])
        token = first + start
        return Candidates(
            grid[start : start + 1, n_more], chars[token : token + 1, 0], chars[token + n_more : token + n_more + 1, 1]
        )
    # Each of the n best rows holds a cell at least as good as the n-th best row's, so no better cell is lost.
    row_best = grid.max(axis=1)
    nth = max(0, len(row_best) - n_best)
    floor = np.partition(row_best, nth)[nth]
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
    order = order[char_start[order] < char_end[order]]
    char_start, char_end, logit = char_start[order], char_end[order], logit[order]
    if not len(order):
        return Candidates(logit, char_start, char_end)
    new = np.ones(len(order), dtype=bool)
    new[1:] = (char_start[1:] != char_start[:-1]) | (char_end[1:] != char_end[:-1])
    groups = np.flatnonzero(new)
    return Candidates(np.maximum.reduceat(logit, groups), char_start[groups], char_end[groups])
