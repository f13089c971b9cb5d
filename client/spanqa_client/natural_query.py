"""Riva's NaturalQuery, which is retired: its results, made of our answers."""

from __future__ import annotations

from dataclasses import dataclass

from spanqa_client.answer import Answer

ENOUGH_SPANS = 20
"""Best spans of a text that leave next to nothing to its others."""


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
        answer: The answer, with `ENOUGH_SPANS` where its context has them.
        top_n: Most results to keep.
    """
    if not answer.has_answer:
        return NaturalQueryResponse(results=(NaturalQueryResult(answer="", score=null_score(answer)),))
    return NaturalQueryResponse(
        results=tuple(NaturalQueryResult(answer=span.text, score=span.score) for span in answer.spans[:top_n])
    )


def null_score(answer: Answer) -> float:
    """Give the probability of "no answer": what the spans leave, as the scores of all and its own add up to 1.

    Args:
        answer: The answer with `ENOUGH_SPANS`, beside which the others hold next to nothing.
    """
    return max(0.0, 1.0 - sum(span.score for span in answer.spans))
