"""Batches on Ray: two actors on this machine, of which one is killed, and rows at which every actor dies."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from spanqa.errors import SpanqaError
from spanqa_client.batch.work import Collector, Task

pytest.importorskip("ray", reason="Ray is not installed: pip install 'spanqa[ray]'")

N_ROWS = 1500
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F")


def children():
    """Processes by their parent: (id, how it calls itself)."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_text().partition("\0")[0]
        except (OSError, ValueError):
            continue
        found.setdefault(parent, []).append((int(folder.name), name))
    return found


def descendants(pid, known):
    for child, name in known.get(pid, ()):
        yield child, name
        yield from descendants(child, known)


def actors_of(pid):
    return [child for child, name in descendants(pid, children()) if name.startswith("ray::MapWorker")]


def addresses_of(pids):
    """The addresses that processes listen on, as the kernel writes them."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(link))
            except OSError:
                continue
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


def test_every_row_is_answered_once_though_an_actor_is_killed(
    write_lines, rows, folder, repository, started, wait_for, batch
):
    lines = [rows(number) for number in range(N_ROWS)]
    lines[5], lines[900] = "{broken", rows(899)
    path = write_lines(lines)
    asked = [path, "-o", folder.path, "--repository", repository, "--rows-per-part", 100, "--json"]
    process = started(*asked, "--ray", "--workers", 2)
    wait_for(lambda: len(folder.parts) >= 3, process)
    actors = actors_of(process.pid)
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    everything = [process.pid, *(child for child, _ in descendants(process.pid, children()))]
    assert addresses_of(everything) <= set(LOOPBACK)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.startswith("{\n")
    assert err.count("\n") == 1
    assert err.startswith("spanqa: warning: 2 of 1,500 rows failed; row 5:")
    summary = folder.summary()
    assert (summary["complete"], summary["read"], summary["answered"], summary["failed"]) == (
        True,
        N_ROWS,
        N_ROWS - 2,
        2,
    )
    folder.require_once(f"q{number}" for number in range(N_ROWS) if number not in (5, 900))
    status, summary, _ = batch(*asked, "--resume")  # on this machine, without Ray, there is nothing left to do
    assert (status, summary["answered_before"], summary["failed"]) == (1, N_ROWS - 2, 2)


SCRIPT = """
import sys

from strange_plan import StrangePlan
from spanqa_client.batch.run import run_batch, work_on_ray
from spanqa_client.batch.work import Task

task = Task(files=(sys.argv[1],), has_contexts=True, folder=sys.argv[2], rows_per_part=100)
work = work_on_ray(StrangePlan(), 2, "here")
fingerprint = {"inputs": {}, "model": {}, "options": {}}
run_batch(task, work, fingerprint, resume=False, on_settled=lambda: None)
"""


@pytest.mark.usefixtures("strange_plan")
def test_chunks_at_which_every_actor_dies_fail_and_the_others_are_answered(write_lines, rows, folder, tmp_path):
    lines = [rows(number) for number in range(600)]
    lines[300]["question"] = "fatal"
    command = [sys.executable, "-c", SCRIPT, write_lines(lines), folder.path]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180, env=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    summary, failed = folder.summary(), folder.failures()
    assert summary["read"] == summary["answered"] + summary["failed"] == 600
    assert "q300" in {failure["id"] for failure in failed}
    # The chunk, and at most what waited for the same actors.
    assert len(failed) <= 512
    assert all(failure["reason"].startswith("the actors that were to answer it died") for failure in failed)
    folder.require_once({f"q{number}" for number in range(600)} - {failure["id"] for failure in failed})


class Answered:
    """What Ray Data gives back, without Ray: chunks as actors send them."""

    def __init__(self, chunks):
        self._chunks = chunks

    def iter_batches(self, **_):
        for chunk in self._chunks:
            yield pyarrow.table({"chunk": [json.dumps(chunk)]})


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"fault": "no luck"}, "no luck"),
        ({}, "the task of Ray's that reads the input has died"),
        ({"n_rows": 4}, None),
    ],
    ids=["an actor that can do nothing", "no end", "a lost chunk"],
)
def test_what_does_not_come_back_is_noticed(write_lines, rows, folder, monkeypatch, last, said):
    from spanqa_client.batch import ray_data

    answer = {"text": "x", "has_answer": True, "model_version": "1"}
    chunks = [{"settled": [[0, "q0", answer, ""], [2, "q2", None, "bad"]]}, {"settled": [], **last}]
    monkeypatch.setattr(ray_data, "_answered", lambda *_: Answered(chunks))
    path = write_lines(rows(number) for number in range(4))
    task = Task(files=(str(path),), has_contexts=True, folder=str(folder.path), rows_per_part=3)
    folder.path.mkdir()
    failures = []
    collector = Collector(task.parts, failures.append)

    def answer_all():
        ray_data.answer_on_ray(task, None, 1, collector.settle, collector.lacks)

    if said:
        with pytest.raises(SpanqaError, match=said):
            answer_all()
        return
    answer_all()
    collector.finish()
    assert [(row.id, row.reason[:10]) for row in failures] == [
        ("q1", "the actors"),
        ("q2", "bad"),
        ("q3", "the actors"),
    ]
    folder.require_once(["q0"])
