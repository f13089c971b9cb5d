"""What `benchmarks/faults.py` promises, each promise shortly: a model that is a table of logits, few questions."""

from __future__ import annotations

import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from spanqa import contract
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_QUESTIONS = 80
STOP_S = 8
PACE_S = 0.02
"""Half the benchmark's load: servers start and stop beside it most of the time."""
SHARPEST = {"N_FLOOD": 1500, "N_DEADLINES": 300, "SLOW_S": 1.0, "N_SENDERS": 8}
"""The senders' scenarios, shorter than in the benchmark."""


@pytest.fixture(scope="module")
def asked(table_server: Server, heldout: list[Any]) -> tuple[list[tuple[str, str]], list[Any]]:
    """Questions, and what the undisturbed server answers."""
    items = [(one.question, one.context) for one in random.Random(0).sample(heldout, N_QUESTIONS)]
    with QAClient(table_server.url) as client:
        return items, list(client.ask_many(items))


@pytest.fixture
def held(
    benchmark: Any, table: Path, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Runs a scenario of one of the benchmark's modules, with some of its constants changed, and holds its promises."""

    def hold(module: str, name: str, *, running: Server | None = None, n_kills: int = 0, **changed: Any) -> None:
        scenarios = benchmark(module)
        monkeypatch.setattr(benchmark("fault_setting"), "PACE_S", PACE_S)
        for constant, value in changed.items():
            monkeypatch.setattr(scenarios, constant, value)
        setting = benchmark("fault_setting").Setting(
            repository=table if running else Path(shutil.copytree(table, tmp_path / "repository")),
            items=asked[0],
            expected=asked[1],
            rng=random.Random(1),
            n_kills=n_kills,
            say=lambda _: None,
            running=running,
        )
        verdict = benchmark("fault_setting").Verdict(name=name)
        getattr(scenarios, name)(setting, verdict)
        if verdict.skipped:
            pytest.skip(verdict.skipped)
        assert verdict.failures == []

    return hold


@pytest.mark.parametrize("name", ["slow", "vanishing", "deadlines", "overflow"])
def test_senders_that_are_slow_vanish_give_up_or_send_too_much_harm_nobody_else(
    held: Any, table_server: Server, name: str
) -> None:
    held("fault_senders", name, running=table_server, **SHARPEST)


def test_a_restart_amid_the_questions_loses_none(held: Any) -> None:
    held("fault_kills", "kills", EVENTS=("restart",))


def test_all_python_processes_killed_at_once_come_back_and_no_question_is_lost(held: Any, table_server: Server) -> None:
    held("fault_kills", "together", running=table_server)


def test_python_processes_that_are_stopped_are_ended_before_triton_crashes_on_them(held: Any) -> None:
    held("fault_kills", "stopped_stubs", STOPS_S=(1.2,))


def test_a_triton_that_is_stopped_for_a_while_goes_on_where_it_was(held: Any, table_server: Server) -> None:
    held("fault_kills", "stopped_triton", running=table_server, STOPPED_S=2.0)


@pytest.mark.parametrize(
    "damage",
    ["half a network", "half a manifest", "a model.py that fails", "a model.py that ends", "a failing warm-up"],
)
def test_a_damaged_repository_is_refused_in_one_sentence(held: Any, benchmark: Any, damage: str) -> None:
    held("fault_files", "damaged_at_start", DAMAGES={damage: benchmark("fault_files").DAMAGES[damage]})


def test_a_new_version_that_is_damaged_is_told_in_one_sentence_and_the_old_one_answers_on(
    held: Any, benchmark: Any
) -> None:
    damage = "a failing warm-up"
    held("fault_files", "damaged_at_roll_over", DAMAGES={damage: benchmark("fault_files").DAMAGES[damage]})


def test_shared_memory_without_room_costs_no_question_that_can_wait(held: Any) -> None:
    held("fault_files", "full_shared_memory", FULL_S=0.5, REFUSED_S=2.0)


def test_a_disk_without_room_costs_no_question_and_a_roll_over_only_until_there_is_room(held: Any) -> None:
    held("fault_files", "full_disk")


def test_a_clock_that_jumps_changes_nothing(held: Any) -> None:
    held("fault_files", "clock", JUMPS_S=(86_400, -86_400), SETTLED_S=0.5)


def test_a_server_stops_soon_after_texts_that_were_cut_off_beside_good_questions(
    table: Path, tools: Any, asked: Any
) -> None:
    cut_off = {"CONTEXT": ("BYTES", [1, 1], struct.pack("<I", 1000) + b"short")}
    request = tools.request_of(contract.QUESTION_ANSWERING, "Who?", "Bob.", **cut_off)
    with Server(table) as server, QAClient(server.url) as client:
        channel, stub = tools.connect(server.url)
        with channel, tools.Asking([lambda n: client.ask(*asked[0][n % N_QUESTIONS])] * 6):
            for _ in range(50):
                with pytest.raises(grpc.RpcError) as refused:
                    stub.ModelInfer(request, timeout=30)
                assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < STOP_S


def test_neither_client_nor_server_reads_the_wall_clock(root: Path) -> None:
    sources = [path for part in ("client", "server") for path in (root / part).rglob("*.py")]
    # These only write down when they ran.
    sources = [path for path in sources if {"bench", "reports"}.isdisjoint(path.parts)]
    assert len(sources) > 20
    words = ("time.time(", "datetime.now(", "utcnow(", "time.time_ns(")
    assert not [str(path) for path in sources if any(word in path.read_text("utf-8") for word in words)]
