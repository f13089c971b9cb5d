"""How many cores this process may use: those that it may run on, and no more than its control groups give time for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(folder: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Count the cores that threads of this process can keep busy; at least 1.

    A container with a limit of two CPUs sees all cores of its node: a thread on each would wait and take memory.

    Args:
        folder: Where control groups are mounted; version 2, or version 1 with its controller `cpu`.
        membership: The file that says in which of them this process is; cgroups(7).
    """
    shares = [quota / period for quota, period in _limits(folder, membership) if quota > 0 and period > 0]
    return min([len(os.sched_getaffinity(0)), *(max(1, math.ceil(share)) for share in shares)])


def _limits(folder: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Microseconds of processor time in a period, and the period, of each group above this process that limits it."""
    for line in _words(membership, separator="\n"):
        _, controllers, own = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = folder / "cpu" if controllers else folder
        # A container may be told its path outside, of which nothing is mounted: then the mount itself is its group.
        for group in (own.strip("/"), *map(str, Path(own.strip("/")).parents), "."):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            found = [word for name in names for word in _words(mounted / group / name)]
            if len(found) == 2 and all(word.lstrip("-").isdigit() for word in found):  # "max" is no limit, nor is -1
                yield int(found[0]), int(found[1])


def _words(path: Path, *, separator: str | None = None) -> list[str]:
    try:
        return [word for word in path.read_text("utf-8").split(separator) if word]
    except OSError:  # no such group here, or none that may be read
        return []
