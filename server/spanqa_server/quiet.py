"""Dead processes that Triton never collects, and the quiet moment at which a fresh Triton takes the place of theirs.

Where a Python process is killed amid a request, Triton never counts that request as finished: it keeps the dead
process's entry, its thread and its region in /dev/shm (1 MiB) until it ends itself. Nobody else may collect them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from spanqa_server.processes import cpu_s_of, stubs_of, uncollected_children

CHECK_S = 2.0
"""To look through /proc takes milliseconds."""
QUIET_CPU_SHARE = 0.2
"""Of one core, for all processes together: the canaries of a large model take less, a document under way far more."""


class Leftovers:
    """Says when a Triton that holds dead processes has nothing to do.

    Args:
        triton_pid: The Triton.
        quiet_s: How long it must have had nothing to do, in seconds.
    """

    def __init__(self, triton_pid: int, quiet_s: float) -> None:
        self._triton_pid = triton_pid
        self._quiet_s = quiet_s
        self._check_at = 0.0
        self._since: float | None = None
        self._cpu_s = 0.0
        self._n_asked: int | None = None

    def n_to_clear(self, ask: Callable[[], int | None]) -> int:
        """Give how many dead processes a fresh start would clear now; 0 where there are none, or it has work.

        Args:
            ask: Gives how many requests the entries have answered, our own left out; None where that is not known.
        """
        now = time.monotonic()
        if now < self._check_at:
            return 0
        self._check_at = now + CHECK_S
        dead = uncollected_children(self._triton_pid)
        if not dead:
            self._since = None
            return 0
        cpu_s = sum(cpu_s_of(pid) for pid in (self._triton_pid, *(stub.pid for stub in stubs_of(self._triton_pid))))
        n_asked = ask()
        is_busy = n_asked is None or n_asked != self._n_asked or cpu_s - self._cpu_s > QUIET_CPU_SHARE * CHECK_S
        self._n_asked, self._cpu_s = n_asked, cpu_s
        if is_busy or self._since is None:
            self._since = now
        return len(dead) if now - self._since > self._quiet_s else 0
