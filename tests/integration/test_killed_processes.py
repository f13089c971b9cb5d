"""A Python process of Triton that is killed under load comes back, and every question is answered rightly."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import pytest

from spanqa import contract
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
RECOVERY_S = 6.0
PAUSE_S = 0.01
MODELS = (contract.PREPROCESS, contract.ENCODER, contract.POSTPROCESS, contract.QUESTION_ANSWERING)


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_process_is_replaced_while_both_entries_answer_every_question(
    table_server: Server, tools: Any, table_good: list[Any], model: str
) -> None:
    server = table_server
    processes = [stub for stub in server.stubs() if stub.model == model]
    longest_s = [0.0]

    def asking(client: QAClient) -> Any:
        def ask(n_asked: int) -> None:
            question, context, right = table_good[n_asked % len(table_good)]
            start = time.monotonic()
            right.require_answer(client.ask(question, context, timeout_s=30))
            longest_s[0] = max(longest_s[0], time.monotonic() - start)

        return ask

    n_recoveries = server.n_recoveries
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(QAClient(server.url, model_name=entry)) for entry in tools.ENTRIES * 2]
        with tools.Asking([asking(client) for client in clients], pause_s=PAUSE_S) as load:
            tools.wait_until(lambda: min(load.n_asked) >= 2, 30)
            os.kill(processes[0].pid, signal.SIGKILL)
            tools.wait_until(lambda: server.n_recoveries > n_recoveries, RECOVERY_S)
            n_asked = list(load.n_asked)
            tools.wait_until(lambda: all(now > then + 1 for now, then in zip(load.n_asked, n_asked, strict=True)), 30)
    assert longest_s[0] < RECOVERY_S
    living = [stub for stub in server.stubs() if stub.model == model]
    assert len(living) >= len(processes)
    assert processes[0] not in living
