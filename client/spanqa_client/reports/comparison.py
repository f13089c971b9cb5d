"""Two runs over the same questions: which answers differ, what was gained and lost, and whether it could be chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import DataError
from spanqa_client.reports.outcomes import Outcome
from spanqa_client.reports.resampling import NO_INTERVAL, Interval, ParagraphDraws

SAME = "same answer"
GAINED, LOST = "gained", "lost"
BOTH_RIGHT, BOTH_WRONG = "both right, in other words", "both wrong, differently"
CHANGES = {
    SAME: "both runs give the same answer",
    GAINED: "wrong before, right now",
    LOST: "right before, wrong now",
    BOTH_RIGHT: "another answer, and both are right",
    BOTH_WRONG: "another answer, and both are wrong",
}
"""The ways in which two answers to one question relate, each with what it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much higher a run's average is than the other's.

    Args:
        value: In points of percent.
        interval: Its paired bootstrap interval.
        p_value: Two-sided, of the bootstrap: how often a draw falls on the other side of zero, twice; not below what a
            sign test over the paragraphs that differ could show, since a bootstrap of few paragraphs shows anything.
    """

    value: float
    interval: Interval
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run against another.

    Args:
        other: The other run's name.
        changes: How the two answers to each question relate, in the order of the questions.
        counts: How many questions there are of each of CHANGES.
        moves: (kind of the other's outcome, kind of this one's) with how many answers that differ moved so.
        exact: Difference of exact match.
        f1: Difference of F1.
        mcnemar: Exact two-sided p of McNemar's test on exact match.
        mcnemar_mid: The same test's mid-p (Fagerland, Lydersen and Laake 2013).
        others: The other run's outcomes, in the order of the questions.
    """

    other: str
    changes: Sequence[str]
    counts: Mapping[str, int]
    moves: Mapping[tuple[str, str], int]
    exact: Difference
    f1: Difference
    mcnemar: float
    mcnemar_mid: float
    others: Sequence[Outcome]

    @property
    def n_differ(self) -> int:
        """Questions that the runs answer differently."""
        return sum(n for change, n in self.counts.items() if change != SAME)


def comparison_from_outcomes(
    ours: Sequence[Outcome], others: Sequence[Outcome], draws: ParagraphDraws, *, other: str
) -> Comparison:
    """Compare two runs question by question.

    Args:
        ours: This run's outcomes.
        others: The other's, of the same questions in the same order.
        draws: The bootstrap's draws.
        other: The other run's name.

    Raises:
        DataError: The other run has nothing to say to a part of the questions.
    """
    lacking = [outcome.example.id for outcome in others if outcome.said is None]
    if lacking:
        raise DataError(
            f"the run to compare with lacks {len(lacking):,} of {len(others):,} questions, such as {lacking[0]}: "
            "give one over the same dataset"
        )
    changes = [_change(one, two) for one, two in zip(ours, others, strict=True)]
    counts = Counter(changes)
    moves = Counter(
        (two.kind, one.kind) for one, two, change in zip(ours, others, changes, strict=True) if change != SAME
    )
    pairs = list(zip(ours, others, strict=True))
    drawn = draws.sums(np.array([[a.exact - b.exact, a.f1 - b.f1, 1.0] for a, b in pairs]))
    values = [100 * sum(getattr(a, name) - getattr(b, name) for a, b in pairs) / len(pairs) for name in ("exact", "f1")]
    least = [
        _least_p({a.example.context for a, b in pairs if getattr(a, name) != getattr(b, name)})
        for name in ("exact", "f1")
    ]
    exact, f1 = (_difference(value, 100 * drawn[:, k] / drawn[:, 2], draws, least[k]) for k, value in enumerate(values))
    n_gained, n_lost = (sum(change == one for change in changes) for one in (GAINED, LOST))
    mcnemar, mcnemar_mid = mcnemar_test(n_gained, n_lost)
    return Comparison(
        other=other,
        changes=changes,
        counts={change: counts[change] for change in CHANGES},
        moves=dict(moves.most_common()),
        exact=exact,
        f1=f1,
        mcnemar=mcnemar,
        mcnemar_mid=mcnemar_mid,
        others=others,
    )


def mcnemar_test(n_gained: int, n_lost: int) -> tuple[float, float]:
    """McNemar's test of paired yes-or-no outcomes, from the counts of the pairs that differ.

    Args:
        n_gained: Pairs that are right only in the first run.
        n_lost: Pairs that are right only in the second.

    Returns:
        The exact two-sided p (binomial with probability 1/2), and its mid-p, which takes half of what is as likely as
        what was seen; both 1 where no pair differs.
    """
    n, few = n_gained + n_lost, min(n_gained, n_lost)
    if n == 0:
        return 1.0, 1.0
    shares = [
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(few + 1)
    ]
    tail = math.fsum(shares)
    if n_gained == n_lost:  # the two tails share their last term
        return 1.0, 1.0 - shares[-1] / 2
    return min(1.0, 2 * tail), min(1.0, 2 * tail - shares[-1])


def _change(ours: Outcome, other: Outcome) -> str:
    if ours.exact != other.exact:
        return GAINED if ours.exact > other.exact else LOST
    if _same_answer(ours, other):
        return SAME
    return BOTH_RIGHT if ours.exact else BOTH_WRONG


def _same_answer(ours: Outcome, other: Outcome) -> bool:
    if ours.said is None or other.said is None:
        return ours.said is other.said
    one, two = ours.said.answer, other.said.answer
    # A prediction file knows no places: the texts must do.
    return one == two if min(one[1], two[1]) >= 0 else one[0] == two[0]


def _least_p(paragraphs: Collection[str]) -> float:
    """What paragraphs that differ can show at most: a sign test's p where all of them go one way."""
    return float(min(1.0, 2 * 0.5 ** len(paragraphs)))


def _difference(value: float, drawn: NDArray[np.float64], draws: ParagraphDraws, least_p: float) -> Difference:
    if draws.n_paragraphs < 2:
        return Difference(value=value, interval=NO_INTERVAL, p_value=1.0)
    n = len(drawn)
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    # One more than was drawn: a p of 0 cannot be told from finitely many draws.
    p_value = max(least_p, min(1.0, 2 * (1 + min(below, above)) / (n + 1)))
    return Difference(value=value, interval=draws.interval(drawn), p_value=p_value)
