"""Ends that leave nothing behind: SIGTERM unwinds as Ctrl-C does, and a process ends with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

_EXIT_SIGNAL = 128
"""What shells add to a signal's number for the exit status."""
_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as SIGINT does, so that what lies in a temporary folder goes."""

    def end(kind: int, _frame: object) -> NoReturn:
        raise SystemExit(_EXIT_SIGNAL + kind)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends.

    Args:
        parent: The process that started this one; where it has ended already, this one ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
