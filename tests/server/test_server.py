"""A server in the background: it answers, mends itself, and leaves nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from spanqa import contract
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
RECOVERY_S = 6.0


class Load:
    """Threads that ask without pause, and try again as our client does when a question was not answered."""

    def __init__(self, tools: Any, url: str, n_threads: int = 4) -> None:
        self._tools, self._url = tools, url
        self._stop = threading.Event()
        self.n_answered, self.n_retried, self.longest_s = 0, 0, 0.0
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(n_threads)]

    def _run(self, number: int) -> None:
        with grpc_client.InferenceServerClient(self._url) as client:
            while not self._stop.is_set():
                self._ask(client, "x" * (number + 1), str(number + 1))

    def _ask(self, client: Any, context: str, expected: str) -> None:
        start = time.monotonic()
        while time.monotonic() - start < 20:
            try:
                answer = self._tools.ask_with(client, context, timeout_s=5)
            except InferenceServerException:
                self.n_retried += 1
                time.sleep(0.05)
                continue
            if answer != expected:
                self.wrong.append(answer)
            self.n_answered += 1
            self.longest_s = max(self.longest_s, time.monotonic() - start)
            return
        self.wrong.append(f"{context} was never answered")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def pid_of(server: Server, model: str) -> int:
    return next(stub.pid for stub in server.stubs() if stub.model == model)


def test_every_model_has_a_process_and_questions_are_answered(server: Server, tools: Any) -> None:
    assert sorted(stub.model for stub in server.stubs()) == [contract.ENCODER, contract.QUESTION_ANSWERING]
    with grpc_client.InferenceServerClient(server.url) as client:
        assert tools.ask_with(client, "seven77") == "7"


def listening_addresses(pid: int) -> list[bytes]:
    """Return the IP addresses on which a process listens, from the kernel's tables of TCP sockets."""
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    addresses = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                # Each word of four bytes stands in the machine's order, which is little-endian here.
                addresses.append(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
    return addresses


def test_nothing_listens_beyond_loopback(server: Server) -> None:
    addresses = listening_addresses(server.triton_pid)
    assert len(addresses) == 3
    assert {address[-4:] for address in addresses} == {bytes([127, 0, 0, 1])}


def test_strangers_cannot_load_or_unload_models(server: Server) -> None:
    with (
        grpc_client.InferenceServerClient(server.url) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.unload_model(contract.ENCODER)


@pytest.mark.parametrize("model", [contract.ENCODER, contract.QUESTION_ANSWERING])
def test_a_killed_python_process_is_mended_while_every_question_is_answered(
    server: Server, tools: Any, reports: list[str], model: str
) -> None:
    triton_pid, killed = server.triton_pid, pid_of(server, model)
    with Load(tools, server.url) as load:
        time.sleep(0.3)
        os.kill(killed, signal.SIGKILL)
        tools.wait_until(lambda: any(f"'{model}' died (killed by SIGKILL" in line for line in reports), RECOVERY_S)
        tools.wait_until(lambda: server.n_recoveries == 1, RECOVERY_S)
        time.sleep(0.5)
    assert load.wrong == []
    assert load.n_answered > 0
    assert load.longest_s < RECOVERY_S
    # What the main entry had accepted is lost with it, and only a Triton that ends tells whoever waits.
    assert (server.triton_pid != triton_pid) == (model == contract.QUESTION_ANSWERING)


def test_the_ensemble_works_again_after_its_encoder_died(server: Server, tools: Any) -> None:
    import numpy as np

    n_recoveries = server.n_recoveries
    os.kill(pid_of(server, contract.ENCODER), signal.SIGKILL)
    tools.wait_until(lambda: server.n_recoveries > n_recoveries, RECOVERY_S)
    text = grpc_client.InferInput("TEXT", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"four"]], np.object_))
    with grpc_client.InferenceServerClient(server.url) as client:
        assert client.infer(contract.ENSEMBLE, [text]).as_numpy("LENGTH")[0, 0] == 4


