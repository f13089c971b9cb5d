"""Whether a score of 0.8 is right in 80 of 100 cases: reliability, and the expected calibration error.

A score is the best span's share among all spans and "no answer"; it is right where the span is an exact match. Every
question counts, answered or not: where the passage holds no answer, no span is right, and the score should be low.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa_client.reports.resampling import Interval, ParagraphDraws, ratio

N_BINS = 10
"""Bins of equal mass: each holds a tenth of the questions, so that none is empty or noisier than another."""
_LOWEST, _HIGHEST = 0.1, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_N_STEPS = 14
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Questions of similar score.

    Args:
        score: Their mean score, in percent.
        right: The share of them whose best span is right, in percent.
        right_interval: Its bootstrap interval.
        n: How many they are.
    """

    score: float
    right: float
    right_interval: Interval
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Reliability of scores.

    Args:
        name: What the scores are.
        temperature: T that they were made with; None where it is not known.
        bins: By ascending score.
        ece: Expected calibration error in percent: the mean over questions of their bin's |score - right|
            (Naeini et al. 2015; bins of equal mass: Nixon et al. 2019).
        ece_interval: Its bootstrap interval with the bins held fixed. Resampling adds noise to every bin, which only
            ever raises the error: the interval lies somewhat high.
        mean_score: In percent.
        mean_right: In percent.
        n: Questions.
    """

    name: str
    temperature: float | None
    bins: Sequence[Bin]
    ece: float
    ece_interval: Interval
    mean_score: float
    mean_right: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempered:
    """A temperature fitted on one part of the questions, and the scores that it gives to the others.

    Args:
        temperature: The fitted T.
        before: T of the model as it was.
        fitted_on: What it was fitted on, in words.
        held_back: Places of the questions that it was not fitted on.
        scores_before: Score of each of these with the T before, 0..1.
        scores_after: The same with the fitted T.
    """

    temperature: float
    before: float
    fitted_on: str
    held_back: Sequence[int]
    scores_before: Sequence[float]
    scores_after: Sequence[float]


def calibration_from_scores(
    scores: NDArray[np.float64],
    right: NDArray[np.float64],
    draws: ParagraphDraws,
    *,
    name: str,
    temperature: float | None,
) -> Calibration:
    """Hold scores against what was right.

    Args:
        scores: `float64 (n_questions,)`, 0..1.
        right: `float64 (n_questions,)`, 0 or 1.
        draws: Draws of these questions' paragraphs.
        name: What the scores are.
        temperature: T that they were made with.
    """
    bins = np.array_split(np.argsort(scores, kind="stable"), min(N_BINS, len(scores)))
    n_bins = len(bins)
    columns = np.zeros((len(scores), 3 * n_bins))
    for number, chosen in enumerate(bins):
        columns[chosen, number] = 1.0
        columns[chosen, n_bins + number] = right[chosen]
        columns[chosen, 2 * n_bins + number] = scores[chosen]
    drawn = draws.sums(columns)
    n_drawn, right_drawn, score_drawn = np.split(drawn, 3, axis=1)
    errors = np.abs(score_drawn - right_drawn).sum(axis=1) / n_drawn.sum(axis=1)
    gaps = [abs(float((scores[chosen] - right[chosen]).sum())) for chosen in bins]
    return Calibration(
        name=name,
        temperature=temperature,
        bins=[
            Bin(
                score=100 * float(scores[chosen].mean()),
                right=100 * float(right[chosen].mean()),
                right_interval=draws.interval(100 * ratio(right_drawn[:, number], n_drawn[:, number])),
                n=len(chosen),
            )
            for number, chosen in enumerate(bins)
        ],
        ece=100 * sum(gaps) / len(scores),
        ece_interval=draws.interval(100 * errors),
        mean_score=100 * float(scores.mean()),
        mean_right=100 * float(right.mean()),
        n=len(scores),
    )


def fitted_temperature(scores_at: Callable[[float], NDArray[np.float64]], right: NDArray[np.float64]) -> float:
    """Find the temperature whose scores make what was right likeliest (Guo et al. 2017), by golden-section search.

    Args:
        scores_at: Scores `float64 (n_questions,)` at a temperature.
        right: `float64 (n_questions,)`, 0 or 1.

    Returns:
        T between 0.1 and 20, to within 1 %.
    """

    def loss(log_temperature: float) -> float:
        scores = np.clip(scores_at(math.exp(log_temperature)), _TINY, 1 - _TINY)
        return -float((right * np.log(scores) + (1 - right) * np.log1p(-scores)).mean())

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    left, right_of = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right_of)
    for _ in range(_N_STEPS):
        if at_left <= at_right:
            high, right_of, at_right = right_of, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right_of, at_right
            right_of = low + _GOLDEN * (high - low)
            at_right = loss(right_of)
    return math.exp((low + high) / 2)
