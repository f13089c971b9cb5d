"""Answering only what is likely right: error rates over the share of questions answered, and the thresholds for them.

A question counts as answered where its margin is at most the threshold; elsewhere nothing is said. The risk is the
share of the answers given that are wrong: not an exact match, or given where the passage holds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa_client.reports.resampling import CONFIDENCE, Interval, ParagraphDraws, ratio

ERROR_RATES = (1, 2, 5, 10, 20)
"""Percent of the answers given."""
_MOST_POINTS = 240
_N_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The most that can be answered at an error rate.

    Args:
        error_rate: Asked for, in percent of the answers given.
        threshold: Answers where the margin is at most this; None where no threshold keeps the rate.
        coverage: Share of all questions that are answered, in percent.
        risk: Share of these answers that are wrong, in percent.
        risk_interval: Its interval, the threshold held fixed: the bootstrap's, or, where nothing is wrong and every
            draw would say 0, the exact one of Clopper and Pearson (1934).
        recall: Share of the answerable questions that are answered rightly, in percent.
    """

    error_rate: float
    threshold: float | None
    coverage: float = 0.0
    risk: float = 0.0
    risk_interval: Interval = (0.0, 0.0)
    recall: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Risk over coverage.

    Args:
        curve: (coverage, risk) in percent, by ascending coverage.
        aurc: Area under it: the mean risk over all coverages, in percent (Geifman and El-Yaniv 2017).
        aurc_interval: Its bootstrap interval.
        best_aurc: The area of a perfect order of the same answers.
        points: What to answer at given error rates.
    """

    curve: Sequence[tuple[float, float]]
    aurc: float
    aurc_interval: Interval
    best_aurc: float
    points: Sequence[OperatingPoint]


def selection_from_margins(
    margins: NDArray[np.float64], right: NDArray[np.float64], answerable: NDArray[np.bool_], draws: ParagraphDraws
) -> Selection:
    """Order the answers by margin and see how many are wrong as more are let in.

    Args:
        margins: `float64 (n_questions,)`; inf where there is no span to answer with.
        right: `float64 (n_questions,)`: 1 where the best span is right, else 0.
        answerable: `bool (n_questions,)`: whether the passage holds an answer.
        draws: The bootstrap's draws.
    """
    order = np.argsort(margins, kind="stable")
    order = order[np.isfinite(margins[order])]
    n_answered = np.arange(1, len(order) + 1)
    n_wrong = np.cumsum(1 - right[order])
    ordered = margins[order]
    is_end = np.append(ordered[1:] != ordered[:-1], True)[: len(order)]
    ends = np.flatnonzero(is_end)
    risks = n_wrong[ends] / n_answered[ends]
    sizes = np.diff(np.concatenate([[0], n_answered[ends]]))
    curve = list(zip(100 * n_answered[ends] / len(margins), 100 * risks, strict=True))
    return Selection(
        curve=_thinned([(float(x), float(y)) for x, y in curve]),
        aurc=100 * float((risks * sizes).sum() / max(1, len(order))),
        aurc_interval=_aurc_interval(order, ends, right, draws),
        best_aurc=_best_aurc(len(order), round(float(n_wrong[-1])) if len(order) else 0),
        points=[
            _point(rate, _threshold(rate, ordered, ends, risks), margins, right, answerable, draws)
            for rate in ERROR_RATES
        ],
    )


def _threshold(
    error_rate: float, ordered: NDArray[np.float64], ends: NDArray[np.int64], risks: NDArray[np.float64]
) -> float | None:
    """The threshold that lets in most at an error rate: midway to the next margin; None where every one is too high."""
    kept = np.flatnonzero(100 * risks <= error_rate)
    if not len(kept):
        return None
    last = int(ends[kept[-1]])
    threshold = float(ordered[last])
    return threshold if last + 1 == len(ordered) else threshold + (float(ordered[last + 1]) - threshold) / 2


def _point(
    error_rate: float,
    threshold: float | None,
    margins: NDArray[np.float64],
    right: NDArray[np.float64],
    answerable: NDArray[np.bool_],
    draws: ParagraphDraws,
) -> OperatingPoint:
    if threshold is None:
        return OperatingPoint(error_rate=error_rate, threshold=None)
    answered = margins <= threshold
    n_answered, wrong = int(answered.sum()), answered * (1 - right)
    if wrong.any():
        drawn = draws.sums(np.stack([wrong, answered.astype(np.float64)], axis=1))
        risk_interval = draws.interval(100 * ratio(drawn[:, 0], drawn[:, 1]))
    else:
        risk_interval = 0.0, 100 * (1 - ((1 - CONFIDENCE) / 2) ** (1 / n_answered))
    return OperatingPoint(
        error_rate=error_rate,
        threshold=threshold,
        coverage=100 * n_answered / len(margins),
        risk=100 * float(wrong.sum()) / n_answered,
        risk_interval=risk_interval,
        recall=100 * float((answered & answerable & (right > 0)).sum() / max(1, answerable.sum())),
    )


def _aurc_interval(
    order: NDArray[np.int64], ends: NDArray[np.int64], right: NDArray[np.float64], draws: ParagraphDraws
) -> Interval:
    """The area's interval, on a grid of at most a hundred steps of the order: a step's risk is that at its end."""
    if not len(order):
        return 0.0, 0.0
    steps = ends[np.unique(np.linspace(0, len(ends) - 1, min(len(ends), _N_STEPS)).astype(int))]
    of_step = np.searchsorted(steps, np.arange(len(order)))
    columns = np.zeros((len(right), 2 * len(steps)))
    columns[order, of_step] = 1.0
    columns[order, len(steps) + of_step] = 1 - right[order]
    drawn = draws.sums(columns)
    sizes, wrong = drawn[:, : len(steps)], drawn[:, len(steps) :]
    risks = ratio(np.cumsum(wrong, axis=1), np.cumsum(sizes, axis=1))
    return draws.interval(100 * np.nansum(risks * sizes, axis=1) / np.maximum(1, sizes.sum(axis=1)))


def _best_aurc(n: int, n_wrong: int) -> float:
    """The area where every right answer comes before every wrong one."""
    if not n:
        return 0.0
    answered = np.arange(1, n + 1)
    return 100 * float((np.maximum(0, answered - (n - n_wrong)) / answered).mean())


def _thinned(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(curve) <= _MOST_POINTS:
        return curve
    kept = np.unique(np.linspace(0, len(curve) - 1, _MOST_POINTS).astype(int))
    return [curve[place] for place in kept]
