"""What a prediction is scored against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spanqa.squad import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldQuestion:
    """One question with its gold answers.

    Args:
        id: The question's id.
        answers: The gold answers' texts; none for an unanswerable question.
        paragraph: Key of its paragraph; questions of one paragraph are resampled together.
    """

    id: str
    answers: tuple[str, ...]
    paragraph: int


def gold_from_examples(examples: Iterable[Example]) -> list[GoldQuestion]:
    """Give what scoring needs of a dataset's examples, in the same order."""
    return [
        GoldQuestion(
            id=example.id, answers=tuple([answer.text for answer in example.answers]), paragraph=example.paragraph
        )
        for example in examples
    ]
