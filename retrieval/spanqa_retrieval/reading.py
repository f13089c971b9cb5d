"""Sources as a stream of what is read of them: documents cut into passages, and all that is left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from spanqa_retrieval.document import Document, Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.passages import passages_of
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import PACKED, Source, fingerprint

_CHUNK = 128
"""Passages that are handed on at once."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file is looked at; what follows is about it, until the next one."""

    source: Source


@dataclass(frozen=True, slots=True)
class Unchanged:
    """It is as the index holds it."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A part of it is left out."""

    reason: str


@dataclass(frozen=True, slots=True)
class Passages:
    """Some passages of it, in order."""

    passages: list[Passage]


@dataclass(frozen=True, slots=True)
class Finished:
    """All passages of it are there."""

    record: SourceRecord


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be read, or not to its end: some of its passages may have been given."""

    reason: str


Event = Opened | Unchanged | Skipped | Passages | Finished | Failed


def read_sources(sources: Iterable[Source], known: Mapping[str, str], settings: IndexSettings) -> Iterator[Event]:
    """Read the files that are new or have changed.

    Args:
        sources: The files.
        known: The fingerprints of those that the index holds, by name.
        settings: How their documents are cut.
    """
    for source in sources:
        yield Opened(source)
        yield from _events(source, known.get(source.name), settings)


def _events(source: Source, known: str | None, settings: IndexSettings) -> Iterator[Event]:
    try:
        found = fingerprint(source.path, source.kind)
    except SourceError as error:
        yield Failed(str(error))
        return
    if known == found:
        yield Unchanged()
        return
    count = _Count(source)
    passages = count.passages(settings)
    try:
        # A file that is one document is read whole before the index is told of it: what is broken keeps its old place.
        while chunk := list(itertools.islice(passages, _CHUNK if source.kind in PACKED else None)):
            yield from count.told()
            yield Passages(chunk)
    except SourceError as error:
        yield from count.told()
        yield Failed(str(error))
        return
    yield from count.told()
    yield Finished(count.record(found))


class _Count:
    """Reads a file's passages and counts them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._defects: list[str] = []
        self.n_documents = self.n_passages = self.n_chars = 0

    def passages(self, settings: IndexSettings) -> Iterator[Passage]:
        for document in self._documents():
            for passage in passages_of(document, settings):
                self.n_passages += 1
                yield passage

    def told(self) -> Iterator[Skipped]:
        """Give what was left out since the last time."""
        defects, self._defects[:] = list(self._defects), []
        yield from map(Skipped, defects)

    def record(self, found: str) -> SourceRecord:
        return SourceRecord(
            name=self._source.name,
            fingerprint=found,
            n_documents=self.n_documents,
            n_passages=self.n_passages,
            n_chars=self.n_chars,
        )

    def _documents(self) -> Iterator[Document]:
        for document in read_documents(self._source, self._defects.append):
            self.n_documents += 1
            self.n_chars += len(document.text)
            yield document
