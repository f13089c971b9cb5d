"""What an engine that holds an index must do, whichever it is: tantivy's in a folder, or OpenSearch's on a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from spanqa_retrieval.document import Passage, Scalar
from spanqa_retrieval.settings import IndexSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage that was found.

    Args:
        passage: The passage.
        score: Its score for the query, by BM25; the higher, the better.
    """

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """One file as the index holds it.

    Args:
        name: Its name, the one under which it is found again.
        fingerprint: What its content and its way of being read come to: another one is another file.
        n_documents: Documents that were read from it.
        n_passages: Passages of these.
        n_chars: Code points of their texts.
    """

    name: str
    fingerprint: str
    n_documents: int
    n_passages: int
    n_chars: int


class IndexWriter(Protocol):
    """Changes an index, as the only one that does; what was not committed is never seen."""

    def sources(self) -> Mapping[str, SourceRecord]:
        """Give every file that the index holds, by name, as of the last commit."""

    def add(self, source: str, passages: Iterable[Passage]) -> None:
        """Add passages of a file."""

    def finish(self, record: SourceRecord) -> None:
        """Say that all passages of a file are there."""

    def remove(self, source: str) -> None:
        """Take away a file and its passages, finished or not; nothing happens where there are none."""

    def commit(self) -> None:
        """Make visible, at once, and durable what was changed since the last time."""


class Index(Protocol):
    """Finds passages; an open index shows one commit until it is refreshed."""

    settings: IndexSettings

    def search(self, query: str, *, top_k: int, filters: Mapping[str, Sequence[Scalar]] | None = None) -> list[Hit]:
        """Find the passages that fit a query best, best first.

        Args:
            query: Words, in any order; every character is taken literally, none is an operator.
            top_k: Most passages.
            filters: For each of these keys of metadata, the values of which a passage must have one.
        """

    def sources(self) -> Mapping[str, SourceRecord]:
        """Give every file that the index holds, by name."""

    def n_bytes(self) -> int:
        """Give what the index takes on disk, in bytes."""

    def writer(self) -> AbstractContextManager[IndexWriter]:
        """Open it for changes; what was not committed at the end of the block is dropped.

        Raises:
            BusyError: Another process has it open for changes.
        """

    def refresh(self) -> None:
        """Show the last commit."""
