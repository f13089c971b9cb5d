"""Memory of the process given back after unusually large work, and shared memory that is left."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only asked how full it is


def release_free_memory() -> None:
    """Give memory that is free inside this process back to the system, where the C library is glibc.

    A long document takes tens of megabytes for moments; without this the process would hold on to them.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def has_shared_memory(n_bytes: int) -> bool:
    """Say whether so many bytes of the system's shared memory are free; yes where that cannot be told.

    Args:
        n_bytes: Bytes that are needed.
    """
    try:
        left = os.statvfs(SHARED_MEMORY)
    except OSError:
        return True
    return left.f_bavail * left.f_frsize >= n_bytes
