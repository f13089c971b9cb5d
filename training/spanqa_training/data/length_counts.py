"""How often each length occurs, and what that comes to: a few bytes for each distinct length."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

_MOST_BARS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSummary:
    """How long some texts are; percentiles are nearest-rank, and all is 0 where there is no text."""

    mean: float
    p50: int
    p95: int
    p99: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The number of texts whose length lies in `first..last`."""

    first: int
    last: int
    count: int


class LengthCounts:
    """Counts texts by their length."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        """Count one text."""
        self._counts[length] += 1

    def summary(self) -> LengthSummary:
        """Mean, percentiles and the longest."""
        total = self._counts.total()
        if not total:
            return LengthSummary(mean=0.0, p50=0, p95=0, p99=0, longest=0)
        return LengthSummary(
            mean=sum(length * count for length, count in self._counts.items()) / total,
            p50=self._percentile(50),
            p95=self._percentile(95),
            p99=self._percentile(99),
            longest=max(self._counts),
        )

    def _percentile(self, percent: int) -> int:
        rank = math.ceil(self._counts.total() * percent / 100)
        lengths = sorted(self._counts)
        counted = accumulate(self._counts[length] for length in lengths)
        return next(length for length, n in zip(lengths, counted, strict=True) if n >= rank)

    def bars(self) -> tuple[Bar, ...]:
        """A histogram of twenty bars at most, all of one width, a power of two."""
        if not self._counts:
            return ()
        width = 1
        while max(self._counts) // width >= _MOST_BARS:
            width *= 2
        counts: Counter[int] = Counter()
        for length, count in self._counts.items():
            counts[length // width] += count
        return tuple(
            Bar(first=number * width, last=(number + 1) * width - 1, count=counts[number])
            for number in range(min(counts), max(counts) + 1)
        )