def test_a_model_that_hangs_while_it_is_loaded_again_ends_in_a_fresh_triton(
    repository: Path, tools: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("spanqa_server.control.RELOAD_S", 1.5)
    monkeypatch.setattr("spanqa_server.control.STARTS", 0)
    hanging = repository / "hanging"
    path = repository / contract.ENCODER / "1" / "model.py"
    text = path.read_text("utf-8")
    hang = f"import os, time\nwhile os.path.exists({str(hanging)!r}): time.sleep(0.05)\n"
    path.write_text(hang + text, "utf-8")
    reports: list[str] = []
    with Server(repository, report=reports.append) as server, Load(tools, server.url) as load:
        triton_pid = server.triton_pid
        time.sleep(1)  # until the supervisor has listed the processes: one that it does not know it does not miss
        hanging.touch()
        os.kill(pid_of(server, contract.ENCODER), signal.SIGKILL)
        tools.wait_until(lambda: any("does not load the model 'encoder'" in line for line in reports), 2 * RECOVERY_S)
        hanging.unlink()
        tools.wait_until(lambda: server.triton_pid not in (None, triton_pid), 2 * RECOVERY_S)
        tools.wait_until(lambda: any("Triton runs again" in line for line in reports), 2 * RECOVERY_S)
    assert load.wrong == []


def test_a_killed_triton_is_started_anew_on_the_same_port(server: Server, tools: Any, reports: list[str]) -> None:
    url, killed = server.url, server.triton_pid
    with Load(tools, url) as load:
        time.sleep(0.2)
        os.kill(killed, signal.SIGKILL)
        tools.wait_until(lambda: "Triton runs again" in reports, RECOVERY_S)
        time.sleep(0.3)
    assert load.wrong == []
    assert server.url == url
    assert server.triton_pid != killed
    assert any("Triton ended with SIGKILL" in line for line in reports)


def test_a_triton_that_hangs_is_started_anew(server: Server, tools: Any, reports: list[str]) -> None:
    hung = server.triton_pid
    os.kill(hung, signal.SIGSTOP)
    tools.wait_until(lambda: any("test questions in a row" in line for line in reports), 30)
    tools.wait_until(lambda: reports[-1] == "Triton runs again", 15)
    assert not tools.is_running(hung)
    with grpc_client.InferenceServerClient(server.url) as client:
        assert tools.ask_with(client, "abc") == "3"


def test_a_server_leaves_no_process_and_no_shared_memory(repository: Path, tools: Any) -> None:
    before = set(tools.ours_in_shared_memory(os.getpid()))
    with Server(repository) as server:
        pids = [server.triton_pid, *(stub.pid for stub in server.stubs())]
        assert len(pids) == 3
        assert len(set(tools.ours_in_shared_memory(os.getpid())) - before) == 3
    assert not any(map(tools.is_running, pids))
    assert set(tools.ours_in_shared_memory(os.getpid())) == before


def test_an_entry_that_dies_while_the_server_stops_does_not_hold_it_up(repository: Path, tools: Any) -> None:
    reports: list[str] = []
    with Server(repository, report=reports.append) as server:
        entry = pid_of(server, contract.QUESTION_ANSWERING)

        def ask() -> None:
            with (
                grpc_client.InferenceServerClient(server.url) as client,
                pytest.raises(InferenceServerException),
            ):
                tools.ask_with(client, "slow")

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.15)
        stop = threading.Thread(target=server.stop)
        start = time.monotonic()
        stop.start()
        time.sleep(0.1)
        os.kill(entry, signal.SIGKILL)
        stop.join()
        thread.join()
    assert time.monotonic() - start < 12
    assert reports == ["stopped before every accepted question was answered"]


def test_the_living_sibling_of_a_killed_process_does_not_hold_up_the_stop(repository: Path, tools: Any) -> None:
    config = repository / contract.QUESTION_ANSWERING / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with Server(repository) as server, Load(tools, server.url) as load:
        first = [stub.pid for stub in server.stubs() if stub.model == contract.QUESTION_ANSWERING]
        assert len(first) == 2
        time.sleep(0.2)
        os.kill(first[0], signal.SIGKILL)
        tools.wait_until(lambda: server.n_recoveries, RECOVERY_S)
        load.__exit__()
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 7
        assert not any(map(tools.is_running, first))
    assert load.wrong == []


def test_a_server_whose_process_was_killed_amid_a_request_still_stops_soon(repository: Path, tools: Any) -> None:
    with Server(repository) as server, Load(tools, server.url) as load:
        time.sleep(0.2)
        for model in (contract.ENCODER, contract.QUESTION_ANSWERING):
            n_recoveries = server.n_recoveries
            os.kill(pid_of(server, model), signal.SIGKILL)
            tools.wait_until(lambda: server.n_recoveries > n_recoveries, RECOVERY_S)  # noqa: B023 (called at once)
        load.__exit__()
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 8
    assert load.wrong == []
