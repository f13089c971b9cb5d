"""An index in a folder, by tantivy: BM25 over segments, atomic commits, one writer and any number of readers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tantivy

from spanqa.files import write_atomically
from spanqa_retrieval.document import Passage, Scalar, as_utf8, label_of
from spanqa_retrieval.engine import Hit, SourceRecord
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.read_only import Links, opened
from spanqa_retrieval.settings import SETTINGS_FILE, IndexSettings, is_index, settings_from_json
from spanqa_retrieval.tantivy_passages import PASSAGE, RECORD, kept_of, passage_of, passages_in_order, stored
from spanqa_retrieval.tantivy_query import filtered, query_of, register_analyzers, schema_of, telling
from spanqa_retrieval.words import Words

WRITER_BYTES = 128 << 20
"""Memory that a writer fills before it writes a segment."""


def create_index(path: Path, settings: IndexSettings) -> TantivyIndex:
    """Make an empty index in a new folder, which is there whole or not at all.

    Args:
        path: The folder; an empty one may be there.
        settings: How it cuts and weighs.

    Raises:
        CollectionError: Something else is there, or nothing can be written.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CollectionError(f"{path}: not an index, and not empty: give another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            made.chmod(0o777 & ~_umask())
            tantivy.Index(schema_of(), path=str(made))
            write_atomically(made / SETTINGS_FILE, settings.to_json())
            share(made)
            made.replace(path)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise CollectionError(f"{path}: no index can be made there: {error.strerror}") from error
    return TantivyIndex(path)


class TantivyIndex:
    """An index in a folder.

    Args:
        path: The folder.

    Raises:
        CollectionError: It holds no index, or one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._links: Links | None = None
        if not is_index(path):
            raise CollectionError(f"{path}: no index there: make one with `spanqa index SOURCE -o {path}`")
        try:
            text = (path / SETTINGS_FILE).read_text(encoding="utf-8")
            self.settings = settings_from_json(text, str(path / SETTINGS_FILE))
            self._open()
        except (OSError, ValueError) as error:
            if "PermissionDenied" in str(error) or isinstance(error, PermissionError):
                raise CollectionError(f"{path}: this user may not read the index: let the user read it") from error
            raise CollectionError(_unreadable(path, error)) from error
        self.words = Words(self.settings.stemmer)

    def _open(self) -> None:
        self._is_writable = os.access(self.path, os.W_OK)
        if self._is_writable:
            self._index = tantivy.Index.open(str(self.path))
        else:
            self._index, links = opened(self.path, self)
            if self._links:
                self._links.remove()
            self._links = links
        register_analyzers(self._index)
        self._index.config_reader(reload_policy="manual")
        self._schema = self._index.schema
        self._searcher = self._index.searcher()

    def refresh(self) -> None:
        """Show the last commit."""
        if not self._is_writable:
            self._open()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, query: str, *, top_k: int, filters: Mapping[str, Sequence[Scalar]] | None = None) -> list[Hit]:
        """Find the passages that fit a query best, best first; see `Index`."""
        searcher = self._searcher  # a refresh must not come between finding and reading
        words = telling(searcher, list(dict.fromkeys(self.words.of(as_utf8(query)))))
        if not words:
            return []
        wanted = filtered(self._schema, query_of(self._schema, words, self.settings.title_weight), filters or {})
        hits = searcher.search(wanted, limit=top_k, count=False).hits
        return [Hit(passage=passage_of(searcher.doc(place)), score=score) for score, place in hits]

    def sources(self) -> dict[str, SourceRecord]:
        """Give every file that the index holds, by name.

        Raises:
            CollectionError: The index is damaged.
        """
        query = tantivy.Query.term_query(self._schema, "kind", RECORD)
        searcher = self._searcher
        try:
            found = searcher.search(query, limit=max(searcher.num_docs, 1), count=False).hits
            records = [SourceRecord(**json.loads(stored(searcher.doc(place))[0])) for _, place in found]
        except ValueError as error:
            raise CollectionError(_unreadable(self.path, error)) from error
        return {record.name: record for record in sorted(records, key=lambda record: record.name)}

    def passages(self, source: str) -> Iterator[Passage]:
        """Give the passages of a file, by document and offset; those of an unfinished file too.

        Raises:
            CollectionError: The index is damaged.
        """
        try:
            yield from passages_in_order(self._searcher, self._schema, source)
        except ValueError as error:
            raise CollectionError(_unreadable(self.path, error)) from error

    def n_bytes(self) -> int:
        """Give what the index takes on disk, in bytes."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file())

    @contextmanager
    def writer(self) -> Iterator[TantivyWriter]:
        """Open it for changes; what was not committed at the end of the block is dropped.

        Raises:
            BusyError: Another process has it open for changes.
        """
        if not self._is_writable:
            raise CollectionError(f"{self.path}: this user may not write in the index's folder")
        try:
            writer = self._index.writer(WRITER_BYTES)
        except ValueError as error:
            if "LockBusy" in str(error):
                raise BusyError(f"{self.path}: another process writes the index: wait until it has ended") from error
            raise CollectionError(f"{self.path}: the index cannot be written: {error}") from error
        self.refresh()
        try:
            yield TantivyWriter(self, writer)
        finally:
            try:
                with contextlib.suppress(ValueError):  # a writer that failed has nothing to take back
                    writer.rollback()
            finally:
                # It also gives the lock back; merges that are under way are worth their time.
                writer.wait_merging_threads()
            share(self.path)
            self.refresh()


class TantivyWriter:
    """Changes an index in a folder; see `IndexWriter`."""

    def __init__(self, index: TantivyIndex, writer: Any) -> None:
        self._index, self._writer = index, writer

    def sources(self) -> dict[str, SourceRecord]:
        """Give every file that the index holds, by name, as of the last commit."""
        return self._index.sources()

    def add(self, source: str, passages: Iterable[Passage]) -> None:
        """Add passages of a file."""
        words = self._index.words
        with self._told():
            for passage in passages:
                made = tantivy.Document(
                    kind=PASSAGE,
                    source=source,
                    title=words.spaced(passage.title),
                    text=words.spaced(passage.text),
                    stored=kept_of(passage),
                )
                for key, value in passage.metadata.items():
                    made.add_text("label", label_of(key, value))
                self._writer.add_document(made)

    def finish(self, record: SourceRecord) -> None:
        """Say that all passages of a file are there."""
        stored = json.dumps(asdict(record), ensure_ascii=False)
        with self._told():
            self._writer.add_document(tantivy.Document(kind=RECORD, source=record.name, stored=stored))

    def remove(self, source: str) -> None:
        """Take away a file and its passages, finished or not."""
        with self._told():
            self._writer.delete_documents_by_term("source", source)

    def commit(self) -> None:
        """Make visible, at once, and durable what was changed since the last time."""
        with self._told():
            self._writer.commit()
        self._index.refresh()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise CollectionError(
                f"{self._index.path}: nothing more can be written ({error}): make room, and index again"
            ) from error


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: the index cannot be read ({error}): remove the folder, and index its sources again"


def share(path: Path) -> None:
    """Let others read an index as far as the umask does: tantivy writes two of its files for their owner alone."""
    for name in ("meta.json", ".managed.json"):
        with contextlib.suppress(OSError):
            (path / name).chmod(0o666 & ~_umask())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
