"""Riva's NaturalQuery, which is retired: its results, made of our answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spanqa_client.answer import Answer

_LEAST_GAP = 0.01
"""Of two spans' logits that say nothing about the temperature: float32 rounds them away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalQueryResult:
    """One result: `answer` and `score`, as Riva's message of this name has them.

    Args:
        answer: The answer as it stands in the context; "" for no answer.
        score: Its probability, 0..1; for "" that of "no answer".
    """

    answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalQueryResponse:
    """A response: at least one result, best first.

    Args:
        results: The results.
    """

    results: tuple[NaturalQueryResult, ...]


def natural_query_from_answer(answer: Answer, top_n: int) -> NaturalQueryResponse:
    """Give an answer as Riva's clients read it.

    Args:
        answer: The answer, with two spans at least where its context has them.
        top_n: Most results to keep.
    """
    if not answer.has_answer:
        return NaturalQueryResponse(results=(NaturalQueryResult(answer="", score=null_score(answer)),))
    return NaturalQueryResponse(
        results=tuple(NaturalQueryResult(answer=span.text, score=span.score) for span in answer.spans[:top_n])
    )


def null_score(answer: Answer) -> float:
    """Give the probability of "no answer", beside the scores of the spans.

    An older server does not send it. Its SCORE(c) is exp(S(c)/T) / Z, and that of "no answer" exp(N/T) / Z with N =
    S(best) + margin; two spans tell T, the model's temperature, and 1 is taken where there are none that differ.

    Args:
        answer: The answer.
    """
    if answer.no_answer_score is not None:
        return answer.no_answer_score
    rest = max(0.0, 1.0 - sum(span.score for span in answer.spans))
    if not answer.spans or answer.spans[0].score <= 0:
        return rest
    first, last = answer.spans[0], answer.spans[-1]
    gap, temperature = first.logit - last.logit, 1.0
    if gap > _LEAST_GAP and 0 < last.score < first.score:
        temperature = gap / math.log(first.score / last.score)
    logarithm = math.log(first.score) + answer.no_answer_margin / temperature
    return min(math.exp(min(logarithm, 0.0)), rest)
