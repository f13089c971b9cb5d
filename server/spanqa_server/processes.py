"""What the kernel says of Triton's Python processes: which model each runs, and how a dead one ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spanqa_server.environment import STUB_NAME

PROC = Path("/proc")
DEAD_STATES = "ZX"
STOPPED_STATE = "T"
TRITON_NAME = "tritonserver"
STATE, PARENT, USER_TICKS, SYSTEM_TICKS, EXIT_CODE = 0, 1, 11, 12, 49
"""Places in /proc/PID/stat counted from the state, which follows the name (proc(5) counts it third)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """One Python process of Triton.

    Args:
        pid: Its process id.
        model: The model that it runs.
    """

    pid: int
    model: str


def _stat_of(pid: int) -> list[str] | None:
    try:
        # The name stands in parentheses and may itself hold blanks and parentheses.
        return (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _stub_of(pid: int) -> Stub | None:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if len(words) < 2 or Path(words[0].decode("utf-8", "replace")).name != STUB_NAME:
        return None
    # The first argument is REPOSITORY/MODEL/VERSION/model.py.
    return Stub(pid=pid, model=Path(words[1].decode("utf-8", "replace")).parent.parent.name)


def _children(parent: int) -> Iterator[int]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            fields = _stat_of(int(folder.name))
            if fields and int(fields[PARENT]) == parent:
                yield int(folder.name)


def stubs_of(triton_pid: int) -> tuple[Stub, ...]:
    """Return Triton's living Python processes."""
    return tuple(filter(None, map(_stub_of, _children(triton_pid))))


def end_orphans(prefix: str) -> int:
    """End Python processes of Tritons that are gone: one that waits for a message amid which Triton was killed stays.

    Args:
        prefix: What the names of their regions of shared memory begin with, if they are ours.

    Returns:
        How many there were.
    """
    n_ended = 0
    for folder in PROC.iterdir():
        if not folder.name.isdigit() or _stub_of(int(folder.name)) is None:
            continue
        with contextlib.suppress(OSError, ValueError):  # it is gone, or another user's
            # One that ends meanwhile has no arguments any more.
            _, _, region, *_ = (folder / "cmdline").read_bytes().split(b"\0")
            fields = _stat_of(int(folder.name))
            parent = (PROC / fields[PARENT] / "comm").read_text("utf-8", "replace").strip() if fields else TRITON_NAME
            if region.startswith(prefix.encode()) and parent != TRITON_NAME:
                os.kill(int(folder.name), signal.SIGKILL)
                n_ended += 1
    return n_ended


def is_uncollected(pid: int) -> bool:
    """Say whether a process has ended and its parent has not collected it."""
    fields = _stat_of(pid)
    return fields is not None and fields[STATE] in DEAD_STATES


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped by a signal; one that a debugger holds is not."""
    fields = _stat_of(pid)
    return fields is not None and fields[STATE] == STOPPED_STATE


def uncollected_children(pid: int) -> tuple[int, ...]:
    """Return the children of a process that have ended and that it has not collected."""
    return tuple(child for child in _children(pid) if is_uncollected(child))


def cpu_s_of(pid: int) -> float:
    """Return how much time of a core a process has taken so far, in seconds; 0 where it is gone."""
    fields = _stat_of(pid)
    ticks = int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def end_of(pid: int) -> str:
    """Say how a process ended that its parent has not collected, as far as the kernel tells."""
    fields = _stat_of(pid)
    status = int(fields[EXIT_CODE]) if fields and len(fields) > EXIT_CODE else 0
    number = status & 0x7F
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"killed by {name}" + (", perhaps for want of memory" if number == signal.SIGKILL else "")
    return f"exit status {status >> 8}"
