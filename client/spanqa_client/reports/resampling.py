"""Bootstrap over paragraphs: the same draws for every number of a report, so that slices and runs are paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000
"""Draws: what is left of chance in an interval's end is some 0.03 standard errors."""
CONFIDENCE = 0.95
_MOST_CELLS = 40_000_000
_CHUNK_CELLS = 2_000_000

Interval = tuple[float, float]
"""(low, high); NaN where there is none."""
NO_INTERVAL: Interval = (float("nan"), float("nan"))


class ParagraphDraws:
    """Paragraphs drawn with replacement, as often as there are paragraphs (cluster bootstrap).

    Questions of one paragraph share their context and are not independent, so they are drawn together; an average is
    a ratio of sums over the paragraphs drawn.

    Args:
        paragraphs: The key of each question's paragraph, in the order of the questions.
        n_resamples: Draws; fewer, but at least 1,000, where there are very many paragraphs.
        seed: The same seed gives the same draws.
    """

    def __init__(self, paragraphs: Sequence[int], *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> None:
        keys, self._place = np.unique(np.asarray(paragraphs), return_inverse=True)
        self.n_paragraphs = len(keys)
        self.n_resamples = min(n_resamples, max(1000, _MOST_CELLS // max(1, self.n_paragraphs)))
        self._counts = list(self._drawn(seed))

    def by_paragraph(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum columns over the questions of each paragraph: `float64 (n_questions, k)` to `(n_paragraphs, k)`."""
        sums = np.zeros((self.n_paragraphs, columns.shape[1]))
        np.add.at(sums, self._place, columns)
        return sums

    def sums(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of columns over what each draw took.

        Args:
            columns: `float64 (n_questions, k)`.

        Returns:
            `float64 (n_resamples, k)`.
        """
        per_paragraph = self.by_paragraph(columns)
        # Half the precision is some five digits more than a thousand draws have.
        single = per_paragraph.astype(np.float32)
        return np.concatenate([counts.astype(np.float32) @ single for counts in self._counts]).astype(np.float64)

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """The percentile interval of drawn values `float64 (n_resamples,)`; none of a single paragraph."""
        return interval(values) if self.n_paragraphs > 1 else NO_INTERVAL

    def _drawn(self, seed: int) -> Iterator[NDArray[np.uint8]]:
        """How often each draw took each paragraph, some draws at a time."""
        rng, n = np.random.default_rng(seed), self.n_paragraphs
        step = max(1, _CHUNK_CELLS // n)
        for first in range(0, self.n_resamples, step):
            n_draws = min(step, self.n_resamples - first)
            taken = rng.integers(0, n, size=(n_draws, n), dtype=np.int32)
            taken += np.arange(n_draws, dtype=np.int32)[:, None] * np.int32(n)
            counts = np.bincount(taken.ravel(), minlength=n_draws * n).reshape(n_draws, n)
            yield np.minimum(counts, 255).astype(np.uint8)  # 255 of one paragraph are never drawn


def interval(values: NDArray[np.float64]) -> Interval:
    """The percentile interval of drawn values `float64 (n,)`; draws without a value (NaN) are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return NO_INTERVAL
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients, NaN where a draw took nothing."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def share_intervals(
    draws: ParagraphDraws, values: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> list[list[Interval]]:
    """Intervals of averages over parts of the questions, in percent.

    Args:
        draws: The draws.
        values: `float64 (n_questions, k)`, each in 0..1.
        chosen: `bool (n_questions, m)`: the questions of each part.

    Returns:
        For each part the interval of each of the k averages; none of a part that lies in one paragraph, which no draw
        can vary.
    """
    n_parts = chosen.shape[1]
    parts = chosen.astype(np.float64)
    n_drawn = draws.sums(parts)
    means = [ratio(draws.sums(parts * values[:, [k]]), n_drawn) for k in range(values.shape[1])]
    varies = (draws.by_paragraph(parts) > 0).sum(axis=0) > 1
    return [
        [interval(100 * mean[:, part]) if varies[part] else NO_INTERVAL for mean in means] for part in range(n_parts)
    ]
