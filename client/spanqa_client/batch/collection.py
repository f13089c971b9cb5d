"""Asking a collection of documents: questions without contexts, answered from an index and a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa.errors import SpanqaError
from spanqa_client.batch.askers import ServerPlan, settled_in_order
from spanqa_client.batch.rows import Row, Settled
from spanqa_retrieval.asking import DEFAULT_TOP_K, DEFAULT_WEIGHT, Asking
from spanqa_retrieval.collection import Collection, CollectionAnswer, FoundAnswer
from spanqa_retrieval.commands.asking import filters

_OF_BEST = ("score", "char_start", "char_end", "no_answer_margin", "document", "title", "page", "sentence")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionPlan:
    """Asking a collection.

    Args:
        index: The index's address.
        asking: How it is asked.
        server: Which server reads its passages.
    """

    index: str
    asking: Asking
    server: ServerPlan

    def open(self) -> CollectionAsker:
        """Open the index.

        Raises:
            SpanqaError: There is none, or it cannot be read.
        """
        return CollectionAsker(self)

    def fingerprint(self) -> dict[str, Any]:
        """Say which model reads, and what the index holds."""
        with self.server.client() as client:
            sources = Collection.open(self.index, client).index.sources()
        digest = hashlib.sha256()
        for name in sorted(sources):
            digest.update(f"{name}\n{sources[name].fingerprint}\n".encode(errors="backslashreplace"))
        return {**self.server.fingerprint(), "index": digest.hexdigest()}


def plan_collection(
    index: str, server: ServerPlan, *, top_k: int | None, weight: float | None, where: Sequence[str]
) -> CollectionPlan:
    """Plan to ask a collection.

    Args:
        index: The index's address.
        server: Which server reads its passages, and how questions are to be answered.
        top_k: Passages that are read for a question; None for the default.
        weight: What the index's own score counts; None for the default.
        where: KEY=VALUE pairs of the documents' metadata.

    Raises:
        InputError: One of them is out of range.
    """
    options = server.options
    asking = Asking(
        top_k=DEFAULT_TOP_K if top_k is None else top_k,
        top_n=options.top_n,
        weight=DEFAULT_WEIGHT if weight is None else weight,
        filters=filters(where),
        no_answer_threshold=options.no_answer_threshold,
        max_answer_tokens=options.max_answer_tokens,
    )
    # Whoever opens it may be in another folder.
    address = index if "://" in index else str(Path(index).resolve())
    return CollectionPlan(index=address, asking=asking, server=server)


class CollectionAsker:
    """Asks a collection, some questions at once.

    Args:
        plan: Which one, and how.

    Raises:
        SpanqaError: It cannot be opened.
    """

    def __init__(self, plan: CollectionPlan) -> None:
        self._plan, self._client = plan, plan.server.client()
        self._collection = Collection.open(plan.index, self._client)

    def ask(self, rows: Iterable[Row]) -> Iterator[Settled]:
        """Settle rows, in their order."""
        server = self._plan.server

        def answers(taken: Iterator[Row]) -> Iterator[CollectionAnswer | SpanqaError]:
            return self._collection.ask_many(
                (row.question for row in taken),
                self._plan.asking,
                concurrency=server.concurrency,
                timeout_s=server.timeout_s,
            )

        return settled_in_order(rows, answers, columns_from_answer, patience=server.concurrency)

    def close(self) -> None:
        """Close the connection to the server."""
        self._client.close()


def columns_from_answer(answer: CollectionAnswer) -> dict[str, Any]:
    """Give the columns of an answer; those of its best one are null where there is none."""
    best: FoundAnswer | None = answer.answers[0] if answer.has_answer else None
    return {
        "text": answer.text,
        **{name: getattr(best, name) if best else None for name in _OF_BEST},
        **answer.to_dict(),
        "passages_read": answer.n_passages,
        "model_version": answer.model_version,
    }
