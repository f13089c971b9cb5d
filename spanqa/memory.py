"""Memory given back to the system after unusually large work."""

from __future__ import annotations

import ctypes
import gc


def release_free_memory() -> None:
    """Give memory that is free inside this process back to the system, where the C library is glibc.

    A long document takes tens of megabytes for moments; without this the process would hold on to them.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
