"""An index in a folder, by tantivy: BM25 over segments, atomic commits, one writer and any number of readers."""

from __future__ import annotations

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
from spanqa_retrieval.document import Passage, Scalar
from spanqa_retrieval.engine import Hit, SourceRecord
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.settings import IndexSettings, settings_from_json

SETTINGS_FILE = "spanqa.json"
ANALYZER = "spanqa"
WORDS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\p{L}\p{M}\p{N}]+"
"""A word; in scripts that set none apart, each character."""
LONGEST_WORD = 40
"""Bytes; what is longer is no word that anybody asks for: tantivy's own limit in its analysers of languages."""
WRITER_BYTES = 128 << 20
"""Memory that a writer fills before it writes a segment."""
COMMON = 0.5
"""Of the passages: a word that stands in more of them tells little, and costs half of a query's time (measured)."""
MANY = 1000
"""Passages from which on that can be said of a word."""
PASSAGE, RECORD = "passage", "source"


def is_index(path: Path) -> bool:
    """Say whether a folder holds an index."""
    return (path / SETTINGS_FILE).is_file()


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
            tantivy.Index(_schema(), path=str(made))
            write_atomically(made / SETTINGS_FILE, settings.to_json())
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
        if not is_index(path):
            raise CollectionError(f"{path}: no index there: make one with `spanqa index SOURCE -o {path}`")
        try:
            text = (path / SETTINGS_FILE).read_text(encoding="utf-8")
            self.settings = settings_from_json(text, str(path / SETTINGS_FILE))
            self._index = tantivy.Index.open(str(path))
        except (OSError, ValueError) as error:
            raise CollectionError(f"{path}: the index cannot be read ({error}): index its sources again") from error
        self._analyzer = analyzer_of(self.settings.stemmer)
        self._index.register_tokenizer(ANALYZER, self._analyzer)
        self._index.config_reader(reload_policy="manual")
        self._schema = self._index.schema
        self.refresh()

    def refresh(self) -> None:
        """Show the last commit."""
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, query: str, *, top_k: int, filters: Mapping[str, Sequence[Scalar]] | None = None) -> list[Hit]:
        """Find the passages that fit a query best, best first; see `Index`."""
        words = self._telling(list(dict.fromkeys(self._analyzer.analyze(query))))
        if not words:
            return []
        wanted = self._with_filters(self._query(words), filters or {})
        hits = self._searcher.search(wanted, limit=top_k, count=False).hits
        return [Hit(passage=_passage(self._searcher.doc(place)), score=score) for score, place in hits]

    def sources(self) -> dict[str, SourceRecord]:
        """Give every file that the index holds, by name."""
        query = tantivy.Query.term_query(self._schema, "kind", RECORD)
        found = self._searcher.search(query, limit=max(self._searcher.num_docs, 1), count=False).hits
        records = [SourceRecord(**json.loads(_stored(self._searcher.doc(place)))) for _, place in found]
        return {record.name: record for record in sorted(records, key=lambda record: record.name)}

    def n_bytes(self) -> int:
        """Give what the index takes on disk, in bytes."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file())

    @contextmanager
    def writer(self) -> Iterator[TantivyWriter]:
        """Open it for changes; what was not committed at the end of the block is dropped.

        Raises:
            BusyError: Another process has it open for changes.
        """
        try:
            writer = self._index.writer(WRITER_BYTES)
        except ValueError as error:
            if "lock" not in str(error).lower():
                raise CollectionError(f"{self.path}: the index cannot be written: {error}") from error
            raise BusyError(f"{self.path}: another process writes the index: wait until it has ended") from error
        self.refresh()
        try:
            yield TantivyWriter(self, writer)
        finally:
            writer.rollback()
            # It also gives the lock back; merges that are under way are worth their time.
            writer.wait_merging_threads()
            self.refresh()

    def _telling(self, words: list[str]) -> list[str]:
        """Leave out words that stand nearly everywhere, where others are left."""
        most = COMMON * self._searcher.num_docs
        if self._searcher.num_docs < MANY:
            return words
        return [word for word in words if self._searcher.doc_freq("text", word) <= most] or words

    def _query(self, words: Sequence[str]) -> tantivy.Query:
        should, weight = tantivy.Occur.Should, self.settings.title_weight
        terms = [(should, tantivy.Query.term_query(self._schema, "text", word, index_option="freq")) for word in words]
        for word in words if weight else ():
            term = tantivy.Query.term_query(self._schema, "title", word, index_option="freq")
            terms.append((should, term if weight == 1 else tantivy.Query.boost_query(term, weight)))
        return tantivy.Query.boolean_query(terms)

    def _with_filters(self, query: tantivy.Query, filters: Mapping[str, Sequence[Scalar]]) -> tantivy.Query:
        if not filters:
            return query
        must = [(tantivy.Occur.Must, query)]
        for key, values in filters.items():
            labels = [tantivy.Query.term_query(self._schema, "label", label_of(key, value)) for value in values]
            either = tantivy.Query.boolean_query([(tantivy.Occur.Should, label) for label in labels])
            must.append((tantivy.Occur.Must, tantivy.Query.const_score_query(either, 0.0)))
        return tantivy.Query.boolean_query(must)


class TantivyWriter:
    """Changes an index in a folder; see `IndexWriter`."""

    def __init__(self, index: TantivyIndex, writer: Any) -> None:
        self._index, self._writer = index, writer

    def sources(self) -> dict[str, SourceRecord]:
        """Give every file that the index holds, by name, as of the last commit."""
        return self._index.sources()

    def add(self, source: str, passages: Iterable[Passage]) -> None:
        """Add passages of a file."""
        for passage in passages:
            made = tantivy.Document(kind=PASSAGE, source=source, title=passage.title, text=passage.text)
            for key, value in passage.metadata.items():
                made.add_text("label", label_of(key, value))
            made.add_text("stored", _json_of(passage))
            self._writer.add_document(made)

    def finish(self, record: SourceRecord) -> None:
        """Say that all passages of a file are there."""
        made = tantivy.Document(kind=RECORD, source=record.name, stored=json.dumps(asdict(record), ensure_ascii=False))
        self._writer.add_document(made)

    def remove(self, source: str) -> None:
        """Take away a file and its passages, finished or not."""
        self._writer.delete_documents_by_term("source", source)

    def commit(self) -> None:
        """Make visible, at once, and durable what was changed since the last time."""
        try:
            self._writer.commit()
        except ValueError as error:
            raise CollectionError(f"{self._index.path}: nothing more can be written: {error}") from error
        self._index.refresh()


def label_of(key: str, value: Scalar) -> str:
    """Give the one word under which a value of metadata is found."""
    return f"{key}={json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value}"


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("kind", "source", "label"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    for name in ("title", "text"):
        builder.add_text_field(name, tokenizer_name=ANALYZER, index_option="freq", stored=name == "text")
    builder.add_text_field("stored", tokenizer_name="raw", index_option="basic", stored=True)
    return builder.build()


def analyzer_of(stemmer: str) -> tantivy.TextAnalyzer:
    """Make what cuts texts and queries into the words that are compared.

    Args:
        stemmer: One of `STEMMERS`.
    """
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(WORDS))
    builder = builder.filter(tantivy.Filter.remove_long(LONGEST_WORD)).filter(tantivy.Filter.lowercase())
    if stemmer != "none":
        builder = builder.filter(tantivy.Filter.stemmer(stemmer))
    return builder.build()


def _json_of(passage: Passage) -> str:
    """What is kept of a passage beside its text, what is empty left out."""
    kept: dict[str, Any] = {"document": passage.document, "char_start": passage.char_start}
    for name in ("title", "metadata", "page_starts", "first_page"):
        if value := getattr(passage, name):
            kept[name] = value
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def _passage(found: Any) -> Passage:
    kept = json.loads(_stored(found))
    pages = tuple(kept.pop("page_starts", ()))
    return Passage(**{"title": "", **kept}, text=found.get_first("text"), page_starts=pages)


def _stored(found: Any) -> str:
    return str(found.get_first("stored"))


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
