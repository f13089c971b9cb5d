"""Triton's traces go to a collector or into files, and hold times and names of models alone."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client

from spanqa_server.errors import ServerError
from spanqa_server.server import Server
from spanqa_server.settings import ServerSettings
from spanqa_server.tracing import trace_options


class Collector:
    """What an OTLP/HTTP collector hears."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, str, bytes]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.posts.append((self.path, self.headers["Content-Type"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def settings(**options: Any) -> ServerSettings:
    return ServerSettings(repository=Path(), **options)


def test_nothing_is_traced_unless_it_is_asked_for() -> None:
    assert trace_options(settings()) == []


@pytest.mark.parametrize(
    ("url", "sent_to"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("http://c/own/path", "http://c/own/path"),
    ],
)
def test_the_collectors_path_may_be_left_out(url: str, sent_to: str) -> None:
    options = trace_options(settings(trace_url=url, trace_rate=7))
    assert f"--trace-config=opentelemetry,url={sent_to}" in options
    assert "--trace-config=rate=7" in options
    assert "--trace-config=level=TIMESTAMPS" in options


@pytest.mark.parametrize("url", ["c:4317", "grpc://c:4317", "http://", "https://c:4318"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ServerError, match="OTLP/HTTP endpoint, such as http://localhost:4318"):
        trace_options(settings(trace_url=url))


def test_wishes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ServerError, match="not both"):
        trace_options(settings(trace_url="http://c", trace_file="f"))
    with pytest.raises(ServerError, match="one request of N"):
        settings(trace_rate=0)


def test_a_collector_hears_of_a_question_and_of_no_text(repository: Path, collector: Collector, tools: Any) -> None:
    with Server(repository, trace_url=collector.url, trace_rate=1) as server:
        with grpc_client.InferenceServerClient(server.url) as client:
            tools.ask_with(client, "my secret context")
        tools.wait_until(lambda: collector.posts, 10)  # Triton's exporter sends every 5 s
    paths, types, bodies = zip(*collector.posts, strict=True)
    assert set(paths) == {"/v1/traces"}
    assert set(types) == {"application/json"}
    spans = [
        (resource["resource"], span)
        for body in bodies
        for resource in json.loads(body)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert {"key": "service.name", "value": {"stringValue": "spanqa"}} in spans[0][0]["attributes"]
    told = json.dumps([span for _, span in spans])
    assert "question_answering" in told
    assert "secret" not in told


def test_files_hold_what_each_request_took(repository: Path, tmp_path: Path, tools: Any) -> None:
    with (
        Server(repository, trace_file=str(tmp_path / "trace.json"), trace_rate=1) as server,
        grpc_client.InferenceServerClient(server.url) as client,
    ):
        tools.ask_with(client, "my secret context")
    files = sorted(tmp_path.glob("trace.json*"))
    assert files
    told = "".join(path.read_text("utf-8") for path in files)
    assert '"model_name":"question_answering"' in told
    assert "COMPUTE_START" in told
    assert "secret" not in told
