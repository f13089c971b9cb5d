"""How well a collection answers questions whose answers, and whose passages, are known."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from spanqa.examples import Example
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_client.metrics import gold_from_examples, raw_scores
from spanqa_client.normalize import normalized_words
from spanqa_retrieval.asking import Asking
from spanqa_retrieval.collection import ranked
from spanqa_retrieval.engine import Hit, Index

READ_S = 600.0
"""What reading all passages of a question may take."""
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Of the retriever's score, tried on the held-back questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question, what was found for it, and what the reader said to each passage.

    Args:
        example: The question, its answers and its own context.
        hits: The passages found, best first.
        search_ms: What finding them took.
        read: What the reader said to each; empty where nothing was read.
        read_ms: What reading them took.
        own: What it said to the question's own context; None where it was not asked.
    """

    example: Example
    hits: Sequence[Hit]
    search_ms: float
    read: Sequence[Answer] = ()
    read_ms: float = 0.0
    own: Answer | None = None

    def rank_of_context(self) -> int | None:
        """Give the place, from 0, of the first passage that is of the question's own context; None without one."""
        own = _squeezed(self.example.context)
        return next((place for place, hit in enumerate(self.hits) if _is_part(_squeezed(hit.passage.text), own)), None)

    def rank_of_answer(self) -> int | None:
        """Give the place, from 0, of the first passage that holds an answer, as words; None without one."""
        golds = [" ".join(normalized_words(gold.text)) for gold in self.example.answers]
        for place, hit in enumerate(self.hits):
            words = f" {' '.join(normalized_words(hit.passage.text))} "
            if any(gold and f" {gold} " in words for gold in golds):
                return place
        return None


def find_all(index: Index, examples: Iterable[Example], top_k: int) -> list[Asked]:
    """Search for every question.

    Args:
        index: The index.
        examples: The questions.
        top_k: Passages of each.
    """
    found = []
    for example in examples:
        began = time.perf_counter()
        hits = index.search(example.question, top_k=top_k)
        found.append(Asked(example=example, hits=hits, search_ms=(time.perf_counter() - began) * 1e3))
    return found


def read_all(client: QAClient, found: Sequence[Asked], asking: Asking, *, concurrency: int) -> Iterator[Asked]:
    """Have the reader read all passages found for each question, and the question's own context.

    Args:
        client: The server.
        found: The questions and their passages.
        asking: How they are read.
        concurrency: Questions in flight.
    """

    def read(asked: Asked) -> Asked:
        example, threshold = asked.example, asking.no_answer_threshold
        began = time.perf_counter()
        rows = [(example.question, hit.passage.text) for hit in asked.hits]
        answers = client.ask_rows(rows, no_answer_threshold=threshold, timeout_s=READ_S)
        read_ms = (time.perf_counter() - began) * 1e3
        own = client.ask(example.question, example.context, no_answer_threshold=threshold, timeout_s=READ_S)
        return replace(asked, read=answers, read_ms=read_ms, own=own)

    with ThreadPoolExecutor(concurrency) as pool:
        yield from pool.map(read, found)


def recall(asked: Sequence[Asked], ks: Sequence[int]) -> dict[str, list[float]]:
    """Give the part of the questions, in percent, whose context, and whose answer, is among the best k passages.

    Args:
        asked: The questions; only those with an answer count.
        ks: Values of k.
    """
    answerable = [one for one in asked if one.example.answers]
    ranks = {
        "context": [one.rank_of_context() for one in answerable],
        "answer": [one.rank_of_answer() for one in answerable],
    }
    return {
        name: [100 * mean(rank is not None and rank < k for rank in found) for k in ks] if found else []
        for name, found in ranks.items()
    }


def scores_at(asked: Sequence[Asked], k: int, weight: float) -> dict[str, float]:
    """Give SQuAD's EM and F1 of the best answers from the best k passages.

    Args:
        asked: The questions, read.
        k: Passages of each.
        weight: What the retriever's score counts.
    """
    asking = Asking(top_k=k, weight=weight)
    return _scores(asked, [ranked(one.hits[:k], one.read[:k], asking).text for one in asked])


def scores_of_own(asked: Sequence[Asked]) -> dict[str, float]:
    """Give SQuAD's EM and F1 of the same reader, given each question's own context."""
    return _scores(asked, [one.own.text if one.own else "" for one in asked])


def fitted(asked: Sequence[Asked], ks: Sequence[int]) -> tuple[int, float]:
    """Give the k and the weight with the best F1 on answerable questions; of equal ones the smaller.

    Args:
        asked: Held-back questions, read.
        ks: Values of k.
    """
    return max(
        ((k, weight) for k in ks for weight in WEIGHTS),
        key=lambda one: (scores_at(asked, *one)["has_answer_f1"], -one[0], -one[1]),
    )


def times(asked: Sequence[Asked]) -> dict[str, float]:
    """Give the median times of a question in milliseconds, of finding and of reading."""
    return {"search_ms": median(one.search_ms for one in asked), "read_ms": median(one.read_ms for one in asked)}


def _scores(asked: Sequence[Asked], texts: Sequence[str]) -> dict[str, float]:
    gold = gold_from_examples(one.example for one in asked)
    predictions = {one.example.id: text for one, text in zip(asked, texts, strict=True)}
    exact, f1 = ([score or 0.0 for score in scores] for scores in raw_scores(gold, predictions))
    answerable = [place for place, one in enumerate(asked) if one.example.answers]
    made: dict[str, Any] = {"exact": 100 * mean(exact), "f1": 100 * mean(f1)}
    if answerable:
        made["has_answer_exact"] = 100 * mean(exact[place] for place in answerable)
        made["has_answer_f1"] = 100 * mean(f1[place] for place in answerable)
    return made


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _is_part(one: str, other: str) -> bool:
    return bool(one) and (one in other or other in one)
