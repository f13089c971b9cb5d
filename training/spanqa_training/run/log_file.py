"""The log of a training run: one JSON object a line, cut back to where an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from spanqa.files import write_atomically
from spanqa_training.errors import RunError

LOG_FILE = "train.jsonl"
_IS_STEP = '"loss"'
"""Lines of a step have it, those of a validation do not."""


class TrainLog:
    """Appends to RESULTS/train.jsonl.

    Args:
        folder: The folder of results.
        step: The step that the run starts from; lines of later ones, of a run that was interrupted, are cut off.
        checked: Steps whose validation the run remembers; lines of others, which are validated again, are cut out.

    Raises:
        RunError: The file cannot be read.
        DataError: It cannot be written.
    """

    def __init__(self, folder: Path, *, step: int, checked: Collection[object] = ()) -> None:
        self._path = folder / LOG_FILE
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{self._path}: cannot be read: {error}: delete it, or give another -r") from error
        kept = "".join(
            f"{line}\n" for line in lines if (of := _step_of(line)) <= step and (_IS_STEP in line or of in checked)
        )
        write_atomically(self._path, kept, make_folder=True)

    def write(self, **values: Any) -> None:
        """Append one line; it has a `step`."""
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written: {error}") from error


def _step_of(line: str) -> float:
    """The step of a line; infinite for one that was cut off while it was written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
