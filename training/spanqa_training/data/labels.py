"""What training sees of a question: its windows, labelled as BERT labels them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.squad import Example, GoldAnswer
from spanqa.windows import Batch, Windows

NULL_POSITION = 0
"""[CLS]: the label of a window that does not hold the whole answer."""
KEEP_DOC_SPANS = ("all", "only_positive", "limited_negative")
"""NeMo's names (qa_conf.yaml, since 1.11) for the windows that are trained on."""
_LIMITED_NEGATIVE = 10
"""Windows that NeMo's limited_negative keeps."""


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


def answer_pieces(windows: Windows, answer: GoldAnswer) -> tuple[int, int] | None:
    """First and last context piece that touch an answer; None for an answer without any (white space)."""
    chars = windows.document.chars
    first = int(np.searchsorted(chars[:, 1], answer.char_start, side="right"))
    last = int(np.searchsorted(chars[:, 0], answer.char_end, side="left")) - 1
    return (first, last) if first <= last else None


def window_labels(windows: Windows, example: Example) -> list[tuple[int, int]]:
    """Label the windows of a question; the first gold answer is the label, as in BERT's script.

    Returns:
        For each window the positions of the answer's first and last token in it; NULL_POSITION twice where it is not
        wholly inside.
    """
    pieces = answer_pieces(windows, example.answers[0]) if example.answers else None
    return [_label(windows, index, pieces) for index in range(len(windows))]


def _label(windows: Windows, index: int, pieces: tuple[int, int] | None) -> tuple[int, int]:
    low = int(windows.starts[index])
    if pieces is None or pieces[0] < low or pieces[1] >= low + int(windows.lengths[index]):
        return NULL_POSITION, NULL_POSITION
    shift = windows.context_offset - low
    return pieces[0] + shift, pieces[1] + shift


def kept_windows(windows: Windows, example: Example, keep: str) -> list[int]:
    """Choose the windows of a question to train on.

    Args:
        windows: All of them.
        example: The question.
        keep: `all`; `only_positive`, those that hold the whole answer; or `limited_negative`, the ten nearest to it by
            the mean distance of a window's two ends to the answer's middle piece (the first ten without an answer).

    Returns:
        Their indices, ascending.
    """
    if keep == "only_positive":
        return [index for index, label in enumerate(window_labels(windows, example)) if label[0] != NULL_POSITION]
    pieces = answer_pieces(windows, example.answers[0]) if example.answers else None
    if keep == "all" or pieces is None:
        return list(range(len(windows)))[: None if keep == "all" else _LIMITED_NEGATIVE]
    lasts = windows.starts + windows.lengths - 1
    # Four times the mean distance, so that halves stay whole numbers.
    distances = np.abs(2 * windows.starts - sum(pieces)) + np.abs(2 * lasts - sum(pieces))
    nearest = np.argsort(distances, kind="stable")[:_LIMITED_NEGATIVE]
    return sorted(nearest.tolist())
