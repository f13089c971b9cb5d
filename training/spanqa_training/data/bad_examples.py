"""Questions with a defect in training data: the first ends it, or all are left out and listed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from spanqa.errors import DamagedFileError, DataError
from spanqa.examples import OnDefect, PlacedExample
from spanqa.files import write_atomically
from spanqa.json_fields import join, shortened

LEFT_OUT_FILE = "bad_examples.jsonl"


def stop_naming_check_data(files: Sequence[str | Path], *, section: str) -> OnDefect:
    """Give what raises a defect, and names the command that shows all of them.

    Args:
        files: The dataset.
        section: Its section of the spec, where bad_examples is set.
    """

    def stop(defect: DataError) -> None:
        if isinstance(defect, DamagedFileError):
            raise defect
        raise DataError(
            f"{defect} (`spanqa check-data {' '.join(map(str, files))}` shows all; its --repair mends what it can, and "
            f"{section}.bad_examples=skip leaves bad examples out)"
        )

    return stop


class LeftOut:
    """Collects questions that are left out while an index is built; a file that cannot be read to its end is none."""

    def __init__(self) -> None:
        self._defects: list[dict[str, str]] = []

    def add(self, defect: DataError) -> None:
        """Take a defect.

        Raises:
            DamagedFileError: It is not of one question: training on a part would pass for the whole.
        """
        if isinstance(defect, DamagedFileError):
            raise defect
        said = {"place": defect.place, "id": defect.question_id}
        self._defects.append({"defect": str(defect), **{name: value for name, value in said.items() if value}})

    def first_of_ids(self, path: Path, examples: Iterator[PlacedExample]) -> Iterator[PlacedExample]:
        """Pass on the first question of each id of a file, and leave out the others."""
        places: dict[str, str] = {}
        for place, example in examples:
            if example.id in places:
                twice = f"{shortened(example.id)} is also the id of {places[example.id]}"
                message = f"{path}: {join(place, 'id')}: {twice}: ids must differ"
                self.add(DataError(message, place=example.place, question_id=example.id))
                continue
            places[example.id] = place
            yield place, example

    def write(self, folder: Path) -> None:
        """Write the list into the index that it belongs to, one JSON object a line: the defect, its place, the id."""
        lines = (json.dumps(defect, ensure_ascii=False) + "\n" for defect in self._defects)
        write_atomically(folder / LEFT_OUT_FILE, "".join(lines))


def copy_left_out(index: Path, results: Path) -> int:
    """Copy an index's list to the results, where there is something in it; gives how many questions it holds."""
    source, target = index / LEFT_OUT_FILE, results / LEFT_OUT_FILE
    text = source.read_text(encoding="utf-8") if source.exists() else ""
    if text:
        write_atomically(target, text)
    else:
        target.unlink(missing_ok=True)  # of another dataset
    return text.count("\n")
