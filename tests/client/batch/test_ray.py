"""Batches on Ray: two actors on this machine, of which one is killed, and a row at which every actor dies."""

import json
import os
import signal
from pathlib import Path

import pyarrow
import pytest

from spanqa.errors import SpanqaError
from spanqa_client.batch.work import Collector, Task

pytest.importorskip("ray", reason="Ray is not installed: pip install 'spanqa[ray]'")

N_ROWS = 1024
"""Eight chunks: each of two actors has as many as may wait for it."""
ENDLESS, FATAL = 130, 300
"""In the second chunk and the third, which most often come to different actors: both start anew side by side then."""
START_S = 240
"""Ray starts a dozen processes, which takes its time where other work takes most of the machine."""
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


FATAL_PLAN = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class FatalPlan:
    plan: object

    def open(self):
        (HERE / f"actor{os.getpid()}").touch()
        return FatalAsker(self.plan.open())


class FatalAsker:
    def __init__(self, asker):
        self._asker = asker

    def ask(self, rows):
        rows = list(rows)
        questions = {row.question for row in rows}
        while len(list(HERE.glob("actor*"))) < 2:
            time.sleep(0.01)
        if "fatal" in questions:
            os._exit(9)
        if "endless" in questions and not (HERE / "amid").exists():
            (HERE / "amid").write_text(str(os.getpid()))
            time.sleep(600)
        return self._asker.ask(rows)
"""
"""A plan whose actors begin when there are two, die at the question "fatal", and at "endless" stay where they are,
once; a module that they can import."""
SCRIPT = """
import sys
from contextlib import contextmanager

from fatal_plan import FatalPlan
from spanqa.cli import main
from spanqa_client.batch import ray_cluster, run

connected, work_on_ray = ray_cluster.connected, run.work_on_ray

@contextmanager
def impatient(*where):
    with connected(*where):
        from spanqa_client.batch import ray_data  # only now, as Ray reads its settings when it is imported
        ray_data._TRIES = 1
        yield

ray_cluster.connected = impatient
run.work_on_ray = lambda plan, *where: work_on_ray(FatalPlan(plan), *where)
sys.exit(main())
"""
"""`spanqa` with that plan around its own. Actors take seconds to start: what kills them is tried once more."""
ABSENT = "raise ImportError('not for Ray')"
"""In the place of rfc3987_syntax, which another tool of these tests brings: each of Ray's dozen processes imports
jsonschema, and that imports it where it is there, only to spend two seconds of a core on a grammar that nobody uses."""


def test_every_row_is_answered_once_though_an_actor_is_killed_and_some_rows_kill_actors(
    write_lines, rows, folder, repository, started, wait_for, batch, tmp_path
):
    """One run for all of it, as Ray takes its time to start."""
    lines = [rows(number) for number in range(N_ROWS)]
    lines[5], lines[600] = "{broken", rows(599)
    lines[ENDLESS]["question"], lines[FATAL]["question"] = "endless", "fatal"
    path = write_lines(lines)
    asked = [path, "-o", folder.path, "--repository", repository, "--rows-per-part", 100, "--json"]
    (tmp_path / "fatal_plan.py").write_text(FATAL_PLAN)
    (tmp_path / "rfc3987_syntax.py").write_text(ABSENT)
    process = started(*asked, "--ray", "--workers", 2, python=["-c", SCRIPT], PYTHONPATH=str(tmp_path))
    amid = tmp_path / "amid"
    wait_for(lambda: amid.exists() and amid.read_text(), process, longest_s=START_S)
    assert amid.exists(), f"it ended before it was amid its work: {process.communicate()}"
    assert int(amid.read_text()) in actors_of(process.pid)
    os.kill(int(amid.read_text()), signal.SIGKILL)
    everything = [process.pid, *(child for child, _ in descendants(process.pid, children()))]
    assert addresses_of(everything) <= set(LOOPBACK)
    out, err = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert out.startswith("{\n")
    lost = {failure["id"]: failure["reason"] for failure in folder.failures() if failure["row"] not in (5, 600)}
    n_failed = 2 + len(lost)
    assert err.startswith(f"spanqa: warning: {n_failed} of {N_ROWS:,} rows failed; row 5:")
    assert all(line.startswith("spanqa: warning: ") for line in err.splitlines())
    # The chunk, and at most what waited for the same actor.
    assert f"q{FATAL}" in lost
    assert len(lost) <= 512
    assert all(reason.startswith("the actors that were to answer it died") for reason in lost.values())
    summary = folder.summary()
    n_answered = N_ROWS - n_failed
    assert (summary["complete"], summary["read"], summary["answered"], summary["failed"]) == (
        True,
        N_ROWS,
        n_answered,
        n_failed,
    )
    folder.require_once({f"q{number}" for number in range(N_ROWS) if number not in (5, 600)} - lost.keys())
    status, summary, _ = batch(*asked, "--resume")  # on this machine, without Ray, which has left little to do
    assert (status, summary["answered_before"], summary["failed"]) == (1, n_answered, 2)


def test_the_end_comes_through_though_every_actor_is_lost_with_all_that_waits_for_it(write_lines, rows, folder):
    from spanqa_client.batch import ray_data

    n_workers = 3
    task = Task(files=(str(write_lines([rows(0)])),), has_contexts=True, folder=str(folder.path), rows_per_part=3)
    (read,) = ray_data._Chunks(task, n_workers).get_read_tasks(1)
    chunks = [json.loads(text) for table in read() for text in table["chunk"].to_pylist()]
    ends = [chunk for chunk in chunks if "n_rows" in chunk]
    assert ends == [{"rows": [], "settled": [], "n_rows": 1}] * len(ends)
    # Beside the chunk that kills it, an actor holds as many others as may be on their way to it.
    assert len(ends) > n_workers * (ray_data._CHUNKS_OF_ACTOR - 1)


@pytest.mark.parametrize(("address", "n_failures", "n_tries"), [("here", 1, 2), ("here", 9, 2), ("auto", 9, 1)])
def test_a_start_of_ray_that_fails_is_tried_once_more(monkeypatch, address, n_failures, n_tries):
    import ray

    from spanqa_client.batch import ray_cluster

    folders = []

    def init(_temp_dir="", **_):
        folders.append(_temp_dir)
        if len(folders) <= n_failures:
            raise Exception("The current node\ntimed out")

    monkeypatch.setattr(ray, "init", init)
    for name in ray_cluster._QUIET:
        monkeypatch.setenv(name, "")
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
    if n_failures < n_tries:
        with ray_cluster.connected(address, 2):
            pass
    else:
        with pytest.raises(SpanqaError, match=r"cannot be started or reached there: The current node timed out$"):
            ray_cluster.connected(address, 2).__enter__()
    assert len(folders) == n_tries
    assert len(set(folders)) == n_tries, "a start that failed may still have its folder"


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
