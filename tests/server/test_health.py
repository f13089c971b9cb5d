"""`spanqa health` is 0 where a question is answered, 1 where not, whatever Triton says of itself."""

from __future__ import annotations

import ast
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spanqa import jobs, schedule
from spanqa.cli import main
from spanqa_server.commands.health import TOO_MUCH
from spanqa_server.control import CanaryAnswer, Control
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


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e300"])
def test_a_timeout_that_is_none_is_refused(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", f"--timeout={timeout}"]) == 2
    assert "a number of seconds above 0, such as 5, up to 3600" in capsys.readouterr().err


def test_a_failed_handshake_is_one_line(server: Server) -> None:
    # In a process of its own: what gRPC says by itself depends on what it found when it was imported.
    command = [sys.executable, "-m", "spanqa.cli", "health", "--url", server.url, "--tls"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"unhealthy: .*: the server does not speak TLS.*\n", done.stderr)


def refusals() -> list[str]:
    """The sentences, as they stand in the code, of a main entry that takes nothing on; placeholders are left out."""
    calls = [node for module in (schedule, jobs) for node in ast.walk(ast.parse(inspect.getsource(module)))]
    texts = [node.args[0] for node in calls if isinstance(node, ast.Call) and ast.unparse(node.func) == "OverloadError"]
    parts = [text.values if isinstance(text, ast.JoinedStr) else [text] for text in texts]
    return ["".join(one.value for one in text if isinstance(one, ast.Constant)) for text in parts]


@pytest.mark.parametrize("refusal", refusals())
def test_a_server_with_too_much_to_do_is_healthy_where_that_is_asked_for_alone(
    refusal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = CanaryAnswer(problem=f"[StatusCode.UNAVAILABLE] {refusal}", may_be_busy=True)
    monkeypatch.setattr(Control, "ask_canary", lambda *_: answer)
    assert main(["health"]) == 1
    assert main(["health", "--or-busy"]) == ("unloaded" in refusal)
    assert refusal in capsys.readouterr().out or "unloaded" in refusal


def test_a_server_that_is_away_is_unhealthy_though_a_busy_one_were_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(refusals()) > len(TOO_MUCH)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    assert main(["health", "--url", url, "--or-busy", "--timeout", "1"]) == 1
    assert "unhealthy: " in capsys.readouterr().err


def test_the_image_probes_itself_so() -> None:
    dockerfile = Path(__file__).parents[2] / "build" / "Dockerfile"
    (line,) = [line for line in dockerfile.read_text("utf-8").splitlines() if line.startswith("HEALTHCHECK")]
    assert 'CMD ["spanqa", "health", "--or-busy"' in line
