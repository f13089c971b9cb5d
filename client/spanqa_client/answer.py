"""What a server answered, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from spanqa.sentences import sentence_around


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A piece of the context.

    Args:
        text: The piece, unchanged.
        score: Probability, 0..1; those of all spans of the context and of "no answer" add up to 1.
        char_start: Where it starts in the context, in code points.
        char_end: Where it ends, exclusive.
        logit: Start logit plus end logit.
    """

    text: str
    score: float
    char_start: int
    char_end: int
    logit: float

    def to_dict(self) -> dict[str, Any]:
        """Give the span as JSON values."""
        return {
            "text": self.text,
            "score": self.score,
            "char_start": self.char_start,
            "char_end": self.char_end,
            "logit": self.logit,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question.

    Where there is no answer, `text` is empty, `score` 0, the offsets -1 and `logit` minus infinity, and the span
    that came closest is still there as `best_span`.

    Args:
        has_answer: Whether the context answers the question: the margin is at most the threshold.
        no_answer_margin: Score of "no answer" minus that of the best span; rank contexts by its negative. It is
            the largest finite float32 for a context without any span.
        question_truncated: Whether the question was too long, and its end was cut off.
        spans: The best spans, best first, at most top_n, whether or not there is an answer.
        no_answer_score: Probability of "no answer", 0..1: what the scores of all spans leave; None from a server that
            does not know this output yet.
        model_version: The version of the model that answered, such as "1".
        latency_ms: Time from asking to answer, retries included; not part of equality.
    """

    has_answer: bool
    no_answer_margin: float
    question_truncated: bool
    spans: tuple[Span, ...]
    no_answer_score: float | None = None
    model_version: str = ""
    latency_ms: float = field(default=math.nan, compare=False)

    @property
    def text(self) -> str:
        """The answer as it stands in the context; empty for no answer."""
        return self.spans[0].text if self.has_answer else ""

    @property
    def score(self) -> float:
        """The answer's probability, 0..1; 0 for no answer."""
        return self.spans[0].score if self.has_answer else 0.0

    @property
    def char_start(self) -> int:
        """Where the answer starts in the context, in code points; -1 for no answer."""
        return self.spans[0].char_start if self.has_answer else -1

    @property
    def char_end(self) -> int:
        """Where the answer ends in the context, exclusive; -1 for no answer."""
        return self.spans[0].char_end if self.has_answer else -1

    @property
    def logit(self) -> float:
        """Start logit plus end logit of the answer; minus infinity for no answer."""
        return self.spans[0].logit if self.has_answer else -math.inf

    @property
    def best_span(self) -> Span | None:
        """The best span, also where there is no answer; None for a context without any span."""
        return self.spans[0] if self.spans else None

    @property
    def alternatives(self) -> tuple[Span, ...]:
        """The spans after the best one, best first; there are some only where top_n is above 1."""
        return self.spans[1:]

    def sentence_in(self, context: str) -> tuple[int, int]:
        """Give the range of the sentence, or sentences, that the answer stands in; (-1, -1) for no answer.

        Args:
            context: The context that was asked.
        """
        return sentence_around(context, self.char_start, self.char_end) if self.has_answer else (-1, -1)

    def to_dict(self, context: str | None = None) -> dict[str, Any]:
        """Give the answer as JSON values; the logit of no answer is None.

        Args:
            context: The context that was asked, for the answer's sentence too.
        """
        sentence: dict[str, Any] = {}
        if context is not None:
            start, end = self.sentence_in(context)
            text = context[start:end] if self.has_answer else ""
            sentence = {"sentence": text, "sentence_start": start, "sentence_end": end}
        return {
            "text": self.text,
            "score": self.score,
            "char_start": self.char_start,
            "char_end": self.char_end,
            "logit": self.logit if self.has_answer else None,
            **sentence,
            "has_answer": self.has_answer,
            "no_answer_margin": self.no_answer_margin,
            "question_truncated": self.question_truncated,
            "model_version": self.model_version,
            "spans": [span.to_dict() for span in self.spans],
        }
