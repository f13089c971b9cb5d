"""The main entry's work: requests in, one response to each out, whatever happens to it or to its neighbours.

Short texts are read by the thread that brings them, long ones by a thread of their own; the workers take windows from
the schedule, and the one that fills the last window of a request decodes and answers it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from numpy.typing import NDArray

from spanqa import logs
from spanqa.cpu_network import Logits
from spanqa.errors import LogitsError
from spanqa.jobs import Job
from spanqa.limits import Limits
from spanqa.manifest import Manifest
from spanqa.memory import release_free_memory
from spanqa.packing import Packing
from spanqa.pieces_cache import PiecesCache
from spanqa.schedule import Call, Schedule
from spanqa.spans import Decoded
from spanqa.telemetry import Telemetry, reason_of
from spanqa.tokenization import Pieces, Tokenizer
from spanqa.windows import Batch, WindowMaker, batch_windows
from spanqa.wire import Question, response_tensors

LONG_CHARS = 50_000
"""Text of a request from which on it is read beside the others: to tokenise it takes some ten milliseconds."""
MANY_WINDOWS = 128
"""Windows of a request from which on its memory is worth giving back: it takes milliseconds, their encoding seconds."""


class Request(Protocol):
    """One request as the server hands it over."""

    timeout_s: float
    """How long its sender gives it to begin, in seconds; infinity for as long as it takes."""

    def read(self) -> list[Question]:
        """Read its rows; raises InputError."""

    def is_cancelled(self) -> bool:
        """Say whether its sender has given up; not for free."""

    def respond(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Answer it; called once, or the next is."""

    def refuse(self, error: Exception) -> None:
        """Answer it with an error."""


Encode = Callable[[Batch, Call], Logits]
"""Runs a call's windows through the network; raises whatever went wrong."""


