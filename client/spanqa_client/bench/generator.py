"""Our own load: open loops of random arrivals, and closed loops that go on through errors.

perf_analyzer's open loop has the same arrivals in every run, times a request from when it was sent rather than from
when it was due, and stops sending while it waits for the answers of a window.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from spanqa_client.bench.load import Load
from spanqa_client.bench.measurement import Round, percentiles
from spanqa_client.channels import Channels, WithToken
from spanqa_client.errors import BenchError
from spanqa_client.security import Token
from spanqa_client.servers import Server

LATE_S = 0.01
_LEAD_S = 0.05
_PAUSE_AFTER_ERROR_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one request; times in seconds of `time.perf_counter`.

    Args:
        due_s: When it was to be sent.
        sent_s: When it was.
        done_s: When its answer or error came.
        error: The name of gRPC's status code and its message; "" where it was answered.
    """

    due_s: float
    sent_s: float
    done_s: float
    error: str = ""

    @property
    def latency_ms(self) -> float:
        """From when it was due: one that had to wait for its sender waited."""
        return (self.done_s - self.due_s) * 1e3


class Generator:
    """Sends requests over and over without waiting for answers; a context manager, whose end cancels what is in flight.

    Args:
        load: The server.
        requests: What is sent, in order, over and over.
        timeout_s: For one request.
    """

    def __init__(self, load: Load, requests: Sequence[service_pb2.ModelInferRequest], *, timeout_s: float) -> None:
        settings = load.connection
        self._channel, self._stub = Channels(settings, None, None).open(Server(url=load.url), is_async=False)
        self._token = None if settings.token is None else Token(settings.token, settings.token_header)
        self.stub: Any = self._stub if self._token is None else WithToken(self._stub, self._token)
        self._requests = cycle(requests)
        self._timeout_s = timeout_s
        self._outcomes: deque[Outcome] = deque()
        self._is_failing = False
        self._n_in_flight = 0
        self._changed = threading.Condition()

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def open_loop(self, rate: float, duration_s: float, *, seed: int) -> Round:
        """Send at random moments, at a mean rate, and wait for all answers.

        Args:
            rate: Requests a second.
            duration_s: For how long they are sent.
            seed: The same seed gives the same moments.

        Raises:
            BenchError: None was answered.
        """
        start = time.perf_counter() + _LEAD_S
        for offset_s in arrivals(rate, duration_s, seed=seed):
            _sleep_until(start + offset_s)
            self._send(start + offset_s)
        _sleep_until(start + duration_s)
        n_waiting = self._n_in_flight
        self.wait(self._timeout_s + _LEAD_S)
        return round_from_outcomes(self.take(), start_s=start, duration_s=duration_s, n_waiting=n_waiting)

    def closed_loop(self, concurrency: int, stop: threading.Event, *, duration_s: float | None = None) -> None:
        """Keep requests in flight until told to stop; `take` gives what came of them meanwhile.

        Args:
            concurrency: How many.
            stop: Ends it, once set.
            duration_s: Ends it too; None is never.
        """
        end = None if duration_s is None else time.perf_counter() + duration_s
        while not stop.is_set() and (end is None or time.perf_counter() < end):
            with self._changed:
                if not self._changed.wait_for(lambda: self._n_in_flight < concurrency, timeout=0.1):
                    continue
            if self._is_failing and stop.wait(_PAUSE_AFTER_ERROR_S):
                return
            self._send(time.perf_counter())

    def arriving(self, rate: float, stop: threading.Event, *, seed: int = 0) -> None:
        """Send at random moments until told to stop; arguments as in the other two."""
        start = time.perf_counter()
        for offset_s in arrivals(rate, None, seed=seed):
            if stop.wait(max(start + offset_s - time.perf_counter(), 0.0)):
                return
            self._send(start + offset_s)

    def take(self) -> list[Outcome]:
        """Give what came since the last time."""
        taken = []
        while self._outcomes:
            taken.append(self._outcomes.popleft())
        return taken

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight, and say whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._n_in_flight, timeout=timeout_s)

    def _send(self, due_s: float) -> None:
        with self._changed:
            self._n_in_flight += 1
        sent_s = time.perf_counter()
        metadata = None if self._token is None else self._token.metadata()
        call = self._stub.ModelInfer.future(next(self._requests), timeout=self._timeout_s, metadata=metadata)
        call.add_done_callback(lambda done: self._done(due_s, sent_s, done))

    def _done(self, due_s: float, sent_s: float, call: Any) -> None:
        done_s, code = time.perf_counter(), call.code()
        error = "" if code is grpc.StatusCode.OK else f"{code.name}: {call.details()}"
        self._is_failing = bool(error)
        self._outcomes.append(Outcome(due_s=due_s, sent_s=sent_s, done_s=done_s, error=error))
        with self._changed:
            self._n_in_flight -= 1
            self._changed.notify_all()


def arrivals(rate: float, duration_s: float | None, *, seed: int) -> Iterator[float]:
    """Give the moments of a Poisson process: seconds from its start, with independent exponential gaps.

    Args:
        rate: Mean arrivals a second.
        duration_s: Where it ends; None is never.
        seed: The same seed gives the same moments.
    """
    rng = random.Random(seed)  # noqa: S311 - load, not secrets
    at_s = rng.expovariate(rate)
    while duration_s is None or at_s < duration_s:
        yield at_s
        at_s += rng.expovariate(rate)


def round_from_outcomes(outcomes: Sequence[Outcome], *, start_s: float, duration_s: float, n_waiting: int) -> Round:
    """Sum an open loop up.

    Args:
        outcomes: Of all its requests.
        start_s: When it began.
        duration_s: For how long requests were sent: throughput counts the answers of that time.
        n_waiting: Requests in flight at its end.

    Raises:
        BenchError: None was answered, or none was due.
    """
    answered = [one for one in outcomes if not one.error]
    if not answered:
        errors = Counter(one.error for one in outcomes).most_common(1)
        raise BenchError(
            f"no request was answered; of {len(outcomes)} most failed so: {errors[0][0]}"
            if errors
            else f"no request was due within {duration_s:g} s: give a higher rate or a longer --window-s"
        )
    latencies = [one.latency_ms for one in answered]
    p50_ms, p95_ms, p99_ms = percentiles(latencies)
    return Round(
        n_questions=len(answered),
        questions_per_s=sum(one.done_s <= start_s + duration_s for one in answered) / duration_s,
        mean_ms=fmean(latencies),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        n_errors=len(outcomes) - len(answered),
        n_late=sum(one.sent_s - one.due_s > LATE_S for one in outcomes),
        n_waiting=n_waiting,
    )


def _sleep_until(moment_s: float) -> None:
    left_s = moment_s - time.perf_counter()
    if left_s > 0:
        time.sleep(left_s)
