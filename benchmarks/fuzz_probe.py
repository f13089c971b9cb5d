"""One fuzzed input and what came of it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

DEADLINE_S = 60.0
"""Within it every input must end, on a busy machine too."""
LEAKS = re.compile(
    r"Traceback|\bFile \"|\w\.(?:py|cc|h|so)\b|(?:^|[\s'\"(=])/(?!v2\b|metrics\b)\w[\w.-]*/\w|\bfault [0-9a-f]{12}"
)
"""What no error may show: a traceback, a place in code, a path of the machine, a fault that nobody foresaw."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a server listens, as host:port."""

    grpc_url: str
    http_url: str
    metrics_url: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an input ended.

    Args:
        how: A gRPC code, an HTTP status, or "closed" where bytes got no reply.
        fault: What is wrong with that; empty where nothing is.
    """

    how: str
    fault: str = ""


Probe = Callable[[random.Random, Target], Ended]
"""Makes an input from a source of chance, sends it, and judges what comes back."""


OWN_ID = re.compile(r"\[request id: .*\] ", re.DOTALL)
"""Triton says first which request it speaks of, in the words of whoever sent it."""
OWN_NAME = re.compile(r"(unexpected inference input|unknown model:|requested model) \\?'.*'", re.DOTALL)
"""Names that Triton does not know it repeats as they were sent, before any code of ours sees them."""


def fault_of(says: str) -> str:
    """Say what is wrong with an error's words."""
    says = OWN_NAME.sub(r"\1 '...'", OWN_ID.sub("", says))
    if not says.strip():
        return "an error without a word"
    if "\n" in says.strip():
        return f"an error of several lines: {says[:300]!r}"
    if len(says) > 2000:
        return f"an error of {len(says)} characters: {says[:300]!r}"
    found = LEAKS.search(says)
    return f"an error that shows {found[0]!r}: {says[:300]!r}" if found else ""
