"""The texts of an index's documents, joined of their passages: for those who read all of it and search nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spanqa_retrieval.document import Passage
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.opening import OPENSEARCH, open_folder
from spanqa_retrieval.settings import is_index


def is_index_folder(named: str) -> bool:
    """Say whether a name is that of an index in a folder.

    Args:
        named: A file, a folder, or the address of an index.

    Raises:
        CollectionError: It is the address of an index on a server, whose texts are not given.
    """
    if named.startswith(OPENSEARCH):
        # Said without the address, which may hold a secret.
        raise CollectionError(
            "an index of OpenSearch is no source of texts: give what it was made of, or make an index of that in a "
            "folder (`spanqa index SOURCE -o FOLDER`) and give the folder"
        )
    return is_index(Path(named))


def iter_document_texts(path: Path) -> Iterator[str]:
    """Read the texts of the documents in an index, by file and document; files that were not finished are left out.

    A text is the document's up to white space: where passages leave some out between them, a newline stands for it, or
    a space for a single character. Titles and metadata are no part of it.

    Args:
        path: The folder of the index.

    Raises:
        CollectionError: It holds no index, one that cannot be read, or a package for it is not installed.
    """
    index = open_folder(path)
    for name in index.sources():
        yield from _texts(index.passages(name))


def _texts(passages: Iterable[Passage]) -> Iterator[str]:
    """Join passages, which come by document and offset, to the texts of their documents."""
    parts: list[str] = []
    before: Passage | None = None
    for passage in passages:
        if before and _goes_on(before, passage):
            gap = passage.char_start - before.char_end
            parts += [passage.text[-gap:]] if gap <= 0 else [" " if gap == 1 else "\n", passage.text]
        else:
            if before:
                yield "".join(parts)
            parts = [passage.text]
        before = passage
    if before:
        yield "".join(parts)


def _goes_on(before: Passage, passage: Passage) -> bool:
    """Whether a passage is of the same document as the one before: several rows of a file may have one id."""
    if passage.document != before.document:
        return False
    shared = before.char_end - passage.char_start
    return shared <= 0 or before.text[-shared:] == passage.text[:shared]
