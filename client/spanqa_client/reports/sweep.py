"""Exact match and F1 at every threshold, for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa_client.gold import GoldQuestion

_MOST_POINTS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Scores over thresholds.

    Args:
        thresholds: Ascending.
        exact: Exact match in percent at each.
        f1: F1 in percent at each.
        answered: Share of the questions that are answered at each, in percent.
    """

    thresholds: Sequence[float]
    exact: Sequence[float]
    f1: Sequence[float]
    answered: Sequence[float]


def sweep_from_margins(
    margins: NDArray[np.float64],
    questions: Sequence[GoldQuestion],
    raw: tuple[Sequence[float | None], Sequence[float | None]],
) -> Sweep | None:
    """Let answers in by ascending margin.

    Args:
        margins: `float64 (n_questions,)`; inf where there is nothing to answer with.
        questions: The dataset.
        raw: Exact match and F1 of each best span; None where it is missing.

    Returns:
        The scores at no more than some hundred of the margins; None where no margin is finite.
    """
    order = np.argsort(margins, kind="stable")
    order = order[np.isfinite(margins[order])]
    if not len(order):
        return None
    null = np.array([float(not question.answers) for question in questions])
    # A question without a prediction scores 0 whatever is done.
    null[[place for place, score in enumerate(raw[0]) if score is None]] = 0.0
    columns = [np.array([score or 0.0 for score in scores]) for scores in raw]
    totals = [100 * (null.sum() + np.cumsum((column - null)[order])) / len(questions) for column in columns]
    # The scores hold from a margin on, so the last of equal ones counts.
    ends = np.flatnonzero(np.append(np.diff(margins[order]) > 0, True))
    kept = ends[np.unique(np.linspace(0, len(ends) - 1, min(len(ends), _MOST_POINTS)).astype(int))]
    return Sweep(
        thresholds=[float(value) for value in margins[order][kept]],
        exact=[float(value) for value in totals[0][kept]],
        f1=[float(value) for value in totals[1][kept]],
        answered=[100 * float(place + 1) / len(questions) for place in kept],
    )
