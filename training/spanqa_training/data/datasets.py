"""Dataset files of every format as one stream of examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from spanqa.errors import DataError
from spanqa.examples import Example, OnDefect, PlacedExample, raise_defect
from spanqa.json_fields import join, shortened
from spanqa.squad import iter_placed_examples


def iter_dataset(
    path: str | Path, *, require_answers: bool = True, on_defect: OnDefect | None = None
) -> Iterator[Example]:
    """Read a file's examples in one pass: Parquet by its suffix, else SQuAD JSON or JSON Lines.

    Args:
        path: The file.
        require_answers: Whether a question without answers, not even an empty list, is a defect.
        on_defect: Is told of every defect, and reading goes on; without it the first is raised.

    Raises:
        DataError: Naming the file, the place in it and what is wrong.
    """
    for _, example in iter_placed_dataset(path, require_answers=require_answers, on_defect=on_defect):
        yield example


def iter_placed_dataset(
    path: str | Path, *, require_answers: bool = True, on_defect: OnDefect | None = None
) -> Iterator[PlacedExample]:
    """As `iter_dataset`, each example with its place: a JSON path, `line N` (from 1) or `row N` (from 0)."""
    if Path(path).suffix.lower() != ".parquet":
        return iter_placed_examples(path, require_answers=require_answers, on_defect=on_defect)
    # pyarrow takes its time, and only such files need it.
    from spanqa_training.data.parquet import iter_parquet

    return iter_parquet(Path(path), require_answers=require_answers, on_defect=on_defect)


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
