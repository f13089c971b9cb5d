"""Answers of several contexts to one question, ranked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spanqa.contract import MAX_ROWS
from spanqa.errors import InputError
from spanqa_client.answer import Answer
from spanqa_client.options import utf8_from_text

_CHUNK_CHARS = 1_000_000
"""Characters of one request of several contexts: a server limits the windows of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextAnswer:
    """An answer, and the context that it stands in.

    Args:
        context_index: The place of that context among those given, from 0.
        text: The answer as it stands there.
        score: Probability, 0..1; those of all spans of that context and of "no answer" add up to 1.
        char_start: Where it starts in the context, in code points.
        char_end: Where it ends, exclusive.
        logit: Start logit plus end logit.
        no_answer_margin: Score of "no answer" in that context minus the answer's; the lower, the better.
    """

    context_index: int
    text: str
    score: float
    char_start: int
    char_end: int
    logit: float
    no_answer_margin: float

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextAnswers:
    """What several contexts say to one question.

    Args:
        has_answer: Whether any of them answers it.
        answers: The best answers, best first; where `has_answer` is false, what came closest.
        question_truncated: Whether the question was too long, and its end was cut off.
        model_versions: The versions of the model that answered; two where one replaced the other meanwhile.
    """

    has_answer: bool
    answers: tuple[ContextAnswer, ...]
    question_truncated: bool
    model_versions: tuple[str, ...]

    @property
    def text(self) -> str:
        """The best answer; empty for no answer."""
        return self.answers[0].text if self.has_answer else ""

    @property
    def context_index(self) -> int:
        """The place of the context that it stands in; -1 for no answer."""
        return self.answers[0].context_index if self.has_answer else -1

    def to_dict(self) -> dict[str, Any]:
        """Give them as JSON values."""
        return {
            "text": self.text,
            "context_index": self.context_index,
            "has_answer": self.has_answer,
            "question_truncated": self.question_truncated,
            "model_versions": list(self.model_versions),
            "answers": [answer.to_dict() for answer in self.answers],
        }


def chunks_of_contexts(question: str, contexts: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Cut contexts into the rows of as few requests as they fit in.

    Args:
        question: The question of all.
        contexts: The contexts.

    Raises:
        InputError: There is none, or one cannot be sent; all are looked at before the first chunk is given.
    """
    if isinstance(contexts, (str, bytes)):
        raise InputError("contexts is one text: give a list of texts, or use ask")
    if not isinstance(contexts, Iterable):
        raise InputError(f"contexts is of type {type(contexts).__name__}: give a list of texts")
    held = list(contexts)
    if not held:
        raise InputError("there is no context: give at least one")
    utf8_from_text("question", question)
    for index, context in enumerate(held):
        utf8_from_text(f"context at {index}", context)
    rows: list[tuple[str, str]] = []
    n_chars = 0
    for context in held:
        if rows and (len(rows) == MAX_ROWS or n_chars + len(context) > _CHUNK_CHARS):
            yield rows
            rows, n_chars = [], 0
        rows.append((question, context))
        n_chars += len(context)
    yield rows


def ranked_contexts(answers: Sequence[Answer], top_n: int) -> ContextAnswers:
    """Rank the spans of contexts by the negative of their margins, which their lengths do not move as they do scores.

    Args:
        answers: The answer of each context, in order.
        top_n: Most to keep.
    """
    has_answer = any(answer.has_answer for answer in answers)
    # Where any context answers, what came closest in others is not asked for.
    found = [
        ContextAnswer(
            context_index=index,
            text=span.text,
            score=span.score,
            char_start=span.char_start,
            char_end=span.char_end,
            logit=span.logit,
            # The margin is the best span's; what another one has less in logit, its margin has more.
            no_answer_margin=answer.no_answer_margin + answer.spans[0].logit - span.logit,
        )
        for index, answer in enumerate(answers)
        if answer.has_answer == has_answer
        for span in answer.spans
    ]
    found.sort(key=lambda one: one.no_answer_margin)  # of equals, the order of contexts and spans stays
    return ContextAnswers(
        has_answer=has_answer,
        answers=tuple(found[:top_n]),
        question_truncated=any(answer.question_truncated for answer in answers),
        model_versions=tuple(dict.fromkeys(answer.model_version for answer in answers)),
    )
