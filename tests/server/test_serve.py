"""`spanqa serve` drains on SIGTERM and Ctrl-C, and takes Triton with it however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from spanqa.cli import main
from spanqa_server import processes
from spanqa_server.processes import end_orphans
from spanqa_server.server import Server

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_accepted_questions_are_answered_and_new_ones_refused(serve: Callable, tools: Any, number: int) -> None:
    command = serve()
    url = command.wait_until_ready()
    family = command.family()
    answers: list[str] = []

    def ask(number: int) -> None:
        with grpc_client.InferenceServerClient(url) as client:
            answers.append(tools.ask_with(client, f"slow{number}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    os.kill(command.pid, number)
    time.sleep(0.3)
    with grpc_client.InferenceServerClient(url) as client, pytest.raises(InferenceServerException) as refused:
        tools.ask_with(client, "late")
    assert "NOT_FOUND" in str(refused.value.status())
    for thread in threads:
        thread.join()
    assert answers == ["5"] * 6
    status, said = command.end()
    assert status == 0
    assert "stopping" in said
    assert len(family) == 3
    assert not any(map(tools.is_running, family))
    assert tools.ours_in_shared_memory(command.pid) == []


def test_a_second_signal_stops_at_once(serve: Callable, tools: Any) -> None:
    command = serve()
    url = command.wait_until_ready()

    refused: list[str] = []

    def ask(number: int) -> None:
        with grpc_client.InferenceServerClient(url) as client:
            try:
                tools.ask_with(client, f"slow{number}")
            except InferenceServerException as error:
                refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(command.pid, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(command.pid, signal.SIGTERM)
    status, said = command.end()
    for thread in threads:
        thread.join()
    assert status == 0
    assert refused
    assert "stopped before every accepted question was answered" in said


def test_a_killed_supervisor_takes_triton_down_and_the_next_one_sweeps(serve: Callable, tools: Any) -> None:
    command = serve()
    command.wait_until_ready()
    family = command.family()
    os.kill(command.pid, signal.SIGKILL)
    tools.wait_until(lambda: not any(map(tools.is_running, family)), 12)
    assert tools.ours_in_shared_memory(command.pid) != []
    serve().wait_until_ready()
    assert tools.ours_in_shared_memory(command.pid) == []


def test_a_python_process_that_outlives_its_triton_is_ended_and_no_other(server: Server, tools: Any) -> None:
    name, region = "triton_python_backend_stub", "spanqa_1_0_test"
    # A process that its parent leaves, called as Triton calls its own.
    sleeping = "import os, sys, time; print(os.getpid(), flush=True); os.close(1); time.sleep(600)"
    orphan = subprocess.run(
        ["bash", "-c", f"(exec -a {name} {sys.executable} /dev/fd/3 {region} 3<<< '{sleeping}') &"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    pid = int(orphan.stdout)
    before = {stub.pid for stub in server.stubs()}
    assert end_orphans("another_") == 0
    assert end_orphans("spanqa_1_0_") == 1
    tools.wait_until(lambda: not tools.is_running(pid), 20)
    assert len(before) == 2
    assert end_orphans(f"spanqa_{os.getpid()}_") == 0
    assert {stub.pid for stub in server.stubs()} == before


def test_a_stop_while_the_models_load_is_clean(serve: Callable, tools: Any, repository: Path) -> None:
    path = repository / "encoder" / "1" / "model.py"
    path.write_text(path.read_text() + "    def initialize(self, args):\n        time.sleep(600)\n")
    command = serve()
    tools.wait_until(lambda: len(command.family()) == 3, 20)
    family = command.family()
    os.kill(command.pid, signal.SIGTERM)
    status, _ = command.end()
    assert status == 0
    assert not any(map(tools.is_running, family))
    assert tools.ours_in_shared_memory(command.pid) == []


def test_a_taken_port_is_one_sentence_and_status_2(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status = main(["serve", "--repository", str(repository), "--grpc-port", str(port)])
    assert status == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"spanqa: error: cannot listen on 127.0.0.1:{port} for gRPC")


def test_a_process_that_ends_while_orphans_are_looked_for_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "123").mkdir()
    (tmp_path / "123" / "cmdline").write_bytes(b"")  # as that of one that nobody has collected
    monkeypatch.setattr(processes, "PROC", tmp_path)
    monkeypatch.setattr(processes, "_stub_of", lambda pid: processes.Stub(pid=pid, model="encoder"))  # a moment before
    assert end_orphans("spanqa_") == 0
