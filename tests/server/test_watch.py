"""Which ended processes count as dead: not those that Triton has ended itself and collects soon."""

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from spanqa_server import watch as watch_module
from spanqa_server.processes import is_uncollected
from spanqa_server.settings import ServerSettings
from spanqa_server.watch import Watch


@pytest.mark.parametrize(("code", "at_once"), [(0, False), (1, True)])
def test_a_process_that_exits_with_0_has_died_where_nobody_collects_it(
    monkeypatch: pytest.MonkeyPatch, code: int, at_once: bool
) -> None:
    monkeypatch.setattr(watch_module, "COLLECTED_WITHIN_S", 0.5)
    nobody: Any = SimpleNamespace(pid=0)
    watch = Watch(nobody, nobody, cast(ServerSettings, SimpleNamespace(canary_interval_s=1, quiet_s=1)), print, bool)
    with subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) as process:
        while not is_uncollected(process.pid):
            time.sleep(0.01)
        assert watch._has_died(process.pid) is at_once
        time.sleep(0.6)
        assert watch._has_died(process.pid)
    assert not watch._has_died(process.pid), "it was collected"
