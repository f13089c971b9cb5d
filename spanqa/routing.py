"""Windows of many questions to calls of the encoder, and logits back to their questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa import contract
from spanqa.errors import LogitsError
from spanqa.packing import Bucket, Packing
from spanqa.windows import Batch, Windows, batch_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Windows that go to the encoder together.

    Args:
        rows: Pairs of a question's place in its batch and a window of it, longest window first.
        model: The encoder model that takes them.
        length: Tokens that every row is padded to; None for the longest of them.
    """

    rows: tuple[tuple[int, int], ...]
    model: str = contract.ENCODER
    length: int | None = None


def packed_calls(all_windows: Sequence[Windows], packing: Packing) -> list[Call]:
    """Group the windows of a batch of questions: similar lengths together, longest first.

    Args:
        all_windows: Windows of each question.
        packing: Limits of a call; without buckets a single window is always a call, however long.

    Raises:
        LogitsError: If a window is longer than the longest bucket.
    """
    rows = [(question, window) for question, windows in enumerate(all_windows) for window in range(len(windows))]
    lengths = np.concatenate([windows.seq_lengths for windows in all_windows]).tolist()
    order = sorted(range(len(rows)), key=lambda row: -lengths[row])
    calls, low = [], 0
    while low < len(order):
        longest = lengths[order[low]]
        bucket = _bucket_of(longest, packing)
        if bucket is None:
            n_rows = max(1, min(packing.rows_per_call, packing.tokens_per_call // longest))
            high, model, length = low + n_rows, contract.ENCODER, None
        else:
            high, model, length = low + bucket.max_rows, bucket.model, bucket.length
        chosen = [row for row in order[low:high] if bucket is None or _bucket_of(lengths[row], packing) is bucket]
        calls.append(Call(rows=tuple(rows[row] for row in chosen), model=model, length=length))
        low += len(chosen)
    return calls


def _bucket_of(length: int, packing: Packing) -> Bucket | None:
    """The smallest bucket that holds a window; None where there are no buckets."""
    bucket = next((bucket for bucket in packing.buckets if length <= bucket.length), None)
    if bucket is None and packing.buckets:
        raise LogitsError(
            f"a window of {length} tokens fits into no bucket, the longest takes {packing.buckets[-1].length}: "
            "build the repository again"
        )
    return bucket


class Logits:
    """Logits of a batch of questions, filled call by call.

    Args:
        all_windows: Windows of each question.
    """

    def __init__(self, all_windows: Sequence[Windows]) -> None:
        self._windows = all_windows
        shapes = [(len(windows), int(windows.seq_lengths.max())) for windows in all_windows]
        self._start = [np.zeros(shape, dtype=np.float32) for shape in shapes]
        self._end = [np.zeros(shape, dtype=np.float32) for shape in shapes]

    def batch(self, call: Call) -> Batch:
        """The encoder's input for a call."""
        return batch_windows([(self._windows[question], window) for question, window in call.rows], length=call.length)

    def fill(self, call: Call, start_logits: NDArray[np.float32], end_logits: NDArray[np.float32]) -> None:
        """Take the encoder's output for a call: each `float32 (rows, length)`.

        Raises:
            LogitsError: If it does not have the shape of the input.
        """
        longest = max(int(self._windows[question].seq_lengths[window]) for question, window in call.rows)
        expected = (len(call.rows), call.length or longest)
        if start_logits.shape != expected or end_logits.shape != expected:
            raise LogitsError(
                f"the encoder answered {expected} tokens with logits of shape {start_logits.shape} and "
                f"{end_logits.shape}: the network is not the one the repository was built with"
            )
        for place, (question, window) in enumerate(call.rows):
            length = int(self._windows[question].seq_lengths[window])
            self._start[question][window, :length] = start_logits[place, :length]
            self._end[question][window, :length] = end_logits[place, :length]

    def of(self, question: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Start and end logits of one question, each `float32 (n_windows, length)`."""
        return self._start[question], self._end[question]
