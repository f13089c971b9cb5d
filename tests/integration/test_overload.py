"""What a server does not take on, or no longer, costs nothing: refused at once, or given up soon, by a real Triton."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from spanqa import contract
from spanqa.limits import Limits
from spanqa.manifest import load_manifest
from spanqa.telemetry import QUEUED, REJECTED, TOKENS
from spanqa_build.versions import seal_version
from spanqa_server.metrics import metric_lines, metric_of
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
DOCUMENT_BYTES = 1_900_000
DEADLINE_S = 2.0
QUIET_S = 1.0
"""Twice as long as the metrics lag."""
BUSY_MACHINE_S = 20.0
"""Until then it must be quiet, where other work takes most of the machine."""
N_QUEUED = 2
N_FLOOD = 60
"""Triton hands them over in a tenth of a second; the documents that fill the queue take many seconds."""


def n_counted(server: Server, name: str, label: str = "") -> int:
    """Read a counter; one that the server has not shown yet is 0, and no answer is asked for again."""
    while not (lines := metric_lines(server.metrics_url)):
        time.sleep(0.1)
    return metric_of(name, [line for line in lines if label in line]) or 0


def n_cancelled(server: Server) -> int:
    return n_counted(server, REJECTED, 'reason="cancelled"')


def n_tokens(server: Server) -> int:
    return n_counted(server, TOKENS)


def give_up(call: grpc.Future, has_begun: Callable[[], bool], tools: Any) -> None:
    tools.wait_until(has_begun, BUSY_MACHINE_S)
    call.cancel()


def let_pass(call: grpc.Future, has_begun: Callable[[], bool], tools: Any) -> None:
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("timeout_s", "end"), [(120.0, give_up), (DEADLINE_S, let_pass)], ids=["cancelled", "late"])
def test_a_document_that_nobody_waits_for_any_more_soon_costs_nothing(
    server: Server, tools: Any, paragraphs: list[str], timeout_s: float, end: Callable[..., None]
) -> None:
    document = (" \n".join(paragraphs) * 2).encode()[:DOCUMENT_BYTES].decode("utf-8", "ignore")
    tokens_before, cancelled_before = n_tokens(server), n_cancelled(server)
    channel, stub = tools.connect(server.url)
    with channel:
        request = tools.request_of(contract.QUESTION_ANSWERING, "Who leads it?", document)
        call = stub.ModelInfer.future(request, timeout=timeout_s)
        end(call, lambda: n_tokens(server) > tokens_before + 1000, tools)  # more than the server asks itself
        tools.wait_until(lambda: n_cancelled(server) > cancelled_before, BUSY_MACHINE_S)
    seen, since = n_tokens(server), time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        if (found := n_tokens(server)) != seen:
            seen, since = found, time.monotonic()
        return time.monotonic() - since >= QUIET_S

    tools.wait_until(is_quiet, BUSY_MACHINE_S)
    assert n_tokens(server) - tokens_before < len(document.split()) / 2  # the whole is more tokens than words


def test_what_the_queue_does_not_hold_is_refused_while_the_rest_is_still_worked_at(
    repository: Path, tools: Any, good: list[Any], paragraphs: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "repository"))
    manifest = load_manifest(folder / contract.QUESTION_ANSWERING / "1")
    seal_version(folder, 1, manifest, Limits(max_queued_requests=N_QUEUED))
    question, context, right = good[0]
    with Server(folder, report=lambda _: None, canary_interval_s=BUSY_MACHINE_S) as server:  # which takes a place
        channel, stub = tools.connect(server.url)
        with channel:
            document = tools.request_of(contract.QUESTION_ANSWERING, question, " ".join(paragraphs))
            request = tools.request_of(contract.QUESTION_ANSWERING, question, context)
            accepted = [stub.ModelInfer.future(document, timeout=120) for _ in range(N_QUEUED)]
            tools.wait_until(lambda: n_counted(server, QUEUED) >= N_QUEUED, BUSY_MACHINE_S)
            refused = [stub.ModelInfer.future(request, timeout=120) for _ in range(N_FLOOD)]
            assert {call.code() for call in refused} == {grpc.StatusCode.UNAVAILABLE}
            assert not any(call.done() for call in accepted), "refusals waited for answers"
            says = f"{N_QUEUED} requests are waiting, which is the most: ask again in a moment"
            assert {call.details() for call in refused} == {says}
            for call in accepted:
                call.cancel()
            tools.wait_until(lambda: n_counted(server, QUEUED) == 0, BUSY_MACHINE_S)
            tools.require_right(right, stub.ModelInfer(request, timeout=30))  # there is room again
