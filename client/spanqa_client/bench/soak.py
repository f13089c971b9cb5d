"""Pressing a server for hours: a line a period, and what grows."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from spanqa.errors import InputError
from spanqa_client.bench.generator import Generator
from spanqa_client.bench.measurement import Level
from spanqa_client.bench.periods import Period, Summary, period_from_outcomes, summary_from_periods
from spanqa_client.bench.processes import Memory, is_local, listener, memory

_LAST_ANSWERS_S = 5.0
_SHORTEST_SHARE = 0.1
"""Of a period: what is left at an interruption is a period too where it is longer."""


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

    def end_period() -> None:
        nonlocal last
        now = time.perf_counter()
        periods.append(period_from_outcomes(generator.take(), now - start, now - last, watch.look()))
        last = now
        tell(periods[-1])

    interrupted = False
    try:
        sender.start()
        while last < start + duration_s:
            time.sleep(max(min(last + period_s, start + duration_s) - time.perf_counter(), 0.0))
            end_period()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        stop.set()
    sender.join()
    if interrupted and time.perf_counter() - last > _SHORTEST_SHARE * period_s:
        end_period()
    generator.wait(_LAST_ANSWERS_S)
    return summary_from_periods(periods), interrupted


def now_text() -> str:
    """Give the time as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def entry_of(kind: str, content: Period | Summary) -> dict[str, Any]:
    """Give a line of the file: what it is, when, and its content."""
    return {"kind": kind, "time": now_text(), **asdict(content)}
