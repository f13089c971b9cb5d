"""The grid of a document's spans: one row for each first piece, one column for each number of pieces after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import LogitsError
from spanqa.windows import Windows


class SpanGrid:
    """The best logits of all spans of at most `band` pieces, made in rows when asked for.

    Args:
        windows: The windows that the encoder read.
        start_logits: `float32 (n_windows, length)`.
        end_logits: Same shape and dtype.
        band: Longest span in word pieces.
        word_boundaries: Whether spans that begin or end inside a word are left out (their logit is minus infinity, as
            that of spans which begin or end with a piece that has no visible character).
    """

    def __init__(
        self,
        windows: Windows,
        start_logits: NDArray[np.float32],
        end_logits: NDArray[np.float32],
        *,
        band: int,
        word_boundaries: bool,
    ) -> None:
        self.document = windows.document
        self.band = band
        self._windows = windows
        self._start_logits, self._end_logits = start_logits, end_logits
        begins: NDArray[np.bool_] = self.document.chars[:, 0] < self.document.chars[:, 1]
        ends = begins.copy()
        if word_boundaries:
            begins &= ~self.document.continues
            ends[:-1] &= ~self.document.continues[1:]
        self._closed: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        if not (begins.all() and ends.all()):
            # Added to the logits, as an addition costs less than a choice.
            zero, closed = np.float32(0), np.float32(-np.inf)
            self._closed = np.where(begins, zero, closed), np.where(ends, zero, closed)

    def rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Make the rows of the pieces first .. last - 1.

        Returns:
            `float32 (last - first, band)`, a new array: cell (i, k) is the best logit of the pieces
            first + i .. first + i + k over windows, minus infinity where they are no span.

        Raises:
            LogitsError: If no window covers them.
        """
        grid = None
        for index, (start, length) in enumerate(
            zip(self._windows.starts.tolist(), self._windows.lengths.tolist(), strict=True)
        ):
            low, high = max(start, first), min(start + length, last)
            if low >= high:
                continue
            if grid is None and (low, high) == (first, last):
                grid = self._of_window(index, start, length, low, high)
                continue
            if grid is None:
                grid = np.full((last - first, self.band), -np.inf, dtype=np.float32)
            rows = grid[low - first : high - first]
            np.maximum(rows, self._of_window(index, start, length, low, high), out=rows)
        if grid is None:
            raise LogitsError(f"no window covers the pieces {first}..{last - 1} of the context")
        return grid

    def _of_window(self, index: int, start: int, length: int, low: int, high: int) -> NDArray[np.float32]:
        """Rows low .. high - 1 as one window gives them, whose first piece is `start`."""
        offset = self._windows.context_offset
        ends = np.full(length + self.band - 1, -np.inf, dtype=np.float32)
        ends[:length] = self._end_logits[index, offset : offset + length]
        starts = self._start_logits[index, offset + low - start : offset + high - start]
        if self._closed is not None:
            ends[:length] += self._closed[1][start : start + length]
            starts = starts + self._closed[0][low:high]
        # Row i of the view is ends[i : i + band]; made directly, as as_strided costs five times as much.
        band_ends: NDArray[np.float32] = np.ndarray(
            (high - low, self.band), np.float32, ends, offset=4 * (low - start), strides=(4, 4)
        )
        return starts[:, None] + band_ends
