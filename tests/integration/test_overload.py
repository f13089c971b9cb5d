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
from spanqa.telemetry import REJECTED, TOKENS
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
"""Sent within some ten milliseconds, in which the network answers one or two."""
REFUSED_S = 5.0
"""Triton hands over the flood in a tenth of a second; this is for a machine where other work takes most of it."""


def n_cancelled(server: Server) -> int:
    lines = [line for line in metric_lines(server.metrics_url) if 'reason="cancelled"' in line]
    return metric_of(REJECTED, lines) or 0


def n_tokens(server: Server) -> int:
    return metric_of(TOKENS, metric_lines(server.metrics_url)) or 0


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
        tools.wait_until(lambda: n_cancelled(server) == cancelled_before + 1, BUSY_MACHINE_S)
    seen, since = n_tokens(server), time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        if (found := n_tokens(server)) != seen:
            seen, since = found, time.monotonic()
        return time.monotonic() - since >= QUIET_S

    tools.wait_until(is_quiet, BUSY_MACHINE_S)
    assert n_tokens(server) - tokens_before < len(document.split()) / 2  # the whole is more tokens than words


def test_what_the_queue_does_not_hold_is_refused_at_once_and_the_rest_answered(
    repository: Path, tools: Any, good: list[Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "repository"))
    manifest = load_manifest(folder / contract.QUESTION_ANSWERING / "1")
    seal_version(folder, 1, manifest, Limits(max_queued_requests=N_QUEUED))
    question, context, right = good[0]
    ended: list[tuple[grpc.StatusCode, float]] = []
    with Server(folder, report=lambda _: None) as server:
        channel, stub = tools.connect(server.url)
        with channel:
            request = tools.request_of(contract.QUESTION_ANSWERING, question, context)
            calls = []
            for _ in range(N_FLOOD):
                call, start = stub.ModelInfer.future(request, timeout=120), time.monotonic()
                call.add_done_callback(lambda done, start=start: ended.append((done.code(), time.monotonic() - start)))
                calls.append(call)
            refused = [call for call in calls if call.code() == grpc.StatusCode.UNAVAILABLE]
            tools.wait_until(lambda: len(ended) == N_FLOOD, BUSY_MACHINE_S)
            assert {code for code, _ in ended} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert max(seconds for code, seconds in ended if code == grpc.StatusCode.UNAVAILABLE) < REFUSED_S
            says = f"{N_QUEUED} requests are waiting, which is the most: ask again in a moment"
            assert {call.details() for call in refused} == {says}
            tools.require_right(right, next(call for call in calls if call not in refused).result())
            tools.require_right(right, stub.ModelInfer(request, timeout=30))  # there is room again
