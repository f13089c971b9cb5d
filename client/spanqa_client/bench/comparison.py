"""Whether two runs differ: intervals of the change between them, out of the spread of their rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

from spanqa.errors import InputError
from spanqa_client.bench.measurement import Level, Measurement

CONFIDENCE = 0.95
"""That no interval of a whole comparison misses its change."""
COMPARED = ("questions_per_s", "p50_ms", "p95_ms", "p99_ms")
_LEAST_ROUNDS = 3
_N_ANGLES = 10_001
_MOST_LOG = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one figure of one level changed from an old run to a new one.

    Args:
        level: How hard the server was pressed.
        metric: The figure's field.
        old: Its mean before.
        new: Its mean after.
        percent: The change, in percent of the old.
        low_percent, high_percent: The interval of the change.
    """

    level: Level
    metric: str
    old: float
    new: float
    percent: float
    low_percent: float
    high_percent: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low_percent <= 0 <= self.high_percent

    @property
    def slower_percent(self) -> float:
        """By how much it became slower: less throughput, or more latency; negative where it became faster."""
        return -self.percent if self.metric == "questions_per_s" else self.percent


def compare(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[Change]:
    """Compare two runs, level by level.

    Figures are compared as ratios, by the logarithms of the rounds. Closed loops by Welch's interval (The
    generalization of Student's problem when several different population variances are involved, Biometrika 34, 1947).
    Open loops by Student's for pairs, since a round of both runs has the same arrivals. The intervals of all figures
    hold together with 95 %: each is as wide as Bonferroni's rule asks.

    Args:
        old: The measurements of the one.
        new: Those of the other, at the same levels.

    Raises:
        InputError: The levels differ, or there are fewer than three rounds.
    """
    check_levels([one.level for one in old], [one.level for one in new])
    check_rounds(min(len(one.rounds) for run in (old, new) for one in run))
    confidence = 1 - (1 - CONFIDENCE) / (len(old) * len(COMPARED))
    return [
        _change(before, after, metric, confidence)
        for before, after in zip(old, new, strict=True)
        for metric in COMPARED
    ]


def check_rounds(fewest: int) -> None:
    """Refuse runs of which too little is known to be compared.

    Args:
        fewest: Rounds of the one with the fewest.

    Raises:
        InputError: They are too few.
    """
    if fewest < _LEAST_ROUNDS:
        raise InputError(
            f"a run of {fewest} rounds shows too little of its spread to be compared: measure with --rounds 3 at least"
        )


def check_levels(old: Sequence[Level], new: Sequence[Level]) -> None:
    """Refuse runs at other levels.

    Raises:
        InputError: They are.
    """
    if list(old) != list(new) or not old:
        raise InputError(f"the old run measured {_listed(old)}, the new one {_listed(new)}: measure the same levels")


def _change(before: Measurement, after: Measurement, metric: str, confidence: float) -> Change:
    logs = [[math.log(max(getattr(one, metric), 1e-9)) for one in run.rounds] for run in (before, after)]
    if before.rate is None:
        difference = fmean(logs[1]) - fmean(logs[0])
        half = welch_half_width(logs[0], logs[1], confidence)
    else:
        gaps = [late - early for early, late in zip(*logs, strict=False)]
        difference = fmean(gaps)
        half = t_quantile(confidence, len(gaps) - 1) * math.sqrt(variance(gaps) / len(gaps))
    low, middle, high = (
        100 * math.expm1(min(value, _MOST_LOG)) for value in (difference - half, difference, difference + half)
    )
    return Change(
        level=before.level,
        metric=metric,
        old=getattr(before, metric),
        new=getattr(after, metric),
        percent=middle,
        low_percent=low,
        high_percent=high,
    )


def welch_half_width(first: Sequence[float], second: Sequence[float], confidence: float) -> float:
    """Give half the width of Welch's interval of the difference of two means.

    Args:
        first, second: At least two values each.
        confidence: Between 0 and 1.
    """
    shares = [variance(values) / len(values) for values in (first, second)]
    total = sum(shares)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(
        share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True)
    )
    return t_quantile(confidence, freedom) * math.sqrt(total)


def t_quantile(confidence: float, freedom: float) -> float:
    """Give the value that Student's t stays within, on both sides, with a confidence.

    With t = sqrt(freedom) tan(a) its density is that of cos(a) ** (freedom - 1), which is summed up.

    Args:
        confidence: Between 0 and 1.
        freedom: Degrees of freedom, at least 1.
    """
    angles = np.linspace(0.0, math.pi / 2, _N_ANGLES)
    heights = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    return float(math.sqrt(freedom) * math.tan(np.interp(confidence, below / below[-1], angles)))


def _listed(levels: Sequence[Level]) -> str:
    return ", ".join(map(str, levels)) or "nothing"
