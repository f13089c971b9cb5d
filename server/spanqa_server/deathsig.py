"""Run by file: become another program that gets SIGTERM when the process that started this one ends, however it ends.

`python deathsig.py PARENT_PID PROGRAM ARGUMENTS...`. Doing it between fork and exec in the parent would run Python
code in a copy of a process with gRPC's threads, which may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h. The setting survives exec; it is tied to the thread that started us."""


def main() -> None:
    """Ask for the signal, make sure that the parent still lives, and become the program."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606 (no shell wanted)


if __name__ == "__main__":
    main()
