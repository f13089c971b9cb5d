"""One request of the main entry on its way: its rows, their windows, their logits, and its one response."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import InputError, OverloadError
from spanqa.guard import CancelledError
from spanqa.limits import Limits
from spanqa.manifest import Manifest
from spanqa.spans import Decoded
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, Windows
from spanqa.wire import Question, decode_question, named_row

CHECK_S = 0.5
"""How often the sender is asked whether it still waits: each time is a trip to Triton's process and back."""
LONG_WINDOWS = 32
"""Windows of a request from which on it goes through the encoder in slices between others."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One window of one row of a request, on its way to the encoder.

    Args:
        job: The request.
        row: The row.
        window: The window of the row.
        length: Its tokens, special tokens included.
    """

    job: Job
    row: int
    window: int
    length: int


class Job:
    """One request; whatever happens to it, it is answered once.

    Args:
        rows: What it asks.
        respond: Called once with the job: with what was decoded for each row, or with an error.
        is_long: Whether its texts are read beside the others.
        is_cancelled: Says whether the sender has given up.
        arrived: When it came, in seconds of the schedule's clock.
        expires: When it is not worth starting any more, by the same clock.
    """

    def __init__(
        self,
        rows: list[Question],
        respond: Callable[[Job, list[Decoded] | Exception], None],
        *,
        is_long: bool,
        is_cancelled: Callable[[], bool],
        arrived: float,
        expires: float = float("inf"),
    ) -> None:
        self.rows = rows
        self.windows: list[Windows] = []
        self.is_started = False
        self.is_answered = False
        self.is_long = is_long
        self._respond, self._is_cancelled = respond, is_cancelled
        self._arrived, self._expires = arrived, expires
        self._checked = arrived
        self._logits: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self._n_left = 0
        self._lock = threading.Lock()

    @property
    def n_windows(self) -> int:
        """Windows of all rows."""
        return sum(map(len, self.windows))

    def cut(self, maker: WindowMaker, pieces: Mapping[str, Pieces], limits: Limits) -> None:
        """Cut the windows of every row.

        Raises:
            InputError: If a row holds no word, or there are too many windows.
        """
        for row, question in enumerate(self.rows):
            try:
                self.windows.append(maker.cut(pieces[question.question], pieces[question.context]))
            except InputError as error:
                raise named_row(error, row, len(self.rows)) from error
        if self.n_windows > limits.max_windows:
            raise InputError(
                f"the request needs {self.n_windows:,} windows, at most {limits.max_windows:,} are allowed: split the "
                "text, send fewer rows, or raise max_windows in the model's config.pbtxt",
                reason="too_many_windows",
            )
        self.is_long = self.is_long or self.n_windows > LONG_WINDOWS
        shapes = [(len(windows), int(windows.seq_lengths.max())) for windows in self.windows]
        self._logits = [(np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)) for shape in shapes]
        self._n_left = self.n_windows

    def units(self) -> Iterator[Unit]:
        """Its windows, in order."""
        for row, windows in enumerate(self.windows):
            for window, length in enumerate(windows.seq_lengths.tolist()):
                yield Unit(self, row, window, length)

    def is_wanted(self, now: float) -> bool:
        """Say whether its windows are still worth encoding; where they are not, it is answered with the reason."""
        if not self.is_answered and not self.is_started and now > self._expires:
            self.fail(
                OverloadError(
                    f"the request waited {now - self._arrived:.1f} s for its turn: ask again", reason="too_old"
                )
            )
        if now - self._checked > CHECK_S:
            self._checked = now
            try:
                if self._has_been_cancelled():
                    self.fail(CancelledError("the request was cancelled by its sender"))
            except Exception as error:  # its neighbours in the call must not fail for it
                self.fail(error)
        self.is_started = True
        return not self.is_answered

    def fill(self, unit: Unit, start_logits: NDArray[np.float32], end_logits: NDArray[np.float32]) -> bool:
        """Take the logits of one window, each `float32 (at least its length,)`.

        Returns:
            Whether it was the last one.
        """
        logits = self._logits
        if not logits:  # answered meanwhile, with an error
            return False
        start, end = logits[unit.row]
        start[unit.window, : unit.length] = start_logits[: unit.length]
        end[unit.window, : unit.length] = end_logits[: unit.length]
        with self._lock:
            self._n_left -= 1
            return self._n_left == 0

    def answer(self, manifest: Manifest) -> None:
        """Decode every row and respond; whatever fails is the response."""
        try:
            decoded = []
            for row, (question, windows, logits) in enumerate(zip(self.rows, self.windows, self._logits, strict=True)):
                try:
                    decoded.append(decode_question(windows, question.context, question.options, *logits, manifest))
                except InputError as error:
                    raise named_row(error, row, len(self.rows)) from error
        except Exception as error:  # every fault is told to whom it concerns
            self.fail(error)
        else:
            self._finish(decoded)

    def fail(self, error: Exception) -> None:
        """Respond with an error, unless it was answered before."""
        self._finish(error)

    def _has_been_cancelled(self) -> bool:
        # Under the lock that an answer needs: Triton frees the request with it, and must not be asked about it then.
        with self._lock:
            return not self.is_answered and self._is_cancelled()

    def _finish(self, outcome: list[Decoded] | Exception) -> None:
        with self._lock:
            if self.is_answered:
                return
            self.is_answered = True
        self._respond(self, outcome)
        self._logits = []
