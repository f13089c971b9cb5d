"""The arguments that the commands of collections have in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from spanqa.errors import InputError
from spanqa_retrieval.document import Scalar
from spanqa_retrieval.opening import INDEX_HELP


def add_index(parser: argparse.ArgumentParser) -> None:
    """Declare which index is asked."""
    parser.add_argument("--index", metavar="INDEX", required=True, help=INDEX_HELP)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare what documents must be to be found; `filters` reads it."""
    parser.add_argument(
        "--where",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only documents with this metadata; given twice with one key, either value will do",
    )


def filters(pairs: Sequence[str]) -> Mapping[str, Sequence[Scalar]]:
    """Read what `add_filters` declared.

    Raises:
        InputError: One is no pair.
    """
    read: dict[str, list[Scalar]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InputError(f"--where is {pair!r}: give KEY=VALUE, such as lang=en")
        read.setdefault(key, []).append(value)
    return read
