"""What became of each question: its scores, and the kind of its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spanqa.squad import Example
from spanqa_client.reports.runs import Run, Said

RIGHT_ANSWER, RIGHT_NULL = "right answer", "right no answer"
BOUNDARY, WRONG_SPAN = "boundary", "wrong span"
FALSE_NULL, FALSE_ANSWER = "false no answer", "false answer"
MISSING = "missing"

KINDS = {
    RIGHT_ANSWER: "the answer equals an annotated one",
    RIGHT_NULL: "the passage holds no answer, and none was given",
    BOUNDARY: "the answer overlaps an annotated one, and is longer, shorter or shifted",
    WRONG_SPAN: "the answer stands somewhere else",
    FALSE_NULL: "the passage holds an answer, and none was given",
    FALSE_ANSWER: "the passage holds no answer, and one was given",
    MISSING: "the run says nothing to this question",
}
"""The kinds of outcome, the right ones first, each with what it means."""
RIGHT_KINDS = frozenset({RIGHT_ANSWER, RIGHT_NULL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One question and what a run made of it.

    Args:
        example: The question.
        said: What the run says; None where it says nothing.
        exact: Exact match, 0 or 1.
        f1: F1, 0..1.
        kind: One of KINDS.
    """

    example: Example
    said: Said | None
    exact: float
    f1: float
    kind: str

    @property
    def is_answered(self) -> bool:
        """Whether an answer was given."""
        return self.said is not None and self.said.answered


def outcomes_from_scores(
    run: Run, examples: Sequence[Example], exact: Sequence[float], f1: Sequence[float]
) -> list[Outcome]:
    """Sort every question by what became of it.

    Args:
        run: The run.
        examples: The questions, in order.
        exact: Exact match of each, as the official script scores the answer given.
        f1: F1 of each.
    """
    outcomes = []
    for example, exact_of_one, f1_of_one in zip(examples, exact, f1, strict=True):
        said = run.said.get(example.id)
        kind = _kind(example, said, exact_of_one, f1_of_one)
        outcomes.append(Outcome(example=example, said=said, exact=exact_of_one, f1=f1_of_one, kind=kind))
    return outcomes


def _kind(example: Example, said: Said | None, exact: float, f1: float) -> str:
    if said is None:
        return MISSING
    if exact:
        return RIGHT_ANSWER if said.answered and example.answers else RIGHT_NULL
    if not example.answers:
        return FALSE_ANSWER
    if not said.answered:
        return FALSE_NULL
    return BOUNDARY if _overlaps(example, said, f1) else WRONG_SPAN


def _overlaps(example: Example, said: Said, f1: float) -> bool:
    """Whether an answer overlaps a gold one: by place, and by words where the place is not known."""
    if said.char_start < 0:
        return f1 > 0
    return any(gold.char_start < said.char_end and said.char_start < gold.char_end for gold in example.answers)
