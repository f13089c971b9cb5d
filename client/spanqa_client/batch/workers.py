"""Worker processes of this machine: each answers one chunk of rows at a time, and one that dies is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from spanqa.errors import SpanqaError
from spanqa_client.batch.askers import Plan
from spanqa_client.batch.rows import Row, Settled, chunked

CHUNK_ROWS = 32
"""A second or two of a network's work: what the others may wait for at the end."""
_DEATHS_OF_CHUNK = 2
_DEATHS_IN_A_ROW = 40
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows on their way.

    Args:
        rows: The rows.
        n_deaths: Processes that died at them.
    """

    rows: list[Row]
    n_deaths: int = 0


class _Worker:
    """A process, and the chunk that it is at."""

    def __init__(self, plan: Plan) -> None:
        self.chunk: _Chunk | None = None
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs, plan), name="spanqa-batch", daemon=True)
        # Ctrl-C goes to every process of a terminal: these are ended by the one that has to tidy up. They inherit
        # what is blocked here; Python's tracker, started beside the first of them, would open it again.
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()

    def give(self, chunk: _Chunk) -> None:
        """Hand it a chunk; that it is dead shows when the answer is taken."""
        self.chunk = chunk
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(chunk.rows)

    def take(self) -> list[Settled] | SpanqaError | None:
        """Take what it made of its chunk, or why no chunk can be answered; None where it has died."""
        try:
            made: list[Settled] | SpanqaError = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        return made

    def end(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.join()
        self.connection.close()


class WorkerPool:
    """Answers rows in processes of its own.

    Args:
        plan: How each of them answers.
        n_workers: Processes.
    """

    def __init__(self, plan: Plan, n_workers: int) -> None:
        self._plan = plan
        self._workers = [_Worker(plan) for _ in range(n_workers)]
        self._again: deque[_Chunk] = deque()
        self._n_deaths = 0

    def ask(self, rows: Iterable[Row]) -> Iterator[Settled]:
        """Settle rows; those at which processes die are asked again, then one by one, then given up.

        Raises:
            SpanqaError: The processes cannot answer anything.
        """
        chunks = (_Chunk(chunk) for chunk in chunked(rows, CHUNK_ROWS))
        while True:
            for worker in self._workers:
                if worker.chunk is None and (chunk := self._again.popleft() if self._again else next(chunks, None)):
                    worker.give(chunk)
            busy = [worker.connection for worker in self._workers if worker.chunk]
            if not busy:
                return
            ready = wait(busy)
            for place, worker in enumerate(self._workers):
                if worker.connection in ready:
                    yield from self._taken(place)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()

    def _taken(self, place: int) -> Iterator[Settled]:
        worker = self._workers[place]
        made, chunk = worker.take(), worker.chunk
        worker.chunk = None
        if isinstance(made, SpanqaError):
            raise made
        if made is not None:
            self._n_deaths = 0
            yield from made
            return
        self._n_deaths += 1
        if self._n_deaths > _DEATHS_IN_A_ROW:
            raise SpanqaError(f"{self._n_deaths} worker processes died one after the other: is there enough memory?")
        worker.end()
        self._workers[place] = _Worker(self._plan)
        if chunk:
            yield from self._after_death(chunk)

    def _after_death(self, chunk: _Chunk) -> Iterator[Settled]:
        n_deaths = chunk.n_deaths + 1
        if n_deaths < _DEATHS_OF_CHUNK:
            self._again.append(_Chunk(chunk.rows, n_deaths))
        elif len(chunk.rows) > 1:
            self._again.extend(_Chunk([row], n_deaths - 1) for row in chunk.rows)
        else:
            (row,) = chunk.rows
            reason = "the process that was to answer it died each time: is there enough memory?"
            yield Settled(row.number, row.id, reason=reason)


def _work(connection: Connection, plan: Plan) -> None:
    """Answer chunks until nobody is there to send them."""
    asker = None
    while True:
        try:
            rows: list[Row] = connection.recv()
        except (EOFError, ConnectionResetError):  # the second where what was sent last had not been read
            return
        made: list[Settled] | SpanqaError
        try:
            asker = asker or plan.open()
            made = list(asker.ask(rows))
        except SpanqaError as error:
            made = error
        except Exception as error:  # told by the process that has the terminal
            made = SpanqaError(f"a worker process failed: {error!r}")
        try:
            connection.send(made)
        except (BrokenPipeError, ConnectionResetError):
            return
