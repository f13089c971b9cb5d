"""A stop waits for what is being loaded, which would be ready again after it was unloaded, but not for ever."""

import time
from typing import Any

import pytest

from spanqa import contract
from spanqa_server.drain import Drained, drain

ENTRY = contract.QUESTION_ANSWERING
LOADING_S = 0.2


class Control:
    """A load ends after a while; what is unloaded before that is ready again then, and stays so."""

    def __init__(self, loading_s: float) -> None:
        self._loaded_at = time.monotonic() + loading_s
        self._unloaded_at = float("inf")

    @property
    def is_loading(self) -> bool:
        return time.monotonic() < self._loaded_at

    def unload(self, _: str) -> None:
        self._unloaded_at = time.monotonic()

    def states(self) -> dict[tuple[str, int], str]:
        is_ready = self._unloaded_at < self._loaded_at < time.monotonic()
        return {(ENTRY, 1): "READY" if is_ready else "UNAVAILABLE"}

    def has_all_answered(self) -> bool:
        return False


def drained(loading_s: float, *, timeout_s: float = 60, is_abandoned: bool = False) -> Drained:
    control: Any = Control(loading_s)
    return drain(control, [ENTRY], timeout_s=timeout_s, is_abandoned=lambda: is_abandoned)


def test_what_is_being_loaded_is_waited_for() -> None:
    start = time.monotonic()
    assert drained(LOADING_S) == Drained(all_answered=True)
    assert time.monotonic() - start >= LOADING_S


@pytest.mark.parametrize(("timeout_s", "is_abandoned"), [(60, True), (0.5, False)])
def test_a_load_that_hangs_leaves_time_for_what_was_accepted(timeout_s: float, is_abandoned: bool) -> None:
    start = time.monotonic()
    assert drained(600, timeout_s=timeout_s, is_abandoned=is_abandoned) == Drained(all_answered=True)
    assert time.monotonic() - start < 30
