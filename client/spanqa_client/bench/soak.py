"""Pressing a server for hours: a line a period, and what grows."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from spanqa.errors import InputError
from spanqa_client.bench.generator import Generator, Outcome
from spanqa_client.bench.measurement import Level, percentiles
from spanqa_client.bench.processes import Memory, is_local, listener, memory

MB = 1e6
_SETTLING = 10
"""The first of so many parts of the run is left out of growth: caches fill."""
_LEAST_PERIODS = 4
_LAST_ANSWERS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A stretch of a long run.

    Args:
        at_s: When it ended, in seconds since the start.
        n_questions: Questions answered in it.
        questions_per_s: Throughput.
        p50_ms, p99_ms: Latency; None where nothing was answered.
        n_errors: Requests that failed.
        error: What failed most; "" where nothing did.
        resident_mb, shared_mb: The server's memory and its files in /dev/shm; None where it cannot be seen.
        n_processes: Its processes.
    """

    at_s: float
    n_questions: int
    questions_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    n_errors: int
    error: str
    resident_mb: float | None
    shared_mb: float | None
    n_processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A long run as a whole.

    Args:
        seconds: How long it was.
        n_questions: Questions answered.
        questions_per_s: Throughput.
        n_errors: Requests that failed.
        p99_ms: Of the periods, the worst; None where nothing was answered.
        resident_growth_percent, shared_growth_percent: From `growth_percent`.
    """

    seconds: float
    n_questions: int
    questions_per_s: float
    n_errors: int
    p99_ms: float | None
    resident_growth_percent: float | None
    shared_growth_percent: float | None


class Watch:
    """Looks at the memory of a server; found anew where Triton was started anew.

    Args:
        url: host:port of its gRPC endpoint.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition(":")
        self._port = int(port) if is_local(host.strip("[]")) else None
        self._pid: int | None = None

    def look(self) -> Memory | None:
        """Give its memory now; None where it is on another machine, or somebody else's."""
        if self._port is None:
            return None
        found = memory(self._pid) if self._pid else None
        if found is None:
            self._pid = listener(self._port)
            found = memory(self._pid) if self._pid else None
        return found


class LineFile:
    """JSON Lines that are appended whole, one write each; a context manager.

    Args:
        path: The file; what it holds stays.

    Raises:
        InputError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # a line that was cut off stays apart

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line."""
        os.write(self._descriptor, (json.dumps(entry, ensure_ascii=False) + "\n").encode())


def soak(
    generator: Generator,
    level: Level,
    watch: Watch,
    *,
    duration_s: float,
    period_s: float,
    tell: Callable[[Period], None],
) -> tuple[Summary, bool]:
    """Press a server until the time is over or somebody interrupts.

    Args:
        generator: What sends.
        level: How hard.
        watch: What looks at the server's memory.
        duration_s: How long.
        period_s: Length of a period.
        tell: Called with each period.

    Returns:
        The run as a whole, and whether it was interrupted.
    """
    stop = threading.Event()
    if level.concurrency is not None:
        sender = threading.Thread(target=generator.closed_loop, args=(level.concurrency, stop))
    else:
        sender = threading.Thread(target=generator.arriving, args=(level.rate, stop))
    periods: list[Period] = []
    start = last = time.perf_counter()
    interrupted = False
    sender.start()
    try:
        while last < start + duration_s:
            time.sleep(max(min(last + period_s, start + duration_s) - time.perf_counter(), 0.0))
            now = time.perf_counter()
            periods.append(period_from_outcomes(generator.take(), now - start, now - last, watch.look()))
            last = now
            tell(periods[-1])
    except KeyboardInterrupt:
        interrupted = True
    finally:
        stop.set()
        sender.join()
    generator.wait(_LAST_ANSWERS_S)
    return summary_from_periods(periods), interrupted


def period_from_outcomes(outcomes: Sequence[Outcome], at_s: float, seconds: float, found: Memory | None) -> Period:
    """Sum a period up.

    Args:
        outcomes: What came in it.
        at_s: When it ended.
        seconds: How long it was.
        found: The server's memory at its end.
    """
    latencies = [one.latency_ms for one in outcomes if not one.error]
    errors = Counter(one.error for one in outcomes if one.error)
    p50_ms, _, p99_ms = percentiles(latencies) if latencies else (None, None, None)
    return Period(
        at_s=at_s,
        n_questions=len(latencies),
        questions_per_s=len(latencies) / seconds,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        n_errors=len(outcomes) - len(latencies),
        error=errors.most_common(1)[0][0] if errors else "",
        resident_mb=found.resident_bytes / MB if found else None,
        shared_mb=found.shared_bytes / MB if found else None,
        n_processes=found.n_processes if found else 0,
    )


def summary_from_periods(periods: Sequence[Period]) -> Summary:
    """Sum a run up; the last period may be cut short."""
    seconds = periods[-1].at_s if periods else 0.0
    n_questions = sum(one.n_questions for one in periods)
    return Summary(
        seconds=seconds,
        n_questions=n_questions,
        questions_per_s=n_questions / seconds if seconds else 0.0,
        n_errors=sum(one.n_errors for one in periods),
        p99_ms=max((one.p99_ms for one in periods if one.p99_ms is not None), default=None),
        resident_growth_percent=growth_percent([(one.at_s, one.resident_mb) for one in periods]),
        shared_growth_percent=growth_percent([(one.at_s, one.shared_mb) for one in periods]),
    )


def growth_percent(points: Sequence[tuple[float, float | None]]) -> float | None:
    """Give by how much a line of least squares rises from its first point to its last, of its first.

    The first tenth of the points is left out, since caches fill there.

    Args:
        points: (time, value) pairs in order; those without a value count as not there.

    Returns:
        None for fewer than four points, or where the line begins at 0.
    """
    known = [(at, value) for at, value in points if value is not None]
    known = known[-(-len(known) // _SETTLING) :]
    if len(known) < _LEAST_PERIODS:
        return None
    n_points = len(known)
    mean_at, mean_value = sum(at for at, _ in known) / n_points, sum(value for _, value in known) / n_points
    spread = sum((at - mean_at) ** 2 for at, _ in known)
    slope = sum((at - mean_at) * (value - mean_value) for at, value in known) / spread
    first = mean_value + slope * (known[0][0] - mean_at)
    return 100 * slope * (known[-1][0] - known[0][0]) / first if first > 0 else None


def now_text() -> str:
    """Give the time as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def entry_of(kind: str, content: Period | Summary) -> dict[str, Any]:
    """Give a line of the file: what it is, when, and its content."""
    return {"kind": kind, "time": now_text(), **asdict(content)}
