"""Letting a server finish what it has accepted while it accepts nothing more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from spanqa_server.control import Control
from spanqa_server.errors import ServerLostError
from spanqa_server.repository import ENTRIES

POLL_S = 0.05
WRITING_S = 0.1
"""A model is unloaded when its last response is made; gRPC may still be writing that one."""
GONE = ("UNAVAILABLE", "")


def drain(control: Control, models: Sequence[str], *, timeout_s: float, is_abandoned: Callable[[], bool]) -> bool:
    """Unload the models that clients ask, which answers what they have accepted, and wait until they are done.

    After SIGTERM Triton refuses calls between models, so what the entries have accepted would be lost: they are
    unloaded first, while the models that they call still work. A new request gets NOT_FOUND at once, which our
    client retries, then or after a restart.

    Args:
        control: The connection to Triton.
        models: The names of all its models.
        timeout_s: How long to wait at most.
        is_abandoned: Asked again and again; True ends the wait.

    Returns:
        Whether everything was answered.
    """
    deadline = time.monotonic() + timeout_s
    waiting = [model for model in ENTRIES if model in models]
    try:
        for model in waiting:
            control.unload(model)
        while any(name in waiting and state not in GONE for (name, _), state in control.states().items()):
            if time.monotonic() > deadline or is_abandoned():
                return False
            time.sleep(POLL_S)
    except ServerLostError:
        return False
    time.sleep(WRITING_S)
    return True
