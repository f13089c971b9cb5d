"""Plain text from files, folders and indexes: one text a document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from spanqa.errors import DataError, SpanqaError
from spanqa.json_fields import Fields
from spanqa.json_stream import read_json, text_chunks
from spanqa.jsonl import rows_from_lines
from spanqa_training.errors import RunError

_TEXT, _PARQUET = (".txt", ".md"), (".parquet",)
_ROWS = (".jsonl", ".json")
_ALLOWED = ".txt, .md, .jsonl and .json (also with .gz) and .parquet"

Warn = Callable[[str], None]


def iter_texts(named: Sequence[str], *, num_samples: int = -1, warn: Warn) -> Iterator[str]:
    """Read texts that are not blank, in the order of the files; in folders by name.

    A text is a .txt or .md file; the `text` of a row of JSON, JSON Lines or Parquet; a context of a SQuAD file or of
    rows in Hugging Face's columns, once where neighbours share it; a document of an index that `spanqa index` made.

    Args:
        named: Files and folders; a folder may be an index. One that lies in a folder of texts is not read, as
            `spanqa index` passes it over too.
        num_samples: Texts taken, the first of all; -1 for all.
        warn: Told what in a folder is not read.

    Raises:
        DataError: A file is missing, damaged, or holds no text.
        RunError: A folder holds no file that is read.
        SpanqaError: pyarrow is not installed, nor tantivy for an index; or an index is damaged, or OpenSearch's.
    """
    texts = (text for path in _files(named, warn) for text in _texts_of(path))
    return texts if num_samples < 0 else islice(texts, num_samples)


def _files(named: Sequence[str], warn: Warn) -> Iterator[Path]:
    """Give the files that are read, and the folders of indexes."""
    from spanqa_retrieval.document_texts import is_index_folder

    for name in named:
        path = Path(name)
        if is_index_folder(name):
            yield path
        elif path.is_dir():
            yield from _files_of_folder(path, warn)
        elif not path.exists():
            raise DataError(f"{path}: no such file or folder")
        elif not _is_read(path):
            raise DataError(f"{path}: files of this type are not read: give {_ALLOWED}, a folder of them, or an index")
        else:
            yield path


def _files_of_folder(path: Path, warn: Warn) -> list[Path]:
    from spanqa_retrieval.document_texts import is_index_folder

    inside = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file, path)]
    indexes = {folder for folder in {file.parent for file in inside} if is_index_folder(str(folder))}
    for index in sorted(indexes):
        warn(f"{index}: an index, not documents, and is not read: name it itself to read the texts in it")
    inside = [file for file in inside if indexes.isdisjoint(file.parents)]
    found = [file for file in inside if _is_read(file)]
    if not found:
        raise RunError(f"{path}: holds no file that is read: give a folder with {_ALLOWED}, or an index")
    if len(found) < len(inside):
        warn(f"{path}: {len(inside) - len(found):,} files are of other types than {_ALLOWED}, and are not read")
    return found


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _is_read(path: Path) -> bool:
    packed = path.name.lower().endswith(".gz")
    return _suffix(path) in ((*_TEXT, *_ROWS) if packed else (*_TEXT, *_ROWS, *_PARQUET))


def _texts_of(path: Path) -> Iterator[str]:
    suffix, is_empty = _suffix(path), True
    texts: Iterable[str]
    if path.is_dir():
        from spanqa_retrieval.document_texts import iter_document_texts

        texts = iter_document_texts(path)
    elif suffix in _TEXT:
        texts = ["".join(text_chunks(path))]
    elif suffix in _PARQUET:
        texts = _texts_of_parquet(path)
    elif suffix == ".jsonl":
        texts = _texts_of_lines(path)
    else:
        texts = _texts_of_json(path)
    before = None
    for text in texts:
        if text != before and not text.isspace() and text:
            is_empty = False
            yield text
        before = text
    if is_empty and path.is_dir():
        raise DataError(f"{path}: the index holds no text: bring it up to date with `spanqa index SOURCE -o {path}`")
    if is_empty:
        raise DataError(f"{path}: holds no text: give text, rows with `text`, or SQuAD's data[].paragraphs[].context")


def _raise(defect: DataError) -> None:
    raise defect


def _texts_of_lines(path: Path) -> Iterator[str]:
    fields = Fields(path)
    return (_text_of_row(fields, place, row) for place, row in rows_from_lines(path, text_chunks(path), _raise))


def _texts_of_json(path: Path) -> Iterator[str]:
    fields, value = Fields(path), read_json(path)
    place = ""
    if isinstance(value, dict) and "data" in value:
        value, place = value["data"], "data"
    for number, item in enumerate(fields.checked(value, place or "top level", list)):
        at = f"{place}[{number}]"
        if isinstance(item, dict) and "paragraphs" in item:
            for at_paragraph, paragraph in fields.each(item, at, "paragraphs"):
                yield fields.get(paragraph, at_paragraph, "context", str)
        else:
            yield _text_of_row(fields, at, item)


def _text_of_row(fields: Fields, place: str, row: Any) -> str:
    """A row's `text`, or the `context` of one that asks a question about it."""
    key = "context" if isinstance(row, dict) and "context" in row and "text" not in row else "text"
    text: str = fields.get(row, place, key, str)
    return text


def _texts_of_parquet(path: Path) -> Iterator[str]:
    fields = Fields(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SpanqaError(
            f"{path}: is read by pyarrow, which is not installed: pip install 'spanqa[parquet]'"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            names = file.schema_arrow.names
            column = next((name for name in ("text", "context") if name in names), None)
            if column is None:
                raise fields.missing("column text", names)
            for batch in file.iter_batches(1000, columns=[column]):
                for text in batch.column(0).to_pylist():
                    yield fields.checked(text, f"row {number}", str)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise fields.fail(f"row {number}", f"cannot be read as Parquet: {' '.join(str(error).split())}") from error
