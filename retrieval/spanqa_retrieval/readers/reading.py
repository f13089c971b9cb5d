"""Any file as documents: whatever is wrong with it, and whichever library notices, is told in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spanqa.errors import SpanqaError
from spanqa_retrieval.document import Document, printable
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.sources import Source

MOST_DEFECTS = 20
"""Told of one file; of more, only how many."""


def read_documents(source: Source, on_defect: Callable[[str], None]) -> Iterator[Document]:
    """Read a file's documents, one after the other; nothing but the file is read, and nothing in it is run.

    Args:
        source: The file.
        on_defect: Is told, in one line, of a part of it that is left out; reading goes on.

    Raises:
        SourceError: It cannot be read, in one line that names it.
    """
    n_defects = 0

    def tell(defect: str) -> None:
        nonlocal n_defects
        n_defects += 1
        if n_defects <= MOST_DEFECTS:
            on_defect(printable(defect))

    try:
        yield from _documents(source, tell)
    except SpanqaError as error:
        raise SourceError(printable(str(error))) from error
    except Exception as error:
        # Libraries raise what they like over a file that somebody broke on purpose; the next file is still to be read.
        problem = f"cannot be read as {source.kind}: {type(error).__name__}: {error}"
        raise SourceError(printable(f"{source.path}: {problem}")) from error
    finally:
        if n_defects > MOST_DEFECTS:
            on_defect(printable(f"{source.path}: {n_defects - MOST_DEFECTS:,} more parts are left out"))


def _documents(source: Source, on_defect: Callable[[str], None]) -> Iterator[Document]:
    # Each kind has its libraries, which are imported when there is a file of it.
    if source.kind == "text":
        from spanqa_retrieval.readers.texts import read_text

        yield read_text(source)
    elif source.kind == "markdown":
        from spanqa_retrieval.readers.texts import read_markdown

        yield read_markdown(source)
    elif source.kind == "html":
        from spanqa_retrieval.readers.html_pages import read_html

        yield read_html(source)
    elif source.kind == "pdf":
        from spanqa_retrieval.readers.pdf_pages import read_pdf

        yield read_pdf(source, on_defect)
    else:
        from spanqa_retrieval.readers.rows import read_rows

        yield from read_rows(source, on_defect)
