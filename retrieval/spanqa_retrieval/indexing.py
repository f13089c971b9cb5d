"""Bringing an index up to date with its sources: what is new or changed is read, the rest is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from spanqa_retrieval.document import Document, Passage
from spanqa_retrieval.engine import Index, IndexWriter, SourceRecord
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.passages import passages_of
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import PACKED, Source, fingerprint

COMMIT_S = 30.0
"""How much work, in seconds, an index may lose when its writer is killed, beside the file that is being read."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What an update came to.

    Args:
        n_read: Files that were read, because they are new or have changed.
        n_unchanged: Files that were left alone.
        n_pruned: Files that are gone, and were taken out.
        n_documents: Documents that were read.
        n_passages: Passages of these.
        n_chars: Code points of these documents' texts.
        skipped: What was not read, each with its reason in one line.
        missing: Files of the index that were not found this time, where they are kept.
    """

    n_read: int = 0
    n_unchanged: int = 0
    n_pruned: int = 0
    n_documents: int = 0
    n_passages: int = 0
    n_chars: int = 0
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def update_index(
    index: Index,
    sources: Iterable[Source],
    report: Report,
    *,
    prune: bool = False,
    unread: Sequence[str] = (),
    on_file: Callable[[Source], None] | None = None,
) -> None:
    """Read what is new or has changed into an index.

    A file is taken in whole or not at all, and what was committed survives whatever happens next: a second run goes on
    where a killed one stopped.

    Args:
        index: The index.
        sources: The files that it is to hold.
        report: Is told what was done, as it is done.
        prune: Whether files that it holds beside these are taken out.
        unread: Names of folders that could not be looked into: what the index holds of them is kept.
        on_file: Called before each file.

    Raises:
        BusyError: Another process writes it.
        CollectionError: It cannot be written.
    """
    with index.writer() as writer:
        known = dict(writer.sources())
        committed = time.monotonic()
        for source in sources:
            if on_file:
                on_file(source)
            record = known.pop(source.name, None)
            if _take_in(writer, source, record, index.settings, report) and time.monotonic() - committed > COMMIT_S:
                writer.commit()
                committed = time.monotonic()
        gone = {name for name in known if prune and not name.startswith(tuple(f"{folder}/" for folder in unread))}
        for name in gone:
            writer.remove(name)
            report.n_pruned += 1
        report.missing = sorted(known.keys() - gone)
        writer.commit()


def _take_in(
    writer: IndexWriter, source: Source, record: SourceRecord | None, settings: IndexSettings, report: Report
) -> bool:
    """Read one file where that is needed; say whether the index was changed."""
    kept = "; the index keeps what it holds of it" if record is not None else ""
    try:
        found = fingerprint(source.path, source.kind)
    except SourceError as error:
        report.skipped.append(f"{error}{kept}")
        return False
    if record is not None and record.fingerprint == found:
        report.n_unchanged += 1
        return False
    count = _Count(source, report)
    passages: Iterable[Passage] = count.passages(settings)
    try:
        if source.kind not in PACKED:
            passages = list(passages)  # one document: it is there before the old one goes
    except SourceError as error:
        report.skipped.append(f"{error}{kept}")
        return False
    writer.remove(source.name)
    try:
        writer.add(source.name, passages)
    except SourceError as error:
        # What was read before the fault is no whole file: the next run meets it as one that it does not know.
        gone = "; what the index held of it is taken out" if record is not None else ""
        report.skipped.append(f"{error}{gone}")
        writer.remove(source.name)
        return True
    writer.finish(count.record(found))
    report.n_read += 1
    report.n_documents += count.n_documents
    report.n_passages += count.n_passages
    report.n_chars += count.n_chars
    return True


class _Count:
    """Reads a file's passages and counts them."""

    def __init__(self, source: Source, report: Report) -> None:
        self._source, self._report = source, report
        self.n_documents = self.n_passages = self.n_chars = 0

    def passages(self, settings: IndexSettings) -> Iterator[Passage]:
        for document in self._documents():
            for passage in passages_of(document, settings):
                self.n_passages += 1
                yield passage

    def record(self, found: str) -> SourceRecord:
        return SourceRecord(
            name=self._source.name,
            fingerprint=found,
            n_documents=self.n_documents,
            n_passages=self.n_passages,
            n_chars=self.n_chars,
        )

    def _documents(self) -> Iterator[Document]:
        for document in read_documents(self._source, self._report.skipped.append):
            self.n_documents += 1
            self.n_chars += len(document.text)
            yield document
