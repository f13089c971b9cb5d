"""Labelled training windows on the disk: built once for the same data, read a batch at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from spanqa.datasets import iter_placed_dataset
from spanqa.errors import DataError, SettingsError
from spanqa.examples import OnDefect, PlacedExample, raise_defect
from spanqa.folder_swap import replace_folder
from spanqa.json_fields import join
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, Windows, batch_windows
from spanqa_training.data.bad_examples import LEFT_OUT_FILE, LeftOut
from spanqa_training.data.index_layout import (
    FILES,
    PIECES_FILE,
    WINDOW,
    WINDOWS_FILE,
    Header,
    index_key,
    read_header,
    write_index,
)
from spanqa_training.data.labels import KEEP_DOC_SPANS, LabelledBatch
from spanqa_training.data.windowing import cut_examples
from spanqa_training.errors import RunError

_LOCK_FILE = ".lock"
_READ_WINDOWS = 1 << 15


class TrainingIndex:
    """The labelled windows of a training set; threads may share it, and any number of processes open the same one.

    Args:
        folder: Where the index lies.
        header: What it holds.

    Attributes:
        folder: The same.
        n_questions: Questions read.
        n_unanswerable: Those without an answer.
        n_windows: Windows to train on.
        n_positive: Those that hold the whole answer.
        lengths: `int32 (n_windows,)`: tokens of each window, special tokens included.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.n_questions, self.n_unanswerable = header.n_questions, header.n_unanswerable
        self.n_windows, self.n_positive = header.n_windows, header.n_positive
        self._pair = header.pair
        self._piece_type = np.dtype(header.piece_type)
        self._pieces: BinaryIO = (folder / PIECES_FILE).open("rb", buffering=0)
        self._windows: BinaryIO = (folder / WINDOWS_FILE).open("rb", buffering=0)
        self.lengths: NDArray[np.int32] = np.empty(self.n_windows, dtype=np.int32)
        for low in range(0, self.n_windows, _READ_WINDOWS):
            rows = self._read(self._windows, WINDOW, low, min(_READ_WINDOWS, self.n_windows - low))
            self.lengths[low : low + len(rows)] = rows["n_question"] + rows["n_context"] + header.pair.n_special

    @classmethod
    def open(cls, folder: Path) -> TrainingIndex:
        """Open what `build_or_open_index` left, from another process.

        Raises:
            RunError: It is missing or damaged.
        """
        return cls(folder, read_header(folder))

    def __enter__(self) -> TrainingIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; no batch can be read after it."""
        self._pieces.close()
        self._windows.close()

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelledBatch:
        """Read some windows, padded to the longest of them.

        Args:
            indices: Which, `int64 (n_windows,)`.

        Raises:
            RunError: The index was cut short while it was in use.
        """
        rows = np.concatenate([self._read(self._windows, WINDOW, int(index), 1) for index in indices])
        return LabelledBatch(
            inputs=batch_windows([(self._one_window(row), 0) for row in rows]),
            starts=rows["start"].astype(np.int64),
            ends=rows["end"].astype(np.int64),
        )

    def _one_window(self, row: Any) -> Windows:
        """A stored window, as the only one of its question."""
        question, context = (
            self._read(self._pieces, self._piece_type, int(row[name]), int(row[f"n_{name}"])).astype(np.int32)
            for name in ("question", "context")
        )
        return Windows(
            question_ids=question,
            document=Pieces(ids=context, chars=np.empty((0, 2), dtype=np.int32), continues=np.empty(0, dtype=np.bool_)),
            starts=np.zeros(1, dtype=np.int32),
            lengths=np.array([len(context)], dtype=np.int32),
            room=len(context),
            question_truncated=False,
            pair=self._pair,
        )

    def _read(self, file: BinaryIO, kind: np.dtype[Any], first: int, count: int) -> NDArray[Any]:
        # Not mapped into memory: the pages read would count as the process's own.
        data = os.pread(file.fileno(), count * kind.itemsize, first * kind.itemsize)
        if len(data) != count * kind.itemsize:
            raise RunError(f"{self.folder}: the index of training windows was cut short: build it again")
        return np.frombuffer(data, dtype=kind)


def build_or_open_index(
    files: Sequence[str | Path],
    maker: WindowMaker,
    *,
    folder: Path,
    keep_doc_spans: str = "all",
    num_samples: int = -1,
    allow_unanswerable: bool = True,
    on_defect: OnDefect = raise_defect,
    skip_bad: bool = False,
    quiet: bool = True,
) -> TrainingIndex:
    """Open the index of a training set, and build it first where there is none for just this content and settings.

    Args:
        files: The dataset's files, in order.
        maker: The model's tokenizer and window settings.
        folder: Holds indices; each lies in a folder named by what it was made from.
        keep_doc_spans: Windows to train on, as in `kept_windows`.
        num_samples: Questions taken, the first over all files; -1 for all.
        allow_unanswerable: Whether a question may have no answer.
        on_defect: Raises the first defect.
        skip_bad: Whether questions with a defect are left out instead, and listed in the index's LEFT_OUT_FILE.
        quiet: Whether to hide the progress bar.

    Raises:
        DataError: A file has a defect; nothing is kept.
        RunError: No window is left to train on, or the folder cannot be written.
        SettingsError: keep_doc_spans is unknown.
    """
    if keep_doc_spans not in KEEP_DOC_SPANS:
        raise SettingsError(f"keep_doc_spans is {keep_doc_spans!r}: give one of {', '.join(KEEP_DOC_SPANS)}")
    paths = [Path(file) for file in files]
    selection = {"keep_doc_spans": keep_doc_spans, "num_samples": num_samples, "allow_unanswerable": allow_unanswerable}
    if skip_bad:
        selection["bad_examples"] = "skip"
    key = index_key(paths, maker, selection)
    target = Path(os.path.abspath(folder)) / key

    def write(new: Path) -> None:
        left_out = LeftOut() if skip_bad else None
        tell = left_out.add if left_out else on_defect
        examples = _examples(paths, num_samples, allow_unanswerable, tell, left_out)
        with tqdm(examples, desc="indexing", unit=" questions", disable=True if quiet else None) as bar:
            header = write_index(new, cut_examples(bar, maker, tell), maker, keep_doc_spans)
        if left_out:
            left_out.write(new)
        if not header.n_windows:
            raise RunError(
                f"keep_doc_spans={keep_doc_spans} leaves no window to train on (questions read: {header.n_questions}): "
                "give questions with an answer, or keep_doc_spans=all"
            )
        if index_key(paths, maker, selection) != key:
            raise DataError(f"{', '.join(map(str, paths))}: changed while it was read: start again")

    try:
        return _opened(target) or _built(target, write)
    except OSError as error:
        raise RunError(f"{folder}: the index of training windows cannot be kept there: {error}") from error


def _examples(
    paths: Sequence[Path], num_samples: int, allow_unanswerable: bool, tell: OnDefect, left_out: LeftOut | None
) -> Iterator[PlacedExample]:
    def of_file(path: Path) -> Iterator[PlacedExample]:
        examples = iter_placed_dataset(path, on_defect=tell, check_ids=left_out is None)
        return left_out.first_of_ids(path, examples) if left_out else examples

    placed = ((f"{path}: {place}", example) for path in paths for place, example in of_file(path))
    for place, example in placed if num_samples < 0 else islice(placed, num_samples):
        if not (allow_unanswerable or example.answers):
            raise DataError(
                f"{join(place, 'answers')}: holds none: train on unanswerable questions with "
                "model.dataset.version_2_with_negative=true, or take them out"
            )
        yield place, example


def _opened(target: Path) -> TrainingIndex | None:
    try:
        return TrainingIndex.open(target)
    except RunError:
        return None


def _built(target: Path, write: Callable[[Path], None]) -> TrainingIndex:
    """Build an index, unless another process has done so in the meantime."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent):
        index = _opened(target)
        if index:
            return index
        # No other process builds here: what stands there was left by one that was killed.
        for ending in ("new", "old"):
            for leftover in target.parent.glob(f".*.{ending}"):
                shutil.rmtree(leftover)
        replace_folder(target, write, own_files=(*FILES, LEFT_OUT_FILE))
        return TrainingIndex.open(target)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build in a folder; the lock of one that dies is free."""
    with (folder / _LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
