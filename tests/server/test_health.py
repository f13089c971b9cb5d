"""`spanqa health` is 0 where a question is answered, 1 where not, whatever Triton says of itself."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from spanqa.cli import main
from spanqa_server.server import Server


def test_a_server_that_answers_is_healthy(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", server.url]) == 0
    assert re.fullmatch(rf"healthy: {server.url} answered in \d+ ms\n", capsys.readouterr().out)


def test_where_nothing_listens_is_unhealthy_within_the_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    assert main(["health", "--url", url, "--timeout", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"unhealthy: {url}: ")
    assert said.count("\n") == 1


def test_an_entry_that_hangs_is_unhealthy_though_triton_says_it_is_ready(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tritonclient.grpc as grpc_client

    with Server(repository, canary_interval_s=60.0) as server:
        (stub,) = [stub for stub in server.stubs() if stub.model == "question_answering"]
        os.kill(stub.pid, signal.SIGSTOP)
        try:
            with grpc_client.InferenceServerClient(server.url) as client:
                assert client.is_server_ready()
            assert main(["health", "--url", server.url, "--timeout", "0.5"]) == 1
        finally:
            os.kill(stub.pid, signal.SIGCONT)
        assert "Deadline Exceeded" in capsys.readouterr().err
        assert main(["health", "--url", server.url]) == 0


def test_a_timeout_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--timeout", "0"]) == 2
    assert "a number of seconds above 0" in capsys.readouterr().err


def test_the_image_probes_itself_so() -> None:
    dockerfile = Path(__file__).parents[2] / "build" / "Dockerfile"
    (line,) = [line for line in dockerfile.read_text("utf-8").splitlines() if line.startswith("HEALTHCHECK")]
    assert 'CMD ["spanqa", "health"' in line
