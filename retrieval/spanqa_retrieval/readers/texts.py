"""Text and Markdown as documents, as they are written; and what every reader of whole files holds to."""

from __future__ import annotations

from pathlib import Path

from spanqa_retrieval.document import Document
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.sources import Source

LIMIT_BYTES = 256 << 20
"""Of a text: it is held whole, with its sentences, some times its size."""
_HEADING = "# "
_FENCES = ("```", "~~~")


def read_text(source: Source) -> Document:
    """Read a text file; its title is the file's name without the suffix.

    Raises:
        SourceError: It cannot be read, is too long, is no UTF-8, or holds no text.
    """
    return document_of(source, _text_of(source.path), "")


def read_markdown(source: Source) -> Document:
    """Read a Markdown file as it is written; its title is its first heading of level one; errors as `read_text`."""
    text = _text_of(source.path)
    return document_of(source, text, _first_heading(text))


def document_of(source: Source, text: str, title: str, page_starts: tuple[int, ...] = ()) -> Document:
    """Make the document of a whole file.

    Args:
        source: The file.
        text: Its text.
        title: What the file says its title is; where that is blank, it is the file's name without the suffix.
        page_starts: Where its pages begin.

    Raises:
        SourceError: The text is blank.
    """
    if not text or text.isspace():
        raise SourceError(f"{source.path}: holds no text")
    title = " ".join(title.split()) or source.path.stem
    return Document(id=source.name, text=text, title=title, metadata={"source": source.name}, page_starts=page_starts)


def bytes_of(path: Path, limit: int) -> bytes:
    """Read a file whole.

    Args:
        path: The file.
        limit: Most bytes that it may have.

    Raises:
        SourceError: It cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    check_size(path, len(content), limit)
    return content


def check_size(path: Path, n_bytes: int, limit: int) -> None:
    """Hold a file to what may be read of its kind.

    Raises:
        SourceError: It is longer.
    """
    if n_bytes > limit:
        raise SourceError(f"{path}: longer than the {limit:,} bytes that are read of such a file: split it")


def _text_of(path: Path) -> str:
    content = bytes_of(path, LIMIT_BYTES)
    if (place := content.find(b"\0")) >= 0:
        raise SourceError(f"{path}: byte {place} is zero, which no text in UTF-8 holds: convert it, or leave it out")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: byte {error.start} is not UTF-8 ({content[error.start]:#04x}): convert the file to UTF-8 first"
        ) from error


def _first_heading(text: str) -> str:
    """Give the first heading of the first level; what looks like one in a block of code is none."""
    fence = ""
    for line in text.splitlines():
        if fence:
            fence = "" if line.startswith(fence) else fence
        elif line.startswith(_FENCES):
            fence = line[:3]
        elif line.startswith(_HEADING) and (title := line.strip("# \t")):
            return title
    return ""
