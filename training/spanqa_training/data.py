"""Training windows: labelled as BERT labels them, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.squad import Example, GoldAnswer, read_squad
from spanqa.windows import Batch, WindowMaker, Windows, batch_windows
from spanqa_training.errors import RunError
from spanqa_training.spec import DataSpec

NULL_POSITION = 0
"""[CLS]: the label of a window that does not hold the whole answer."""
_POOL_BATCHES = 50
"""Batches sorted by length at a time: little padding, while each batch stays a random draw from a large pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledWindow:
    """One window and the answer's place in it.

    Args:
        windows: The windows of its question.
        index: Which of them.
        start: Position of the answer's first token in the window; NULL_POSITION where it is not wholly inside.
        end: Position of its last token.
    """

    windows: Windows
    index: int
    start: int
    end: int

    @property
    def seq_length(self) -> int:
        """Tokens of the window, special tokens included."""
        return int(self.windows.seq_lengths[self.index])


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """Encoder input and labels.

    Args:
        inputs: The padded windows.
        starts: `int64 (n_windows,)`.
        ends: `int64 (n_windows,)`.
    """

    inputs: Batch
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def read_examples(spec: DataSpec, *, seed: int) -> list[Example]:
    """Read and join the files of a dataset; a random part of it where num_samples says so.

    Raises:
        DataError: If a file is not SQuAD.
    """
    examples = [example for file in spec.file for example in read_squad(file)]
    if 0 < spec.num_samples < len(examples):
        keep = np.random.default_rng(seed).choice(len(examples), size=spec.num_samples, replace=False)
        examples = [examples[index] for index in sorted(keep)]
    return examples


def labelled_windows(examples: Sequence[Example], maker: WindowMaker) -> list[LabelledWindow]:
    """Cut and label the windows of training questions; the first gold answer is the label, as in BERT's script."""
    all_windows = maker.windows_of_many([(example.question, example.context) for example in examples])
    labelled = []
    for example, windows in zip(examples, all_windows, strict=True):
        pieces = _answer_pieces(windows, example.answers[0]) if example.answers else None
        for index in range(len(windows)):
            start, end = _label(windows, index, pieces)
            labelled.append(LabelledWindow(windows=windows, index=index, start=start, end=end))
    if not labelled:
        raise RunError("no question to train on: training_ds holds none")
    return labelled


def _answer_pieces(windows: Windows, answer: GoldAnswer) -> tuple[int, int] | None:
    """First and last context piece that touch the answer; None for an answer without any (white space)."""
    chars = windows.document.chars
    first = int(np.searchsorted(chars[:, 1], answer.char_start, side="right"))
    last = int(np.searchsorted(chars[:, 0], answer.char_end, side="left")) - 1
    return (first, last) if first <= last else None


def _label(windows: Windows, index: int, pieces: tuple[int, int] | None) -> tuple[int, int]:
    if pieces is None:
        return NULL_POSITION, NULL_POSITION
    low = int(windows.starts[index])
    if pieces[0] < low or pieces[1] >= low + int(windows.lengths[index]):
        return NULL_POSITION, NULL_POSITION
    shift = windows.context_offset - low
    return pieces[0] + shift, pieces[1] + shift


def batch_order(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, shuffle: bool) -> list[list[int]]:
    """Group windows of similar length into batches, in an order that only the seed and the epoch decide.

    Args:
        lengths: Tokens of each window.
        batch_size: Windows in a batch; the last of a pool may hold fewer.
        seed: The run's seed.
        epoch: Counted from 0.
        shuffle: Whether to draw pools and batches at random; otherwise file order decides.

    Returns:
        Indices of the windows of each batch; every window stands in exactly one.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths)) if shuffle else np.arange(len(lengths))
    pool = batch_size * _POOL_BATCHES
    batches = []
    for low in range(0, len(order), pool):
        by_length = sorted(order[low : low + pool].tolist(), key=lambda index: lengths[index])
        batches += [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    if not shuffle:
        return batches
    return [batches[index] for index in rng.permutation(len(batches))]


def batches(windows: Sequence[LabelledWindow], order: Sequence[Sequence[int]]) -> Iterator[LabelledBatch]:
    """Pad and stack the windows of each batch, one batch at a time."""
    for indices in order:
        rows = [windows[index] for index in indices]
        yield LabelledBatch(
            inputs=batch_windows([(row.windows, row.index) for row in rows]),
            starts=np.array([row.start for row in rows], dtype=np.int64),
            ends=np.array([row.end for row in rows], dtype=np.int64),
        )
