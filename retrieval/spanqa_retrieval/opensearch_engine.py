"""An index on an OpenSearch cluster: BM25 over the same words as in a folder, one writer, any number of readers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opensearchpy.exceptions import RequestError

from spanqa_retrieval.document import Scalar, label_of
from spanqa_retrieval.engine import Hit, SourceRecord
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.opensearch_connection import Connection, parse_address, reason_of
from spanqa_retrieval.opensearch_lock import Lock
from spanqa_retrieval.opensearch_writer import PASSAGE, SOURCE, OpenSearchWriter, passage_of
from spanqa_retrieval.settings import STEMMERS, IndexSettings, settings_from_json

WORDS = r"[\p{IsHan}\p{IsHiragana}\p{IsKatakana}\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}]|[\p{L}\p{M}\p{N}]+"
"""A word, as Java's regular expressions say it; in scripts that set none apart, each character."""
LONGEST_WORD = 40
"""UTF-16 units; what is longer is no word that anybody asks for."""
LANGUAGES = {"english": "porter2"}
"""What OpenSearch calls the stemmers that have another name there; its `english` is an older one."""
UNKNOWN_LANGUAGES = ("tamil",)
"""Stemmers that OpenSearch's documentation does not name."""
LONGEST_KEYWORD = 8191
"""UTF-16 units: what is longer cannot be filtered by; 32,766 bytes are the most that OpenSearch takes."""
MOST_HITS = 10_000
"""What OpenSearch gives of one search."""
MOST_WORDS = 450
"""Of a query: twice as many, for text and title, are what OpenSearch takes (1,024 clauses)."""
PAGE = 1000
"""Records of sources that are read at once."""
META = "spanqa"
# About what WORDS makes, and hardly ever less.
_PIECE = re.compile(r"[^\W\u0e00-\U0010ffff]+|[\u0e00-\U0010ffff]")


def open_opensearch(address: str) -> OpenSearchIndex:
    """Open an index that is there.

    Args:
        address: `opensearch://host:9200/name`, or `opensearchs://` for TLS. A user and password are taken from
            SPANQA_OPENSEARCH_USER and SPANQA_OPENSEARCH_PASSWORD, and go unencrypted where there is no TLS; the CA of
            the cluster's certificate from the file named in SPANQA_OPENSEARCH_CA, where it is not one of the system's.

    Raises:
        CollectionError: There is none, or it cannot be read.
    """
    return OpenSearchIndex(Connection(parse_address(address)))


def opensearch_exists(address: str) -> bool:
    """Say whether an index is there, whoever made it.

    Args:
        address: As `open_opensearch`.

    Raises:
        CollectionError: The cluster cannot be asked.
    """
    connection = Connection(parse_address(address))
    return bool(connection.call(lambda client: client.indices.exists(index=connection.address.name)))


def create_opensearch(address: str, settings: IndexSettings) -> OpenSearchIndex:
    """Make an empty index; how many shards and copies it has, the cluster's templates say.

    Args:
        address: As `open_opensearch`.
        settings: How it cuts and weighs.

    Raises:
        CollectionError: Something of this name is there, or nothing can be made.
    """
    connection = Connection(parse_address(address))
    body = _layout(settings)
    try:
        connection.call(
            lambda client: client.indices.create(index=connection.address.name, body=body), passing=(RequestError,)
        )
    except RequestError as error:
        raise CollectionError(
            f"{connection.address}: no index can be made there ({reason_of(error.info)}): try again, or another name"
        ) from error
    return OpenSearchIndex(connection)


