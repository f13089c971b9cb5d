"""Which windows the encoder reads next: short requests in the order they came, long ones in slices between them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spanqa.errors import LogitsError, OverloadError
from spanqa.jobs import Job, Unit
from spanqa.limits import Limits
from spanqa.packing import Bucket, Packing

RECENT_S = 0.5
"""How long after a short request one worker is kept for the next: long ones use all where nobody else asks."""
SHORT_CALLS_A_SLICE = 3
"""Calls with short requests between two slices of a long one, while both wait."""
PACE_WEIGHT = 0.05
"""What the newest call counts in the moving average of seconds a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Windows that go to the encoder together.

    Args:
        units: The windows.
        bucket: The encoder that takes them; None for the one that takes every length.
        is_long: Whether they are of a long request.
        is_alone: Whether nothing else ran or waited when they were taken.
    """

    units: tuple[Unit, ...]
    bucket: Bucket | None
    is_long: bool
    is_alone: bool

    @property
    def length(self) -> int:
        """Tokens that every row is padded to."""
        return self.bucket.length if self.bucket else max(unit.length for unit in self.units)


class Schedule:
    """Takes requests in and gives calls out, to any number of workers.

    Args:
        packing: Limits of a call.
        limits: Limits of what waits.
        n_workers: Calls that may be under way at once.
        clock: Gives seconds; for tests.
    """

    def __init__(
        self, packing: Packing, limits: Limits, *, n_workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._packing, self._limits, self._n_workers, self._clock = packing, limits, n_workers, clock
        self._short = _Lane(packing)
        self._long: deque[_Lane] = deque()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Of its own: were the reader of long requests to wait with the workers, it would be woken in place of one.
        self._answered = threading.Condition(lock)
        self._n_jobs = {False: 0, True: 0}
        self._n_running = {False: 0, True: 0}
        self._n_short_in_a_row = 0
        self._short_seen = -RECENT_S
        self._pace_s = 0.0
        self._is_accepting, self._is_closed = True, False

    @property
    def n_jobs(self) -> int:
        """Requests that are accepted and not yet answered."""
        return sum(self._n_jobs.values())

    def accept(self, *, is_long: bool) -> None:
        """Count a request in before any work is done for it.

        Raises:
            OverloadError: If too much waits already, or those before it will take too long.
        """
        with self._changed:
            limits = self._limits
            if not self._is_accepting:
                raise OverloadError("the model is being unloaded: ask again in a moment")
            if self.n_jobs >= limits.max_queued_requests:
                raise OverloadError(f"{self.n_jobs:,} requests are waiting, which is the most: ask again in a moment")
            if is_long and self._n_jobs[True] >= limits.max_long_requests:
                raise OverloadError(
                    f"{self._n_jobs[True]} long documents are waiting, which is the most: ask again in a moment"
                )
            wait_s = self._pace_s * len(self._short) / self._n_workers
            if not is_long and wait_s > limits.max_queue_age_s:
                raise OverloadError(
                    f"the requests that wait will take about {wait_s:.0f} s, more than the {limits.max_queue_age_s} "
                    "allowed: ask again in a moment"
                )
            self._n_jobs[is_long] += 1

    def forget(self, *, is_long: bool) -> None:
        """Count a request out: it is answered."""
        with self._changed:
            self._n_jobs[is_long] -= 1

    def add(self, job: Job) -> None:
        """Queue the windows of a request.

        Raises:
            LogitsError: If one is longer than the longest bucket.
        """
        with self._changed:
            if job.is_long:
                lane = _Lane(self._packing)
                lane.add(job.units())
                self._long.append(lane)
            else:
                self._short.add(job.units())
                self._short_seen = self._clock()
            self._changed.notify(min(self._n_workers, job.n_windows))

    def wait_for(self, job: Job) -> None:
        """Wait until a long request is answered."""
        with self._changed:
            self._answered.wait_for(lambda: job.is_answered)

    def take(self) -> Call | None:
        """Give the next call, waiting for one; None when it is all over."""
        with self._changed:
            while True:
                call = self._next()
                if call is not None:
                    return call
                if self._is_closed and not len(self._short) and not self._long:
                    return None
                # A long request may use one more worker a while after the last short one.
                self._changed.wait(RECENT_S if self._long else None)

    def done(self, call: Call, seconds: float) -> None:
        """Count a call out.

        Args:
            call: The call.
            seconds: What it took.
        """
        with self._changed:
            self._n_running[call.is_long] -= 1
            pace_s = seconds / len(call.units)
            self._pace_s += (pace_s - self._pace_s) * (PACE_WEIGHT if self._pace_s else 1.0)
            if call.is_long:
                self._answered.notify_all()
            if self._long or self._is_closed:
                self._changed.notify_all()

    def stop_accepting(self) -> None:
        """Accept nothing more; what was accepted may still be added."""
        with self._changed:
            self._is_accepting = False

    def close(self) -> None:
        """Give out what waits, and then None to every worker."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _next(self) -> Call | None:
        n_running = sum(self._n_running.values())
        self._short.drop_answered()  # they must not keep long ones waiting
        taken = self._take_long() if self._is_long_next() else None
        is_long = taken is not None
        taken = taken or self._short.take()
        if taken is None:
            return None
        units, bucket = taken
        self._n_running[is_long] += 1
        self._n_short_in_a_row = 0 if is_long else self._n_short_in_a_row + 1
        is_alone = not n_running and len(units) == 1 and not len(self._short) and not self._long
        return Call(units=units, bucket=bucket, is_long=is_long, is_alone=is_alone)

    def _take_long(self) -> tuple[tuple[Unit, ...], Bucket | None] | None:
        """A slice of the long request whose turn it is; the next slice is the next one's."""
        while self._long:
            lane = self._long.popleft()
            taken = lane.take()
            if len(lane):
                self._long.append(lane)
            if taken:
                return taken
        return None

    def _is_long_next(self) -> bool:
        if not self._long:
            return False
        quiet = not len(self._short) and self._clock() - self._short_seen > RECENT_S
        if not quiet and self._n_running[True] >= max(1, self._n_workers - 1):
            return False
        return not len(self._short) or self._n_short_in_a_row >= SHORT_CALLS_A_SLICE


