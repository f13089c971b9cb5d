"""Confidence intervals of exact match and F1, by resampling paragraphs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from operator import itemgetter

from spanqa.errors import DataError
from spanqa_client.gold import GoldQuestion

DEFAULT_N_RESAMPLES = 1000
DEFAULT_CONFIDENCE = 0.95


def bootstrap_intervals(
    questions: Sequence[GoldQuestion],
    exact: Sequence[float],
    f1: Sequence[float],
    *,
    n_resamples: int = DEFAULT_N_RESAMPLES,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Give percentile bootstrap intervals of the averages.

    Questions of one paragraph share their context and are not independent, so whole paragraphs are drawn with
    replacement, and each average is a ratio of sums over the paragraphs drawn (cluster bootstrap).

    Args:
        questions: The dataset.
        exact: Exact match of each question, 0 or 1.
        f1: F1 of each question, 0..1.
        n_resamples: Draws.
        confidence: Share of the draws inside an interval, between 0 and 1.
        seed: The same seed gives the same intervals.

    Returns:
        (low, high) in percent under the official keys: exact, f1, HasAns_exact, HasAns_f1, NoAns_exact, NoAns_f1,
        those of the kinds of question that the dataset holds.

    Raises:
        DataError: n_resamples or confidence out of range, or no question.
    """
    if n_resamples < 1 or not 0 < confidence < 1 or not questions:
        raise DataError(
            f"got {len(questions)} questions, {n_resamples} resamples and confidence {confidence}: allowed are at "
            "least one question and one resample, and a confidence between 0 and 1"
        )
    draws = _draws(_paragraph_sums(questions, exact, f1), n_resamples, seed)
    tail = (1 - confidence) / 2
    return {name: (_quantile(v, tail), _quantile(v, 1 - tail)) for name, v in draws.items() if v}


def _draws(sums: tuple[list[float], ...], n_resamples: int, seed: int) -> dict[str, list[float]]:
    """Averages in percent of every draw, by official key."""
    draws: dict[str, list[float]] = {name: [] for name in ("exact", "f1", "HasAns_exact", "HasAns_f1")}
    draws |= {"NoAns_exact": [], "NoAns_f1": []}
    rng = random.Random(seed)  # noqa: S311 - resampling, not secrets
    n_paragraphs = len(sums[0])
    for _ in range(n_resamples):
        # itemgetter with all the indices sums in C; one index would not give a tuple, so a harmless one is added.
        take = itemgetter(n_paragraphs, *rng.choices(range(n_paragraphs), k=n_paragraphs))
        totals = [sum(take([*column, 0])) for column in sums]
        for prefix, (n, n_exact, f1_sum) in zip(
            ("", "HasAns_", "NoAns_"), (_added(totals), totals[:3], totals[3:]), strict=True
        ):
            if n:
                draws[f"{prefix}exact"].append(100.0 * n_exact / n)
                draws[f"{prefix}f1"].append(100.0 * f1_sum / n)
    return draws


def _paragraph_sums(
    questions: Sequence[GoldQuestion], exact: Sequence[float], f1: Sequence[float]
) -> tuple[list[float], ...]:
    """Count, exact sum and F1 sum of each paragraph: three columns for answerable questions, three for the others."""
    rows: dict[int, list[float]] = {}
    for question, question_exact, question_f1 in zip(questions, exact, f1, strict=True):
        row = rows.setdefault(question.paragraph, [0.0] * 6)
        at = 0 if question.answers else 3
        row[at] += 1
        row[at + 1] += question_exact
        row[at + 2] += question_f1
    return tuple([list(column) for column in zip(*rows.values(), strict=True)])


def _added(totals: Sequence[float]) -> list[float]:
    return [answerable + unanswerable for answerable, unanswerable in zip(totals[:3], totals[3:], strict=True)]


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
