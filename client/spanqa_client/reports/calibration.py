"""Whether a score of 0.8 is right in 80 of 100 cases: reliability, and the expected calibration error.

The score is the best span's; it is right where that span is an exact match. Every question counts, answered or not:
where the passage holds no answer, no span is right, and the score should be low.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spanqa.score_scale import ScoreScale
from spanqa_client.reports.resampling import Interval, ParagraphDraws, ratio

N_BINS = 10
"""Bins of equal mass: each holds a tenth of the questions, so that none is empty or noisier than another."""
_STEPS_AN_OCTAVE, _MOST_STEPS = 4, 16
"""Temperatures that are tried: 1/16 to 16, each a fifth from the next."""
_LEAST_SLOPE = 0.01
"""Over margins of spread 1. A slope may not be 0 or less: the surer an answer, the likelier it must be."""
_FARTHEST = 1000.0
"""Margins beyond tell no more."""
_N_STEPS, _ENOUGH = 50, 1e-7
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
        scale: How they were made; None where it is not known.
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
    scale: ScoreScale | None
    bins: Sequence[Bin]
    ece: float
    ece_interval: Interval
    mean_score: float
    mean_right: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedScale:
    """A scale of scores, with what scales fitted on the other parts of the questions give to each part (cross-fitting).

    Args:
        scale: Fitted on all questions.
        before: The model's as it was.
        fitted_on: What it was fitted on, in words.
        judged_by: How the scores after come about, in words.
        scores_before: Score of each question as it was, 0..1.
        scores_after: The same by a scale that was not fitted on its part.
        ece_before: Expected calibration error of the scores before, in percent.
        ece_after: The same of those after.
    """

    scale: ScoreScale
    before: ScoreScale
    fitted_on: str
    judged_by: str
    scores_before: Sequence[float]
    scores_after: Sequence[float]
    ece_before: float
    ece_after: float


def said_of_fit(fitted: FittedScale) -> str:
    """Say in a sentence how a fit was judged, and how well it did."""
    return (
        f"Expected calibration error {fitted.ece_before:.1f} % as it was, {fitted.ece_after:.1f} % after a fit on "
        f"{fitted.fitted_on}: {fitted.judged_by}."
    )


def expected_calibration_error(scores: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The mean over questions of their bin's |score - right|, in percent; arguments as `calibration_from_scores`."""
    gaps = [abs(float((scores[chosen] - right[chosen]).sum())) for chosen in _bins(scores)]
    return 100 * sum(gaps) / len(scores)