class _Lane:
    """Windows that wait, by the encoder that takes them."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._queues: dict[Bucket | None, deque[tuple[int, Unit]]] = {}
        self._n_added = 0
        self._n_units = 0

    def __len__(self) -> int:
        return self._n_units

    def add(self, units: Iterable[Unit]) -> None:
        found = [(_bucket_of(unit.length, self._packing), unit) for unit in units]
        for bucket, unit in found:
            self._queues.setdefault(bucket, deque()).append((self._n_added, unit))
            self._n_added += 1
        self._n_units += len(found)

    def take(self) -> tuple[tuple[Unit, ...], Bucket | None] | None:
        """The windows of the next call: the one that waits longest, and what its encoder takes beside it."""
        self.drop_answered()
        waiting = [bucket for bucket, queue in self._queues.items() if queue]
        if not waiting:
            return None
        bucket = min(waiting, key=lambda bucket: self._queues[bucket][0][0])
        queue = self._queues[bucket]
        units: list[Unit] = []
        longest = 0
        while queue and len(units) < (bucket.max_rows if bucket else self._packing.rows_per_call):
            unit = queue[0][1]
            longest = max(longest, unit.length)
            if units and not bucket and (len(units) + 1) * longest > self._packing.tokens_per_call:
                break
            queue.popleft()
            self._n_units -= 1
            if not units or not unit.job.is_answered:
                units.append(unit)
        return tuple(units), bucket

    def drop_answered(self) -> None:
        """Forget the windows in front whose requests are answered: where any are left, one of them is wanted."""
        for queue in self._queues.values():
            while queue and queue[0][1].job.is_answered:
                queue.popleft()
                self._n_units -= 1


def _bucket_of(length: int, packing: Packing) -> Bucket | None:
    """The smallest bucket that holds a window; None where there are no buckets."""
    bucket = next((bucket for bucket in packing.buckets if length <= bucket.length), None)
    if bucket is None and packing.buckets:
        raise LogitsError(
            f"a window of {length} tokens fits into no bucket, the longest takes {packing.buckets[-1].length}: "
            "build the repository again"
        )
    return bucket
