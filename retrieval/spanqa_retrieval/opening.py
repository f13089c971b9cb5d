"""Opening an index by its address, whichever engine holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spanqa_retrieval.engine import Index
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.settings import IndexSettings, is_index

if TYPE_CHECKING:
    from spanqa_retrieval.tantivy_engine import TantivyIndex

OPENSEARCH = ("opensearch://", "opensearchs://")
INDEX_HELP = "a folder, or opensearch://HOST:PORT/NAME"


def open_index(address: str) -> Index:
    """Open an index that is there.

    Args:
        address: A folder, or `opensearch://host:port/name` (`opensearchs://` with TLS).

    Raises:
        CollectionError: There is none, or it cannot be read.
    """
    # Each engine's library is large, and only one is needed.
    if not address.startswith(OPENSEARCH):
        return open_folder(_folder(address))
    with _packages():
        from spanqa_retrieval.opensearch_engine import open_opensearch

        return open_opensearch(address)


def open_folder(path: Path) -> TantivyIndex:
    """Open an index that is there in a folder.

    Args:
        path: The folder.

    Raises:
        CollectionError: There is none, or it cannot be read.
    """
    with _packages():
        from spanqa_retrieval.tantivy_engine import TantivyIndex

        return TantivyIndex(path)


def open_or_create(address: str, settings: IndexSettings | None) -> Index:
    """Open an index to be brought up to date, or make it where there is none.

    Args:
        address: As `open_index`.
        settings: What it is to be made with, and must have been made with; None where it may be anything, and gets the
            defaults.

    Raises:
        CollectionError: It was made with other settings, or cannot be opened or made.
    """
    if address.startswith(OPENSEARCH):
        from spanqa_retrieval.opensearch_engine import create_opensearch, open_opensearch, opensearch_exists

        exists = opensearch_exists(address)
        index: Index = open_opensearch(address) if exists else create_opensearch(address, settings or IndexSettings())
    else:
        from spanqa_retrieval.tantivy_engine import TantivyIndex, create_index

        path = _folder(address)
        index = TantivyIndex(path) if is_index(path) else create_index(path, settings or IndexSettings())
    if settings is not None and index.settings != settings:
        raise CollectionError(
            f"{address}: made with {_said(index.settings)}, not with {_said(settings)}: leave the settings out, or "
            "make a new index"
        )
    return index


@contextmanager
def _packages() -> Iterator[None]:
    """Tell of an engine's package that is missing what installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CollectionError(
            f"an index needs the package {error.name}, which is not installed: pip install 'spanqa[retrieval]'"
        ) from error


def _folder(address: str) -> Path:
    if "://" in address:
        raise CollectionError(f"the index is {address!r}: give {INDEX_HELP}")
    return Path(address)


def _said(settings: IndexSettings) -> str:
    return (
        f"passages of {settings.passage_words} words, {settings.overlap_sentences} sentences in common, stemmer "
        f"{settings.stemmer}, titles weighing {settings.title_weight:g}"
    )
