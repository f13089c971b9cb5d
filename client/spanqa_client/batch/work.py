"""The work of a batch: rows settled by whoever answers, counted, and written block by block."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from spanqa_client.batch.askers import Asker
from spanqa_client.batch.parts import ANSWERS, FOUND_ANSWERS, Parts
from spanqa_client.batch.rows import NOT_READ, Row, Settled, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be answered and where answers go: a value that travels to the process that reads.

    Args:
        files: The inputs, by absolute paths.
        has_contexts: Whether their rows have contexts; else an index is asked.
        folder: The batch's folder, by its absolute path.
        rows_per_part: Input rows of a part.
    """

    files: tuple[str, ...]
    has_contexts: bool
    folder: str
    rows_per_part: int

    @property
    def parts(self) -> Parts:
        """Its parts."""
        schema: pa.Schema = ANSWERS if self.has_contexts else FOUND_ANSWERS
        return Parts(Path(self.folder), self.rows_per_part, schema)

    def items(self) -> Iterator[Row | Settled]:
        """Read the rows that are still to be answered, and those that are settled already.

        Raises:
            DataError: An input or a part cannot be read.
        """
        return self.parts.left_out(read_rows([Path(file) for file in self.files], has_contexts=self.has_contexts))


@dataclass(slots=True)
class Tally:
    """What a batch has come to.

    Args:
        n_read: Rows read, broken ones too.
        n_answered: Rows whose answers are in parts.
        n_failed: Rows that failed.
        n_kept: Of those answered, the ones that were so before this run.
        n_without_answer: Of those answered, the ones without an answer in their context.
        n_parts: Parts with answers.
        versions: Those answered by the version of the model.
        first_failure: The failure that stands first in the input.
        cut_short: What is said of inputs that could not be read to their end.
        began: When it began, by the clock of `time.perf_counter`.
    """

    n_read: int = 0
    n_answered: int = 0
    n_failed: int = 0
    n_kept: int = 0
    n_without_answer: int = 0
    n_parts: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    first_failure: Settled | None = None
    cut_short: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def summary(self, *, complete: bool) -> dict[str, Any]:
        """Give it as JSON values.

        Args:
            complete: Whether all rows of the input were read.
        """
        seconds = time.perf_counter() - self.began
        return {
            "complete": complete,
            "read": self.n_read,
            "answered": self.n_answered,
            "failed": self.n_failed,
            "answered_before": self.n_kept,
            "without_answer": self.n_without_answer,
            "parts": self.n_parts,
            "model_versions": dict(self.versions),
            "seconds": seconds,
            "questions_per_s": (self.n_answered - self.n_kept) / seconds,
        }


class Collector:
    """Takes settled rows in any order, and writes each block when it is whole.

    Args:
        parts: Where answers go.
        on_failure: Is given each failure.
    """

    def __init__(self, parts: Parts, on_failure: Callable[[Settled], None]) -> None:
        self.tally = Tally()
        self._parts, self._on_failure = parts, on_failure
        self._open: dict[int, dict[int, Settled]] = {}
        self._written: set[int] = set()

    def settle(self, row: Settled) -> bool:
        """Take a row, and say whether it is the first time."""
        if not self.lacks(row.number):
            return False
        block = row.number // self._parts.rows_per_part
        rows = self._open.setdefault(block, {})
        rows[row.number] = row
        if len(rows) == self._parts.rows_per_part:
            self._write(block)
        return True

    def lacks(self, number: int) -> bool:
        """Say whether a row has not come."""
        block = number // self._parts.rows_per_part
        return block not in self._written and number not in self._open.get(block, ())

    def finish(self) -> None:
        """Write what is there of blocks that are not whole: the input's last, and those where work was interrupted."""
        for block in sorted(self._open):
            self._write(block)

    def _write(self, block: int) -> None:
        # What is written must also be counted.
        with _interrupted_later():
            self._write_and_count(block)

    def _write_and_count(self, block: int) -> None:
        rows = [row for _, row in sorted(self._open.pop(block).items())]
        self._written.add(block)
        held = self._parts.write(block, rows)
        failures = [row for row in rows if row.reason]
        for row in failures:
            self._on_failure(row)
        tally = self.tally
        tally.n_read += len(rows)
        tally.n_failed += len(failures)
        tally.n_answered += len(rows) - len(failures)
        tally.n_kept += sum(row.answer is None and not row.reason for row in rows)
        tally.n_without_answer += held.n_without_answer
        tally.n_parts += held.n_rows > 0
        tally.versions.update(held.versions)
        first = tally.first_failure
        if failures and (first is None or failures[0].number < first.number):
            tally.first_failure = failures[0]
        tally.cut_short += [row.reason for row in failures if row.reason.endswith(NOT_READ)]


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Put Ctrl-C off until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # it never comes there
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])


def answer_all(asker: Asker, items: Iterable[Row | Settled], settle: Callable[[Settled], bool]) -> None:
    """Have rows answered.

    Args:
        asker: Answers them.
        items: The rows; those that are settled already are passed on.
        settle: Takes settled rows.

    Raises:
        SpanqaError: It makes no sense to go on.
    """

    def rows() -> Iterator[Row]:
        for item in items:
            if isinstance(item, Row):
                yield item
            else:
                settle(item)

    for settled in asker.ask(rows()):
        settle(settled)
