"""Our metrics in Triton's own endpoint: processes add up, what is unloaded goes, and without metrics all goes on."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc_client

from spanqa.telemetry import FAMILIES
from spanqa_server.server import Server

COUNTING = '''class TritonPythonModel:
    """Answers, and counts as the main entry does."""

    def initialize(self, args):
        from spanqa.telemetry import Telemetry

        self._telemetry = Telemetry(pb_utils, args["model_name"], int(args["model_version"]), flush_s=0.05)

    def finalize(self):
        self._telemetry.close()

    def execute(self, requests):
        self._telemetry.answered(len(requests), 2 * len(requests), 0, 0)
        self._telemetry.watch_queue(lambda: 3)
'''


def counting(repository: Path, n_processes: int) -> Path:
    """Make the entry count, in so many processes."""
    path = repository / "question_answering" / "1" / "model.py"
    before, _, after = path.read_text("utf-8").partition("class TritonPythonModel:")
    path.write_text(before + COUNTING + after[after.index("        return [answer") :], "utf-8")
    config = repository / "question_answering" / "config.pbtxt"
    config.write_text(config.read_text("utf-8").replace("count: 1", f"count: {n_processes}"), "utf-8")
    return repository


def values(server: Server, name: str) -> list[float]:
    """Scrape the values of all series of a metric."""
    with urllib.request.urlopen(server.metrics_url) as response:
        text = response.read().decode()
    return [float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)]


def test_processes_add_up(repository: Path, tools: Any) -> None:
    with (
        Server(counting(repository, 2), canary_interval_s=600.0) as server,
        grpc_client.InferenceServerClient(server.url) as client,
    ):
        for name in FAMILIES:
            assert values(server, name), name
        for _ in range(20):
            tools.ask_with(client, "abc")
        tools.wait_until(lambda: sum(values(server, "spanqa_questions_total")) == 21, 10)  # and the first canary
        tools.wait_until(lambda: sum(values(server, "spanqa_windows_total")) == 42, 10)  # told just after
        assert len(values(server, "spanqa_questions_total")) == 2
        assert values(server, "spanqa_queued_requests") == [3, 3]


def test_metrics_of_a_model_that_is_unloaded_go_away(repository: Path, tools: Any) -> None:
    from spanqa_server.control import Control

    with Server(counting(repository, 1), canary_interval_s=600.0) as server:
        process = server._supervisor._process  # type: ignore[union-attr]
        headers = process.administration_headers
        with Control(server.url, headers, server._supervisor.stopping, "") as control:  # type: ignore[union-attr]
            assert values(server, "spanqa_questions_total")
            control.unload("question_answering")
            tools.wait_until(lambda: not values(server, "spanqa_questions_total"), 10)
            control.load("question_answering")
            assert values(server, "spanqa_questions_total") == [0]


def test_questions_are_answered_where_metrics_are_off(repository: Path, monkeypatch: Any, tools: Any) -> None:
    from spanqa_server.launch import TritonProcess

    arguments = TritonProcess._arguments
    monkeypatch.setattr(TritonProcess, "_arguments", lambda *args: [*arguments(*args), "--allow-metrics=false"])
    with (
        Server(counting(repository, 1)) as server,
        grpc_client.InferenceServerClient(server.url) as client,
    ):
        assert tools.ask_with(client, "abc") == "3"
