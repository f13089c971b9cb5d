"""SIGTERM while requests are in flight: every accepted one is answered, and nothing is left behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spanqa import contract
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_REQUESTS = 12
N_WORDS = 40_000
BUSY_MACHINE_S = 120
"""Long enough to answer them where other work takes most of the machine."""


class ServeCommand:
    """`spanqa serve` in a process of its own."""

    def __init__(self, repository: Path) -> None:
        command = [sys.executable, "-m", "spanqa.cli", "serve", "--repository", str(repository)]
        self.process = subprocess.Popen(
            [*command, "--grpc-port=0", "--http-port=0", "--metrics-port=0", f"--drain-timeout-s={BUSY_MACHINE_S}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = "unread"
        while not line.startswith("  gRPC"):
            line = self.process.stdout.readline() if self.process.stdout else ""
            if not line:
                pytest.fail(f"`spanqa serve` ended: {self.process.communicate()}")
        self.url = line.split()[1]

    def family(self) -> list[int]:
        """Give the process ids of Triton and its Python processes."""
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        children = [pid for pid, parent in parents.items() if parent == self.process.pid]
        return children + [pid for pid, parent in parents.items() if parent in children]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def serve(table: Path) -> Iterator[ServeCommand]:
    command = ServeCommand(table)
    yield command
    if command.process.poll() is None:
        command.process.kill()
    command.process.communicate()


def test_sigterm_lets_every_accepted_request_be_answered_and_leaves_nothing(
    serve: ServeCommand, tools: Any, table_good: list[Any], table_offline: Any, paragraphs: list[str]
) -> None:
    family = serve.family()
    assert len(family) == 1 + 4
    # The main entry gets enough to do for a second or two; the ensemble's questions, soon answered, go among it.
    question, _, _ = table_good[0]
    context = tools.document_of(paragraphs, N_WORDS)
    long = (contract.QUESTION_ANSWERING, question, context, table_offline.right(question, context))
    pairs = [long, (contract.ENSEMBLE, *table_good[0]), long]
    channel, stub = tools.connect(serve.url)
    with channel:
        calls = []
        for number in range(N_REQUESTS):
            entry, question, context, right = pairs[number % 3]
            request = tools.request_of(entry, question, context)
            calls.append((stub.ModelInfer.future(request, timeout=BUSY_MACHINE_S), right))
        time.sleep(1)  # over loopback all of them have arrived by then, on a busy machine too
        is_done = [call.done() for call, _ in calls]
        serve.process.send_signal(signal.SIGTERM)
        responses = [call.result() for call, _ in calls]
    assert is_done.count(False) >= 3
    for response, (_, right) in zip(responses, calls, strict=True):
        outputs = tools.outputs_of(response)
        text, start, end = right.places[0]
        assert (outputs["ANSWER"], outputs["CHAR_START"], outputs["CHAR_END"]) == ([text], [start], [end])
    assert serve.process.wait(BUSY_MACHINE_S) == 0
    assert not [pid for pid in family if is_running(pid)]
    assert not list(Path("/dev/shm").glob(f"spanqa_{serve.process.pid}_*"))


def test_a_stop_amid_a_roll_over_does_not_wait_for_what_the_load_brings(
    table: Path, benchmark: Any, tools: Any, tmp_path: Path
) -> None:
    repository = Path(shutil.copytree(table, tmp_path / "repository"))
    told: list[str] = []
    with Server(repository, report=told.append, drain_timeout_s=BUSY_MACHINE_S) as server:
        before = len(server.stubs())
        benchmark("table_model").add_same_version(repository)
        server.request_reload()
        tools.wait_until(lambda: len(server.stubs()) > before, BUSY_MACHINE_S)
        server.stop()
    assert told == ["not reloaded in full: the server is asked to stop"]
