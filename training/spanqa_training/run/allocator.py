"""How the C library's allocator keeps the memory of one training step for the next, and gives back what lies idle."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""mallopt(3)'s parameters, from glibc's malloc.h."""
_NEVER = 2**31 - 1
_GROWTH_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed in place of giving it back to the system, which would zero it again for every step.

    A quarter of a step's time on a CPU is faults of pages otherwise.

    Returns:
        Whether the allocator took it: it does on Linux with glibc.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)


def give_back_idle_memory() -> None:
    """Give what is free now back to the system: steps of many lengths leave gaps that add up over thousands of them."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    """A function of glibc's, None where the C library has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
