"""What a command tells its user while it works."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_muted = False


def mute() -> None:
    """Say nothing more in this process: another of the same run says it."""
    global _muted
    _muted = True


def tell(message: str, stream: TextIO | None = None) -> None:
    """Print a line, on stderr by default, where somebody still reads it: a reader that went away ends no run."""
    stream = stream or sys.stderr
    if stream is None or _muted:  # closed by the shell: `2>&-`
        return
    try:
        print(message, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
