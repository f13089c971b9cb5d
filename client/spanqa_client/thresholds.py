"""Two sweeps over no-answer thresholds: the official one with its quirks, and the one that sets a model's threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spanqa.errors import DataError
from spanqa_client.gold import GoldQuestion


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedThreshold:
    """The outcome of `tune_threshold`.

    Args:
        threshold: Answer where the no-answer margin is at most this; -inf never answers, inf always does.
        total: Sum of the scores at that threshold.
    """

    threshold: float
    total: float


def official_best(
    questions: Sequence[GoldQuestion],
    predictions: Mapping[str, str],
    raw: Sequence[float | None],
    na_probs: Mapping[str, float],
) -> tuple[float, float]:
    """Do the official script's sweep, quirks included, so that its `best_*` numbers come out.

    It starts from "no answer" everywhere at a threshold of 0.0, walks through the questions by ascending value
    (a stable sort of the file's order) and may stop between equal values. A non-empty prediction for an
    unanswerable question costs 1 even where it normalises to nothing.

    Args:
        questions: The dataset.
        predictions: Text of the answer by question id.
        raw: Score of each question's text, 0..1; None where the prediction is missing, which always scores 0.
        na_probs: No-answer value by question id, in the order of its file.

    Returns:
        The best mean score in percent, and its threshold.
    """
    score_of = {q.id: score for q, score in zip(questions, raw, strict=True) if score is not None}
    has_answer = {q.id: bool(q.answers) for q in questions}
    current: float = sum(1 for key in score_of if not has_answer[key])
    best = current
    best_threshold = 0.0
    for key in sorted(na_probs, key=na_probs.__getitem__):
        score = score_of.get(key)
        if score is None:
            continue
        if has_answer[key]:
            current += score
        elif predictions[key]:
            current -= 1
        if current > best:
            best = current
            best_threshold = na_probs[key]
    return 100.0 * best / len(questions), best_threshold


def tune_threshold(
    *, margins: Sequence[float], answered_scores: Sequence[float], null_scores: Sequence[float]
) -> TunedThreshold:
    """Find the no-answer threshold with the highest total score.

    The sweep starts at minus infinity (never answer), lets in whole groups of equal margins at a time, and stores
    the midpoint between the last margin let in and the next. Among equal totals the lowest threshold wins.

    Args:
        margins: No-answer margin of each question; inf for one without any span, which is never answered.
        answered_scores: Score (0..1) of each question's best non-empty text.
        null_scores: Score of "no answer" for each question: 1 for an unanswerable one, 0 otherwise.

    Returns:
        The threshold and the total; minus infinity where nothing beats never answering, infinity where letting
        in every question is best.

    Raises:
        DataError: The lengths differ, or a margin is NaN or minus infinity.
    """
    if not len(margins) == len(answered_scores) == len(null_scores):
        raise DataError(
            f"got {len(margins)} margins, {len(answered_scores)} scores of answers and {len(null_scores)} of no "
            "answer: give one of each for every question"
        )
    bad = next((margin for margin in margins if math.isnan(margin) or margin == -math.inf), None)
    if bad is not None:
        raise DataError(f"a no-answer margin is {bad}: margins must be finite, or inf where there is no span")
    order = sorted((i for i, margin in enumerate(margins) if margin < math.inf), key=margins.__getitem__)
    current = math.fsum(null_scores)
    best = TunedThreshold(threshold=-math.inf, total=current)
    for place, i in enumerate(order):
        current += answered_scores[i] - null_scores[i]
        following = margins[order[place + 1]] if place + 1 < len(order) else math.inf
        if following != margins[i] and current > best.total:
            best = TunedThreshold(threshold=_between(margins[i], following), total=current)
    return best


def _between(low: float, high: float) -> float:
    return low + (high - low) / 2 if high < math.inf else math.inf