def _bins(scores: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Places of the questions of each bin, by ascending score."""
    return np.array_split(np.argsort(scores, kind="stable"), min(N_BINS, len(scores)))


def calibration_from_scores(
    scores: NDArray[np.float64],
    right: NDArray[np.float64],
    draws: ParagraphDraws,
    *,
    name: str,
    scale: ScoreScale | None,
) -> Calibration:
    """Hold scores against what was right.

    Args:
        scores: `float64 (n_questions,)`, 0..1.
        right: `float64 (n_questions,)`, 0 or 1.
        draws: Draws of these questions' paragraphs.
        name: What the scores are.
        scale: How they were made; None where it is not known.
    """
    bins = _bins(scores)
    n_bins = len(bins)
    columns = np.zeros((len(scores), 3 * n_bins))
    for number, chosen in enumerate(bins):
        columns[chosen, number] = 1.0
        columns[chosen, n_bins + number] = right[chosen]
        columns[chosen, 2 * n_bins + number] = scores[chosen]
    drawn = draws.sums(columns)
    n_drawn, right_drawn, score_drawn = np.split(drawn, 3, axis=1)
    errors = np.abs(score_drawn - right_drawn).sum(axis=1) / n_drawn.sum(axis=1)
    return Calibration(
        name=name,
        scale=scale,
        bins=[
            Bin(
                score=100 * float(scores[chosen].mean()),
                right=100 * float(right[chosen].mean()),
                right_interval=draws.interval(100 * ratio(right_drawn[:, number], n_drawn[:, number])),
                n=len(chosen),
            )
            for number, chosen in enumerate(bins)
        ],
        ece=expected_calibration_error(scores, right),
        ece_interval=draws.interval(100 * errors),
        mean_score=100 * float(scores.mean()),
        mean_right=100 * float(right.mean()),
        n=len(scores),
    )


def fitted_scale(
    shares_at: Callable[[float], NDArray[np.float64]], margins: NDArray[np.float64], right: NDArray[np.float64]
) -> ScoreScale:
    """Find the scale whose scores make what was right likeliest.

    Temperatures are tried from 1 on downhill, each with its best slope and offset. The targets are Platt's (1999),
    drawn in by one question at either end: questions that are told apart perfectly fit no infinite slope.

    Args:
        shares_at: The best span's share among all spans at a temperature, `float64 (n_questions,)`, 0..1.
        margins: No-answer margin of each question, `float64 (n_questions,)`.
        right: Whether its best span is right, `float64 (n_questions,)`, 0 or 1.
    """
    n_right = float(right.sum())
    targets = np.where(right > 0, (n_right + 1) / (n_right + 2), 1 / (len(right) - n_right + 2))
    bounded = np.clip(margins, -_FARTHEST, _FARTHEST)

    @cache
    def fit(step: int) -> tuple[float, ScoreScale]:
        temperature = 2 ** (step / _STEPS_AN_OCTAVE)
        loss, slope, offset = _fitted_answer(shares_at(temperature), bounded, targets)
        return loss, ScoreScale(temperature, slope, offset)

    step = 0
    while (better := min((step, step - 1, step + 1), key=lambda one: fit(one)[0])) != step and abs(step) < _MOST_STEPS:
        step = better
    return fit(step)[1]


def _fitted_answer(
    shares: NDArray[np.float64], margins: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Loss, slope and offset of the likeliest probability of an answer, which times a share is that of being right."""
    # Wherever the margins lie: a fit that began far from them would end in another minimum, or nowhere.
    middle, spread = float(np.median(margins)), float(margins.std()) or 1.0
    inputs = np.stack([(middle - margins) / spread, np.ones(len(margins))], axis=1)
    loss, (slope, offset) = _scored(shares, inputs, targets, np.array([1.0, 0.0]))
    # The slope held at its least, the offset alone fitted.
    flat_loss, (flat_offset,) = _scored(shares, inputs[:, 1:], targets, np.zeros(1), _LEAST_SLOPE * inputs[:, 0])
    if slope < _LEAST_SLOPE or flat_loss < loss:
        loss, slope, offset = flat_loss, _LEAST_SLOPE, flat_offset
    return loss, float(slope / spread), float(offset + slope * middle / spread)


def _scored(
    shares: NDArray[np.float64],
    inputs: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    fixed: NDArray[np.float64] | float = 0.0,
) -> tuple[float, NDArray[np.float64]]:
    """Cross-entropy and weights of the likeliest share * logistic(inputs @ weights + fixed), by Fisher scoring.

    Steps are halved where they lead upwards, as Lin, Lin and Weng (2007) halve Newton's for Platt's fit.
    """

    def chances(at: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        answers = 1 / (1 + np.exp(np.clip(-(inputs @ at + fixed), -_FARTHEST / 2, _FARTHEST / 2)))
        return answers, np.clip(shares * answers, _TINY, 1 - _TINY)

    def loss(at: NDArray[np.float64]) -> float:
        _, scores = chances(at)
        return -float((targets * np.log(scores) + (1 - targets) * np.log1p(-scores)).mean())

    current = loss(weights)
    for _ in range(_N_STEPS):
        answers, scores = chances(weights)
        slopes = (1 - answers) / (1 - scores)
        gradient = inputs.T @ ((scores - targets) * slopes) / len(targets)
        curvature = (inputs * (scores * (1 - answers) * slopes)[:, None]).T @ inputs / len(targets)
        step = np.linalg.solve(curvature + _TINY * np.eye(len(weights)), gradient)
        while (following := loss(weights - step)) > current and np.abs(step).max() > _ENOUGH:
            step = step / 2
        if following > current:
            break
        weights, current = weights - step, following
        if np.abs(step).max() <= _ENOUGH:
            break
    return current, weights
