"""PDF files as documents, page by page; a process of its own reads each, so that a hostile one takes nothing down."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from spanqa_retrieval.document import Document
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.readers.texts import LIMIT_BYTES, check_size, document_of
from spanqa_retrieval.sources import Source

MEMORY_BYTES = 2 << 30
"""Of the process that reads a file: what is packed in one may be much more than the file."""
CPU_S = 600
"""Of that process."""
MOST_CHARS = 32 << 20
"""Of a file's text."""
MOST_PAGES = 50_000
# An empty entry is the working folder, where a module of any name may lie beside the documents.
_CODE = (
    "import sys; sys.path[:] = filter(None, sys.path); from spanqa_retrieval.readers import pdf_pages; pdf_pages.main()"
)
_PASSWORD_ERROR = 4
_LINE_HYPHENS = ("\x02", "\ufffe")
"""What PDFium makes of a hyphen at the end of a line, and of that end."""


def read_pdf(source: Source, on_defect: Callable[[str], None]) -> Document:
    """Read a PDF file, its pages joined by blank lines; its title is the one that it gives itself.

    Args:
        source: The file.
        on_defect: Is told of pages that cannot be read; they are empty.

    Raises:
        SourceError: It is broken, encrypted, too large, or holds no text.
    """
    path = source.path
    if importlib.util.find_spec("pypdfium2") is None:
        raise SourceError(f"{path}: is read by pypdfium2, which is not installed: pip install 'spanqa[retrieval]'")
    try:
        check_size(path, path.stat().st_size, LIMIT_BYTES)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    read = _read_apart(source)
    if "problem" in read:
        raise SourceError(f"{path}: {read['problem']}")
    pages: list[str] = read["pages"]
    if not any(pages):
        raise SourceError(
            f"{path}: holds only pictures, no text (pages: {len(pages):,}): recognise their text first (OCR)"
        )
    if unread := read["unread"]:
        shown = ", ".join(map(str, unread[:5])) + (", ..." if len(unread) > 5 else "")
        on_defect(f"{path}: {len(unread):,} of its {len(pages):,} pages cannot be read: {shown}")
    starts, place = [], 0
    for page in pages:
        starts.append(place)
        place += len(page) + 2
    return document_of(source, "\n\n".join(pages), read["title"], tuple(starts))


def _read_apart(source: Source) -> dict[str, Any]:
    """Have a file read by another process; give what it wrote."""
    command = [sys.executable, "-c", _CODE, os.path.abspath(source.path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    if done.returncode == -signal.SIGXCPU:
        raise SourceError(f"{source.path}: takes more than the {CPU_S} s that a PDF may: leave it out")
    if done.returncode:
        raise SourceError(
            f"{source.path}: breaks the PDF library, or takes more than its {MEMORY_BYTES >> 20:,} MiB: leave it out"
        )
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def main() -> None:
    """Read the PDF file that the command line names, within limits, and write what it holds as JSON."""
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        # At the soft limit of its time a process is told which one it is; at the hard one it is only killed.
        resource.setrlimit(kind, (limit, limit + 5 if kind == resource.RLIMIT_CPU else limit))
    json.dump(_read(sys.argv[1]), sys.stdout)


def _read(path: str) -> dict[str, Any]:
    """Give the pages, the title and the numbers of unread pages of a file, or what its problem is."""
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(path)
    except PdfiumError as error:
        if error.err_code == _PASSWORD_ERROR:
            return {"problem": "is encrypted: take its password off first, or leave it out"}
        return {"problem": "is broken, or no PDF: mend it, or leave it out"}
    pages: list[str] = []
    unread = []
    n_chars = 0
    with document:
        n_pages = len(document)
        if n_pages > MOST_PAGES:
            return {"problem": f"has {n_pages:,} pages, more than the {MOST_PAGES:,} that are read: split it"}
        for number in range(n_pages):
            try:
                pages.append(_text_of(document, number))
            except PdfiumError:
                pages.append("")
                unread.append(number + 1)
            n_chars += len(pages[-1])
            if n_chars > MOST_CHARS:
                return {"problem": f"holds more than the {MOST_CHARS:,} characters that are read of a PDF: split it"}
        return {"pages": pages, "unread": unread, "title": _title_of(document)}


def _text_of(document: Any, number: int) -> str:
    """Give the text of a page, its lines as PDFium finds them."""
    page = document[number]
    try:
        found = page.get_textpage()
        try:
            text: str = found.get_text_bounded()
        finally:
            found.close()
    finally:
        page.close()
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    for hyphen in _LINE_HYPHENS:
        text = text.replace(hyphen, "-\n")
    return text.strip()


def _title_of(document: Any) -> str:
    try:
        return str(document.get_metadata_value("Title"))
    except UnicodeDecodeError:
        return ""
