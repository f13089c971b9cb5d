"""Dataset files of every format as one stream of examples: the one way in which every command opens one."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from spanqa.csv_rows import examples_from_csv, is_csv
from spanqa.errors import DataError
from spanqa.examples import Example, Mend, OnDefect, PlacedExample, Reading, checked_examples, raise_defect
from spanqa.json_fields import Fields, join, shortened
from spanqa.json_stream import byte_chunks
from spanqa.squad import examples_from_json

DATASET_FORMATS = "SQuAD JSON, JSON Lines, CSV or Parquet, plain or gzipped"
"""What a dataset may be, in the words of every command's help; JSON may hold rows as well."""
_PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"


def iter_dataset(
    path: str | Path,
    *,
    require_answers: bool = True,
    on_defect: OnDefect | None = None,
    mend: Mend | None = None,
    check_ids: bool = True,
) -> Iterator[Example]:
    """Read a file's examples in one pass; SQuAD JSON, rows in JSON, JSON Lines, CSV or Parquet, plain or gzipped.

    Args:
        path: The file.
        require_answers: Whether a question without answers, not even an empty list, is a defect; without it, such a
            question counts as unanswerable (files to predict on).
        on_defect: Is told of every defect, and reading goes on where that is possible; without it the first is raised.
            Ids that stand twice are noticed at the end.
        mend: Mends answers that do not stand where they say.
        check_ids: Whether an id that stands twice is a defect.

    Yields:
        The questions in file order.

    Raises:
        DataError: Naming the file, the place in it and what is wrong.
    """
    examples = iter_placed_dataset(
        path, require_answers=require_answers, on_defect=on_defect, mend=mend, check_ids=check_ids
    )
    for _, example in examples:
        yield example


def iter_placed_dataset(
    path: str | Path,
    *,
    require_answers: bool = True,
    on_defect: OnDefect | None = None,
    mend: Mend | None = None,
    check_ids: bool = True,
) -> Iterator[PlacedExample]:
    """As `iter_dataset`, each example with its place: a JSON path, `line N` (from 1) or `row N` (from 0)."""
    path = Path(path)

    def examples(report: OnDefect) -> Iterator[PlacedExample]:
        reading = Reading(fields=Fields(path), report=report, require_answers=require_answers, mend=mend)
        if is_csv(path):
            return examples_from_csv(path, reading)
        return _examples_from_parquet(path, reading) if _is_parquet(path) else examples_from_json(path, reading)

    return checked_examples(path, examples, on_defect, check_ids=check_ids)


def read_dataset(path: str | Path, *, require_answers: bool = True) -> list[Example]:
    """Read all examples of a file; arguments and errors as `iter_dataset`."""
    return list(iter_dataset(path, require_answers=require_answers))


def _is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name or its first bytes; a gzipped one by what is in it."""
    if path.name.lower().removesuffix(".gz").endswith(".parquet"):
        return True
    # What is read from a pipe is gone, and Parquet is read from its end.
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(len(_PARQUET_MAGIC))
        if head.startswith(_GZIP_MAGIC):
            with gzip.open(path) as packed:
                head = packed.read(len(_PARQUET_MAGIC))
    except (OSError, EOFError, zlib.error):
        return False  # whoever reads it says what is wrong
    return head == _PARQUET_MAGIC


def _examples_from_parquet(path: Path, reading: Reading) -> Iterator[PlacedExample]:
    # pyarrow takes its time, and only such files need it.
    from spanqa.parquet import examples_from_parquet

    try:
        with path.open("rb") as file:
            is_packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not is_packed:
        yield from examples_from_parquet(path, reading)
        return
    # Parquet is read from its end: it cannot be unpacked on the way. A full disk is no fault of the dataset's.
    with tempfile.NamedTemporaryFile(suffix=".parquet") as unpacked:
        for chunk in byte_chunks(path):
            unpacked.write(chunk)
        unpacked.flush()
        yield from examples_from_parquet(Path(unpacked.name), reading)


def iter_datasets(
    files: Sequence[str | Path], *, require_answers: bool = True, on_defect: OnDefect | None = None
) -> Iterator[Example]:
    """Read files one after the other, as `iter_dataset`, and hold their ids to differ over all of them.

    Of all files but one, ids and places are held.

    Raises:
        DataError: As `iter_dataset`; or an id stands in two files.
    """
    earlier: dict[str, str] = {}
    for number, file in enumerate(files, start=1):
        own: dict[str, str] = {}
        for example in iter_dataset(file, require_answers=require_answers, on_defect=on_defect):
            if example.id in earlier:
                (on_defect or raise_defect)(_repeated(example, earlier[example.id]))
            if number < len(files):
                own.setdefault(example.id, example.place)
            yield example
        earlier = {**own, **earlier}


def distinct(examples: Iterable[Example]) -> Iterator[Example]:
    """Pass examples on as long as their ids differ, holding ids and places.

    Raises:
        DataError: An id stands twice.
    """
    places: dict[str, str] = {}
    for example in examples:
        if example.id in places:
            raise _repeated(example, places[example.id])
        places[example.id] = example.place
        yield example


def _repeated(example: Example, first_place: str) -> DataError:
    return DataError(
        f"{join(example.place, 'id')}: {shortened(example.id)} is also the id of {first_place}: "
        "ids must differ over all files"
    )


def read_datasets(files: Sequence[str | Path], *, num_samples: int = -1, require_answers: bool = True) -> list[Example]:
    """Read and join files: those to validate and to test on.

    Args:
        files: The files, in order.
        num_samples: Questions taken, the first over all files; -1 for all.
        require_answers: As in `iter_dataset`.

    Raises:
        DataError: As `iter_datasets`; a defect behind the last question taken is not noticed.
    """
    examples = iter_datasets(files, require_answers=require_answers)
    return list(examples if num_samples < 0 else islice(examples, num_samples))
