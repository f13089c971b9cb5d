"""A Python process that was killed amid a request stays defunct only until nothing is asked."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from spanqa_server.processes import uncollected_children
from spanqa_server.quiet import Leftovers
from spanqa_server.server import Server


def test_what_triton_does_not_collect_is_cleared_once_nothing_is_asked(repository: Path, tools: Any) -> None:
    reports: list[str] = []
    with Server(repository, report=reports.append, quiet_s=1.0, canary_interval_s=0.5) as server:
        first = server.triton_pid
        with grpc_client.InferenceServerClient(server.url) as client:

            def ask() -> None:
                with contextlib.suppress(InferenceServerException):
                    tools.ask_with(client, "slow text")

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.2)
            (stub,) = [stub for stub in server.stubs() if stub.model == "encoder"]
            os.kill(stub.pid, signal.SIGKILL)
            asking.join()
            tools.wait_until(lambda: server.n_recoveries == 1, 10)
            assert tools.ask_with(client, "four") == "4"
            assert uncollected_children(first) == (stub.pid,)
        tools.wait_until(lambda: server.n_recoveries == 2, 20)
        assert server.triton_pid != first
        with grpc_client.InferenceServerClient(server.url) as client:
            assert tools.ask_with(client, "four") == "4"
        assert uncollected_children(server.triton_pid) == ()
        tools.wait_until(lambda: not Path(f"/proc/{stub.pid}").exists(), 10)
    assert "Triton holds a dead Python process and has nothing to do: starting Triton anew" in reports


def test_nothing_is_cleared_while_questions_are_asked() -> None:
    leftovers = Leftovers(os.getpid(), quiet_s=0.0)
    child = os.posix_spawn("/bin/true", ["true"], {})
    try:
        while child not in uncollected_children(os.getpid()):
            time.sleep(0.01)
        n_asked = iter(range(100))

        def look(ask: Any) -> int:
            leftovers._check_at = 0.0
            time.sleep(0.01)
            return leftovers.n_to_clear(ask)

        assert [look(lambda: next(n_asked)) for _ in range(5)] == [0] * 5
        assert look(lambda: None) == 0
        look(lambda: 7)
        assert [look(lambda: 7) for _ in range(2)] == [1, 1]
    finally:
        os.waitpid(child, 0)
    assert look(lambda: 7) == 0