class Answering:
    """Answers requests with any number of workers.

    Args:
        manifest: The model's settings.
        tokenizer: Its tokenizer.
        limits: What is taken on.
        encode: The network.
        packing: Limits of a call.
        n_workers: Calls that are under way at once.
        telemetry: Counts what is done.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        limits: Limits,
        encode: Encode,
        *,
        packing: Packing,
        n_workers: int,
        telemetry: Telemetry,
    ) -> None:
        self._manifest, self._limits, self._encode, self._telemetry = manifest, limits, encode, telemetry
        self._maker = WindowMaker(tokenizer, manifest.windows)
        self._cache = PiecesCache(tokenizer.pieces_of_many, limit_bytes=limits.tokenizer_cache_bytes)
        self._schedule = Schedule(packing, limits, n_workers=n_workers)
        telemetry.watch_queue(lambda: self._schedule.n_jobs)
        self._long: SimpleQueue[Job | None] = SimpleQueue()
        self._workers = [threading.Thread(target=self._work, name=f"spanqa-{index}") for index in range(n_workers)]
        self._long_reader = threading.Thread(target=self._read_long, name="spanqa-long")
        for thread in (*self._workers, self._long_reader):
            thread.daemon = True  # a process that is told to end must not wait for an encoder that hangs
            thread.start()

    def take_in(self, requests: Sequence[Request]) -> None:
        """Accept requests, or refuse them at once; short ones are read before this returns.

        Args:
            requests: The requests.
        """
        short = []
        for request in requests:
            job = self._accepted(request)
            if job is not None and job.is_long:
                self._long.put(job)
            elif job is not None:
                short.append(job)
        if short:
            self._read(short)

    def close(self) -> None:
        """Answer what was accepted, and end the threads."""
        self._schedule.stop_accepting()
        self._long.put(None)
        self._long_reader.join()
        self._schedule.close()
        for worker in self._workers:
            worker.join()

    def _accepted(self, request: Request) -> Job | None:
        try:
            job = self._job(request)
            self._schedule.accept(is_long=job.is_long)
        except Exception as error:  # every fault is told to whom it concerns
            self._refuse(request, error)
            return None
        return job

    def _job(self, request: Request) -> Job:
        rows = request.read()
        is_long = sum(len(row.question) + len(row.context) for row in rows) > LONG_CHARS
        now = time.monotonic()
        return Job(
            rows,
            partial(self._respond, request, is_long),
            is_long=is_long,
            is_cancelled=request.is_cancelled,
            arrived=now,
            expires=now + min(float("inf") if is_long else self._limits.max_queue_age_s, request.timeout_s),
        )

    def _respond(self, request: Request, is_long: bool, job: Job, outcome: list[Decoded] | Exception) -> None:
        self._schedule.forget(is_long=is_long)
        if isinstance(outcome, Exception):
            self._refuse(request, outcome)
            return
        thresholds = [row.options.no_answer_threshold for row in job.rows]
        truncated = [windows.question_truncated for windows in job.windows]
        try:
            request.respond(response_tensors(outcome, thresholds, truncated))
        except Exception as error:  # shared memory may be full: an error needs less of it
            self._refuse(request, error)
            return
        n_without = sum(not one.has_answer(threshold) for one, threshold in zip(outcome, thresholds, strict=True))
        self._telemetry.answered(len(job.rows), job.n_windows, n_without, sum(truncated))

    def _refuse(self, request: Request, error: Exception) -> None:
        self._telemetry.rejected(reason_of(error))
        try:
            request.refuse(error)
        except Exception as fault:  # a worker goes on, and the neighbours of this request must not fail for it
            said = f"a request could not be told of {logs.said(error)}: {logs.said(fault)}"
            logs.write("error", "unanswered", said)

    def _read(self, jobs: Sequence[Job]) -> None:
        """Tokenise short requests together, so that a context of several is tokenised once, and queue them."""
        began, n_hits, n_misses = time.perf_counter(), self._cache.n_hits, self._cache.n_misses
        rows = [row for job in jobs for row in job.rows]
        try:
            pieces = self._cache.pieces((row.context for row in rows), (row.question for row in rows))
        except Exception as error:  # not seen with valid UTF-8; were it to happen, no request may hang for it
            for job in jobs:
                job.fail(error)
            return
        self._telemetry.cache(self._cache.n_hits - n_hits, self._cache.n_misses - n_misses)
        self._telemetry.spent("tokenise", time.perf_counter() - began)
        for job in jobs:
            self._queue(job, pieces)

    def _queue(self, job: Job, pieces: dict[str, Pieces]) -> None:
        try:
            job.cut(self._maker, pieces, self._limits)
            self._schedule.add(job)
        except Exception as error:  # every fault is told to whom it concerns
            job.fail(error)

    def _read_long(self) -> None:
        while (job := self._long.get()) is not None:
            if job.is_wanted(time.monotonic()):
                began = time.perf_counter()
                try:
                    texts = [text for row in job.rows for text in (row.question, row.context)]
                    pieces = self._maker.pieces(texts)
                except Exception as error:  # as in _read
                    job.fail(error)
                    continue
                self._telemetry.spent("tokenise", time.perf_counter() - began)
                self._queue(job, pieces)
                del pieces
                self._schedule.wait_for(job)  # the next is read when this one is done: long texts take memory
                if job.n_windows > MANY_WINDOWS:  # it may have been given up
                    del job
                    release_free_memory()

    def _work(self) -> None:
        while (call := self._schedule.take()) is not None:
            began = time.monotonic()
            try:
                self._run(call)
            except Exception as error:  # every fault is told to whom it concerns, and no worker may end
                for unit in call.units:
                    with contextlib.suppress(Exception):
                        unit.job.fail(error)
            finally:
                self._schedule.done(call, time.monotonic() - began)
            del call

    def _run(self, call: Call) -> None:
        now = time.monotonic()
        wanted = {job: job.is_wanted(now) for job in {unit.job for unit in call.units}}
        units = [unit for unit in call.units if wanted[unit.job]]
        if not units:
            return
        length = call.bucket.length if call.bucket else None
        batch = batch_windows([(unit.job.windows[unit.row], unit.window) for unit in units], length=length)
        began = time.perf_counter()
        start_logits, end_logits = self._encode(batch, call)
        self._telemetry.spent("network", time.perf_counter() - began)
        if start_logits.shape != batch.input_ids.shape or end_logits.shape != batch.input_ids.shape:
            raise LogitsError(
                f"the encoder answered {batch.input_ids.shape} tokens with logits of shape {start_logits.shape} and "
                f"{end_logits.shape}: the network is not the one the repository was built with"
            )
        n_tokens = sum(unit.length for unit in units)
        self._telemetry.encoded(n_tokens, batch.input_ids.size - n_tokens)
        for place, unit in enumerate(units):
            if unit.job.fill(unit, start_logits[place], end_logits[place]):
                self._answer(unit.job)

    def _answer(self, job: Job) -> None:
        began = time.perf_counter()
        job.answer(self._manifest)
        self._telemetry.spent("decode", time.perf_counter() - began)
        if job.n_windows > MANY_WINDOWS:
            job.rows.clear()
            job.windows.clear()
            release_free_memory()