class OpenSearchIndex:
    """An index on a cluster. Safe to use from several threads.

    Scores are BM25's as the cluster gives them: since OpenSearch 3 without the constant factor of 2.2 that an index in
    a folder has, so that a weight fitted there is not one for here.

    Args:
        connection: The index.

    Raises:
        CollectionError: It is none, was not made by spanqa, or cannot be read.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        address = connection.address
        found = connection.call(lambda client: client.indices.get_mapping(index=address.name))
        if len(found) != 1:
            raise CollectionError(f"{address}: the name stands for {len(found)} indexes: give that of one")
        (index,) = found.values()
        kept = index.get("mappings", {}).get("_meta", {}).get(META)
        if kept is None:
            raise CollectionError(f"{address}: an index that spanqa did not make: give another name")
        self.settings = settings_from_json(json.dumps(kept), str(address))

    def refresh(self) -> None:
        """Do nothing: a search on a cluster always sees what was last made visible."""

    def search(self, query: str, *, top_k: int, filters: Mapping[str, Sequence[Scalar]] | None = None) -> list[Hit]:
        """Find the passages that fit a query best, best first; see `Index`. At most 10,000, by its first 450 words."""
        if not 1 <= top_k <= MOST_HITS:
            raise CollectionError(f"top_k is {top_k}: OpenSearch gives 1 to {MOST_HITS}")
        text = _shortened(query)
        should: list[Any] = [{"match": {"text": {"query": text}}}]
        if self.settings.title_weight:
            should.append({"match": {"title": {"query": text, "boost": self.settings.title_weight}}})
        must: list[Any] = [{"term": {"kind": {"value": PASSAGE}}}]
        for key, values in (filters or {}).items():
            must.append({"terms": {"label": [label_of(key, value) for value in values]}})
        wanted = {"bool": {"should": should, "minimum_should_match": 1, "filter": must}}
        fields = ["document", "title", "text", "kept"]
        # Words are weighed by the whole index, not by the shard that a passage happens to be in.
        hits = self._search({"size": top_k, "query": wanted, "_source": fields}, search_type="dfs_query_then_fetch")
        return [Hit(passage=passage_of(hit["_source"]), score=hit["_score"]) for hit in hits]

    def sources(self) -> dict[str, SourceRecord]:
        """Give every file that the index holds, by name."""
        return {found["source"]: SourceRecord(**json.loads(found["kept"])) for found in self._held(SOURCE)}

    def n_bytes(self) -> int:
        """Give what the index takes on the cluster's disks, all copies together, in bytes."""
        name = self._connection.address.name
        found = self._connection.call(lambda client: client.indices.stats(index=name, metric="store"))
        return int(found["_all"]["total"]["store"]["size_in_bytes"])

    @contextmanager
    def writer(self) -> Iterator[OpenSearchWriter]:
        """Open it for changes.

        OpenSearch has no commit of many documents, and nothing that was sent can be called back. What is sent becomes
        visible at a commit, where the cluster does not refresh the index by itself before: it is told not to, but does
        when it moves a shard. At the end of the block, files that are not finished stay unseen, until the next writer
        takes them away; finished ones stay, as if they had been committed. A changed file is not found from the moment
        that it is taken away to the next commit.

        Raises:
            BusyError: Another process has it open for changes, or was killed less than three minutes ago.
        """
        lock = Lock(self._connection)
        lock.acquire()
        try:
            yield OpenSearchWriter(self._connection, lock, self._held)
        finally:
            lock.release()

    def _held(self, kind: str) -> Iterator[dict[str, Any]]:
        """Read what the index holds of a kind, one per source, page by page in the order of the sources' names."""
        body: dict[str, Any] = {
            "size": PAGE,
            "query": {"term": {"kind": {"value": kind}}},
            "sort": [{"source": {"order": "asc"}}],
            "_source": ["source", "kept"],
        }
        while hits := self._search(body):
            yield from (hit["_source"] for hit in hits)
            if len(hits) < PAGE:
                return
            body["search_after"] = hits[-1]["sort"]

    def _search(self, body: dict[str, Any], **options: str) -> list[Any]:
        """Search all shards, or fail: what one of them does not give would be taken for gone."""
        found = self._connection.call(
            lambda client: client.search(
                index=self._connection.address.name,
                body={**body, "track_total_hits": False},
                allow_partial_search_results=False,
                **options,
            )
        )
        return list(found["hits"]["hits"])


def _layout(settings: IndexSettings) -> dict[str, Any]:
    """What an index is made of: its words, its fields, and its settings for whoever opens it."""
    keyword = {"type": "keyword", "ignore_above": LONGEST_KEYWORD}
    words = {"type": "text", "analyzer": "passage", "search_analyzer": "query"}
    properties = {
        "kind": {"type": "keyword"},
        "source": {"type": "keyword"},
        "document": keyword,
        "label": keyword,
        "title": words,
        "text": words,
        "kept": {"type": "keyword", "index": False, "doc_values": False},
    }
    meta = {META: json.loads(settings.to_json())}
    return {
        # Only a commit makes visible.
        "settings": {"refresh_interval": "-1", "analysis": _analysis(settings.stemmer)},
        "mappings": {"dynamic": "strict", "_meta": meta, "properties": properties},
    }


def _analysis(stemmer: str) -> dict[str, Any]:
    if stemmer in UNKNOWN_LANGUAGES:
        known = ", ".join(name for name in STEMMERS if name not in UNKNOWN_LANGUAGES)
        raise CollectionError(f"stemmer is {stemmer!r}, which OpenSearch does not have: give one of {known}")
    steps = ["short", "lowercase"]
    filters: dict[str, Any] = {
        "short": {"type": "length", "min": 1, "max": LONGEST_WORD},
        # A word that is said twice in a query counts once.
        "once": {"type": "unique"},
    }
    if stemmer != "none":
        filters["stems"] = {"type": "stemmer", "language": LANGUAGES.get(stemmer, stemmer)}
        steps.append("stems")
    return {
        "tokenizer": {"words": {"type": "pattern", "pattern": WORDS, "group": 0}},
        "filter": filters,
        "analyzer": {
            "passage": {"type": "custom", "tokenizer": "words", "filter": steps},
            "query": {"type": "custom", "tokenizer": "words", "filter": [*steps, "once"]},
        },
    }


def _shortened(query: str) -> str:
    """A query's first words, as many as a cluster takes; halves of surrogate pairs, which it does not, replaced."""
    for number, piece in enumerate(_PIECE.finditer(query)):
        if number == MOST_WORDS:
            query = query[: piece.start()]
            break
    return query.encode("utf-8", "replace").decode()
