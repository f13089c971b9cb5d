"""Letting a server finish what it has accepted while it accepts nothing more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spanqa import contract
from spanqa_server.control import Control
from spanqa_server.errors import ServerLostError
from spanqa_server.repository import ENTRIES

POLL_S = 0.05
WRITING_S = 0.1
"""A model is unloaded when its last response is made; gRPC may still be writing that one."""
GONE = ("UNAVAILABLE", "")
LOADED_WITHIN_S = 5.0
"""For a load that is under way: when it ends, Triton makes that model's ensemble ready, even unloaded."""
SETTLED_S = 1.5
"""How long the main entry must count nothing that waits; its metrics lag by half a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What came of it.

    Args:
        all_answered: Whether everything was answered.
        is_miscounted: Whether Triton nevertheless counts requests as unfinished, and would wait for them.
    """

    all_answered: bool
    is_miscounted: bool = False


def drain(control: Control, models: Sequence[str], *, timeout_s: float, is_abandoned: Callable[[], bool]) -> Drained:
    """Unload the models that clients ask, which answers what they have accepted, and wait until they are done.

    After SIGTERM Triton refuses calls between models, so what the entries have accepted would be lost: they are
    unloaded first, while the models that they call still work. A new request gets NOT_FOUND at once, which our
    client retries, then or after a restart. A load that is under way is waited for before that, some seconds at
    most, in which requests are still taken.

    A request whose text its sender cut off is refused by Triton's Python backend, and then counts as unfinished for
    ever: where only the main entry is left and says that it has answered all, Triton is not believed.

    Args:
        control: The connection to Triton.
        models: The names of all its models.
        timeout_s: How long to wait at most.
        is_abandoned: Asked again and again; True ends the wait.

    Returns:
        Whether everything was answered, as far as anybody can tell.
    """
    deadline = time.monotonic() + timeout_s
    waiting = [model for model in ENTRIES if model in models]
    loaded_by = time.monotonic() + min(LOADED_WITHIN_S, timeout_s / 2)
    while control.is_loading and time.monotonic() < loaded_by and not is_abandoned():
        time.sleep(POLL_S)
    try:
        for model in waiting:
            control.unload(model)
        unsettled_at = time.monotonic()
        while left := {name for (name, _), state in control.states().items() if name in waiting and state not in GONE}:
            now = time.monotonic()
            if left != {contract.QUESTION_ANSWERING} or not control.has_all_answered():
                unsettled_at = now
            if now - unsettled_at > SETTLED_S:
                return Drained(all_answered=True, is_miscounted=True)
            if now > deadline or is_abandoned():
                return Drained(all_answered=False)
            time.sleep(POLL_S)
    except ServerLostError:
        return Drained(all_answered=False)
    time.sleep(WRITING_S)
    return Drained(all_answered=True)
