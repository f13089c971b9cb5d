"""`spanqa search`: the passages of a collection that fit a query."""

from __future__ import annotations

import argparse
import json
import textwrap

from spanqa.errors import InputError
from spanqa_retrieval.commands.arguments import add_filters, add_index, filters
from spanqa_retrieval.document import printable
from spanqa_retrieval.engine import Hit
from spanqa_retrieval.opening import open_index

DEFAULT_TOP_K = 5
MOST = 1000
WIDTH = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("query", metavar="QUERY", help="words to look for; no character of it is an operator")
    add_index(parser)
    parser.add_argument(
        "--top-k", metavar="K", type=int, default=DEFAULT_TOP_K, help="most passages (default: %(default)s)"
    )
    add_filters(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Search and print the passages."""
    if not 1 <= args.top_k <= MOST:
        raise InputError(f"--top-k is {args.top_k}: give a whole number from 1 to {MOST}")
    hits = open_index(args.index).search(args.query, top_k=args.top_k, filters=filters(args.where))
    if args.json:
        print(json.dumps({"passages": [_dict(hit) for hit in hits]}, ensure_ascii=False, indent=2))
    elif not hits:
        print(f"no passage{' with that metadata' if args.where else ''} has a word of the query")
    else:
        print("\n\n".join(_text(rank, hit) for rank, hit in enumerate(hits, start=1)))
    return 0


def _dict(hit: Hit) -> dict[str, object]:
    passage = hit.passage
    return {
        "document": passage.document,
        "title": passage.title,
        "page": passage.first_page,
        "char_start": passage.char_start,
        "char_end": passage.char_end,
        "text": passage.text,
        "score": hit.score,
        "metadata": dict(passage.metadata),
    }


def _text(rank: int, hit: Hit) -> str:
    passage = hit.passage
    title = f" ({passage.title})" if passage.title and passage.title not in passage.document else ""
    page = f", page {passage.first_page}" if passage.first_page else ""
    place = f"characters {passage.char_start} to {passage.char_end}; score {hit.score:.2f}"
    text = "".join([char if char.isprintable() else " " for char in passage.text])
    body = textwrap.fill(" ".join(text.split()), WIDTH, initial_indent="   ", subsequent_indent="   ")
    return f"{rank}. {printable(passage.document)}{printable(title)}{page}, {place}\n{body}"
