"""A stop waits for what is being loaded, which would be ready again after it was unloaded, but not for ever."""

import time
from typing import Any

import pytest

from spanqa import contract
from spanqa_server import drain as drain_module
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


def drained(loading_s: float, *, is_abandoned: bool = False) -> Drained:
    control: Any = Control(loading_s)
    return drain(control, [ENTRY], timeout_s=1.0, is_abandoned=lambda: is_abandoned)


def test_what_is_being_loaded_is_waited_for() -> None:
    start = time.monotonic()
    assert drained(LOADING_S) == Drained(all_answered=True)
    assert time.monotonic() - start >= LOADING_S


@pytest.mark.parametrize("is_abandoned", [True, False])
def test_a_load_that_hangs_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch, is_abandoned: bool) -> None:
    monkeypatch.setattr(drain_module, "LOADED_WITHIN_S", 60 if is_abandoned else 0.1)
    start = time.monotonic()
    assert drained(30, is_abandoned=is_abandoned) == Drained(all_answered=True)
    assert time.monotonic() - start < 10
