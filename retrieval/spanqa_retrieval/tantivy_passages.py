"""What an index by tantivy keeps of a passage, and a file's passages in their order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import itemgetter
from typing import Any
from zlib import crc32

import tantivy

from spanqa_retrieval.document import Passage

PASSAGE, RECORD = "passage", "source"
"""The kinds of what it holds."""
_KEPT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def kept_of(passage: Passage) -> str:
    """Give what is kept of a passage: a line of JSON, what is empty left out, and its text behind it."""
    kept: dict[str, Any] = {"document": passage.document, "char_start": passage.char_start}
    for name in ("title", "metadata", "page_starts", "first_page"):
        if value := getattr(passage, name):
            kept[name] = value
    return f"{_KEPT.encode(kept)}\n{passage.text}"


def passage_of(found: Any) -> Passage:
    """Give the passage that was kept."""
    line, text = stored(found)
    kept = json.loads(line)
    pages = tuple(kept.pop("page_starts", ()))
    return Passage(**{"title": "", **kept}, text=text, page_starts=pages)


def stored(found: Any) -> tuple[str, str]:
    """Give the line of JSON that is kept, and the text behind it."""
    line, _, text = str(found.get_first("stored")).partition("\n")
    return line, text


def passages_in_order(searcher: tantivy.Searcher, schema: tantivy.Schema, source: str) -> Iterator[Passage]:
    """Give the passages of a file by document and offset, wherever its writer's threads have put them.

    Each is read twice, first for its place in this order: of all of them no more than that is held.

    Args:
        searcher: The commit that is read.
        schema: The index's.
        source: The file's name.
    """
    terms = [tantivy.Query.term_query(schema, *term) for term in (("kind", PASSAGE), ("source", source))]
    wanted = tantivy.Query.boolean_query([(tantivy.Occur.Must, term) for term in terms])
    most = max(searcher.doc_freq("source", source), 1)
    hits = searcher.search(tantivy.Query.const_score_query(wanted, 0.0), limit=most, count=False).hits
    places = [(_key(searcher.doc(place)), place) for _, place in hits]
    del hits
    places.sort(key=itemgetter(0))
    for _, place in places:
        yield passage_of(searcher.doc(place))


def _key(found: Any) -> tuple[str, int, int]:
    """The order of passages; rows that share an id may share offsets too, and are told apart by what they hold."""
    line, text = stored(found)
    kept = json.loads(line)
    return kept["document"], kept["char_start"], crc32(f"{line}\n{text}".encode())
