"""Bringing an index up to date with its sources: what is new or changed is read, the rest is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from spanqa_retrieval.engine import Index, IndexWriter
from spanqa_retrieval.reading import Event, Failed, Opened, Passages, Skipped, Unchanged
from spanqa_retrieval.reading_process import read_ahead
from spanqa_retrieval.sources import Source

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
    sources: Sequence[Source],
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
        CollectionError: It cannot be written, or the process that reads died.
    """
    with index.writer() as writer:
        held = writer.sources()
        known = {name: record.fingerprint for name, record in held.items()}
        work = _Update(writer, known.keys(), report)
        with closing(read_ahead(sources, known, index.settings)) as events:
            for event in events:
                if isinstance(event, Opened) and on_file:
                    on_file(event.source)
                work.take(event)
        missing = known.keys() - {source.name for source in sources}
        gone = {name for name in missing if prune and not name.startswith(tuple(f"{folder}/" for folder in unread))}
        for name in gone:
            writer.remove(name)
            report.n_pruned += 1
        report.missing = sorted(missing - gone)
        writer.commit()


class _Update:
    """Does to an index what is read, and commits now and then, between two files.

    Args:
        writer: Changes the index.
        held: Names of the files that it holds.
        report: Is told what was done.
    """

    def __init__(self, writer: IndexWriter, held: Collection[str], report: Report) -> None:
        self._writer, self._held, self._report = writer, held, report
        self._name = ""
        self._is_begun = self._is_changed = False
        self._committed = time.monotonic()

    def take(self, event: Event) -> None:
        """Do what one event asks for."""
        if isinstance(event, Opened):
            self._commit_now_and_then()
            self._name, self._is_begun = event.source.name, False
        elif isinstance(event, Unchanged):
            self._report.n_unchanged += 1
        elif isinstance(event, Skipped):
            self._report.skipped.append(event.reason)
        elif isinstance(event, Failed):
            self._fail(event)
        elif isinstance(event, Passages):
            self._begin()
            self._writer.add(self._name, event.passages)
        else:
            self._begin()
            self._writer.finish(event.record)
            self._report.n_read += 1
            self._report.n_documents += event.record.n_documents
            self._report.n_passages += event.record.n_passages
            self._report.n_chars += event.record.n_chars

    def _begin(self) -> None:
        """Take away what the index holds of the file, before its first passage."""
        if not self._is_begun:
            self._writer.remove(self._name)
            self._is_begun = self._is_changed = True

    def _fail(self, event: Failed) -> None:
        """Leave the file out; with some of its passages it is no whole file, which the next run does not know."""
        kept = ""
        if self._name in self._held:
            kept = "; the index keeps what it holds of it"
        if self._is_begun:
            self._writer.remove(self._name)
            kept = kept and "; what the index held of it is taken out"
        self._report.skipped.append(f"{event.reason}{kept}")

    def _commit_now_and_then(self) -> None:
        if self._is_changed and time.monotonic() - self._committed > COMMIT_S:
            self._writer.commit()
            self._committed, self._is_changed = time.monotonic(), False
