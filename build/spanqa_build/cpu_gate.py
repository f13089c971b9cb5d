"""May a network that rounds be served: judged by what it answers, question by question, and by its logits.

build/README.md has the rule and what it means on few questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spanqa_client.gold import GoldQuestion
from spanqa_client.intervals import bootstrap_intervals

MAX_LOSS = 0.5
"""Most points of exact match and of F1 that may be lost."""
MAX_LOGIT_ERROR = 0.1
"""Largest error of the logits, as a share of their spread: about twice int8's, which is 0.044 for the shipped model on
the bundled questions. Noise of that size changes 9 % of their answers, int8 6 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What a network answers differently from the checkpoint in float32, on the same questions.

    Args:
        questions: The questions.
        exact: Exact match of each question minus the checkpoint's, -1 to 1.
        f1: The same of F1.
        logit_error: Root of the mean squared difference of logits, over the standard deviation of the checkpoint's.
    """

    questions: Sequence[GoldQuestion]
    exact: Sequence[float]
    f1: Sequence[float]
    logit_error: float

    def joined(self, other: Paired) -> Paired:
        """Put the questions of another dataset beside these; paragraphs of two datasets are never the same."""
        first = 1 + max(question.paragraph for question in self.questions)
        moved = [
            GoldQuestion(id=question.id, answers=question.answers, paragraph=first + question.paragraph)
            for question in other.questions
        ]
        return Paired(
            questions=[*self.questions, *moved],
            exact=[*self.exact, *other.exact],
            f1=[*self.f1, *other.f1],
            logit_error=max(self.logit_error, other.logit_error),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the questions say of a network.

    Args:
        passes: Whether it may be served.
        is_told: Whether they could tell: a loss that is too large is shown or ruled out.
        reason: What speaks for it, for people.
    """

    passes: bool
    is_told: bool
    reason: str


def verdict_of(paired: Paired, *, max_loss: float = MAX_LOSS, max_logit_error: float = MAX_LOGIT_ERROR) -> Verdict:
    """Judge a network that rounds.

    Args:
        paired: What it answers differently.
        max_loss: Most points of exact match and of F1 that may be lost.
        max_logit_error: Largest error of its logits.
    """
    if not paired.logit_error <= max_logit_error:  # NaN is refused too
        reason = f"logits are off by {paired.logit_error:.1%} of their spread, at most {max_logit_error:.0%} is allowed"
        return Verdict(passes=False, is_told=True, reason=reason)
    # Paired: a paragraph is drawn for both networks, so that only what they answer differently widens the interval.
    intervals = bootstrap_intervals(paired.questions, paired.exact, paired.f1)
    n_questions = len(paired.questions)
    is_told, told = True, []
    for name, key, differences in (("F1", "f1", paired.f1), ("EM", "exact", paired.exact)):
        change = 100.0 * sum(differences) / n_questions
        low, high = intervals[key]
        interval = f"{name} {change:+.2f} points (95 %: {low:+.2f} to {high:+.2f})"
        # Worse than chance would have it, and by more than is allowed.
        if high < 0 and -change > max_loss:
            reason = f"{interval} on {n_questions:,} questions, a loss of {max_loss:g} is allowed"
            return Verdict(passes=False, is_told=True, reason=reason)
        is_told = is_told and low >= -max_loss
        told.append(interval)
    measured = f"{', '.join(told)}, logits off by {paired.logit_error:.1%} of their spread"
    if is_told:
        return Verdict(passes=True, is_told=True, reason=f"{measured}, on {n_questions:,} questions")
    reason = f"{n_questions:,} questions are too few to tell a loss of {max_loss:g} points: {measured}"
    return Verdict(passes=True, is_told=False, reason=reason)
