"""Two groups of processes, as torchrun starts them on two machines, are one run: they end together, and resume."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from spanqa.cli import main
from spanqa_training.errors import RunError
from spanqa_training.run.place import check_nodes, place_from_environment
from spanqa_training.spec.schema import TrainerSpec

LONG = ["trainer.max_epochs=6", "optim.lr=1e-3", "trainer.save_every_s=0"]
SHORT = ["trainer.max_steps=3", "training_ds.num_samples=8"]
RESUMES = "the same command on every node resumes from the last saved state"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def one_process(arguments, variables, said):
    """A process that torchrun started: its variables, its own command line, all that it says in one file."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(variables)
    sys.exit(main(arguments))


class Nodes:
    """Nodes of one process each; the first holds the store, as without torchrun's own."""

    def __init__(self, forked, folder, arguments, n_nodes=2):
        folder.mkdir(exist_ok=True)
        port = free_port()
        self.said = [folder / f"node{rank}.txt" for rank in range(n_nodes)]
        common = {"WORLD_SIZE": str(n_nodes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        common |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
        of_node = arguments if callable(arguments) else lambda rank: arguments
        self.processes = [
            forked.Process(target=one_process, args=(of_node(rank), common | {"RANK": str(rank)}, said))
            for rank, said in enumerate(self.said)
        ]
        for process in self.processes:
            process.start()

    def end(self, timeout=120):
        """Exit codes of all, and what each said."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes, [said.read_text(encoding="utf-8") if said.exists() else "" for said in self.said]


def errors(text):
    """What a user reads as an error; torch's own warnings that a connection was lost are none."""
    return [line for line in text.splitlines() if line.startswith(("spanqa: error", "Traceback"))]


@pytest.fixture
def start(forked, tmp_path):
    started = []

    def make(arguments, name="said"):
        started.append(Nodes(forked, tmp_path / name, arguments))
        return started[-1]

    yield make
    for nodes in started:
        nodes.end(timeout=0)


def when_saved(results, nodes, timeout=120):
    """Wait until the state is there, of which a run has done some steps."""
    deadline = time.monotonic() + timeout
    while not (results / "state" / "state.pt").exists() and time.monotonic() < deadline:
        assert all(process.is_alive() for process in nodes.processes), nodes.end(0)
        time.sleep(0.005)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_run_of_two_nodes_says_that_one_was_killed_and_resumes_to_the_same_weights(
    train, tmp_path, tools, start, lost
):
    whole, killed = train(tmp_path / "whole", *LONG), train(tmp_path / "killed", *LONG)
    codes, said = start(whole, "undisturbed").end()
    assert (codes, errors(said[0] + said[1])) == ([0, 0], [])
    assert said[1] == "", "the first process speaks for all"
    nodes = start(killed, "killing")
    when_saved(tmp_path / "killed", nodes)
    nodes.processes[lost].kill()
    codes, said = nodes.end(timeout=30)
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] == 2
    assert errors(said[1 - lost]) == [
        f"spanqa: error: another process of the run was killed, or its node was lost: {RESUMES}"
    ]
    codes, said = start(killed, "resuming").end()
    assert codes == [0, 0]
    assert "resuming at epoch" in said[0]
    tools.assert_same_weights(tools.trained(tmp_path / "whole")[1], tools.trained(tmp_path / "killed")[1])
    assert tools.lines(tmp_path / "whole" / "train.jsonl") == tools.lines(tmp_path / "killed" / "train.jsonl")
    assert not list((tmp_path / "killed").glob(".met*"))


@pytest.mark.parametrize("hung", [0, 1])
def test_a_process_that_hangs_ends_the_run_within_the_seconds_of_the_key(train, tmp_path, start, hung):
    nodes = start(train(tmp_path / "run", *LONG, "trainer.max_epochs=99", "trainer.lost_after_s=4"))
    when_saved(tmp_path / "run", nodes)
    os.kill(nodes.processes[hung].pid, signal.SIGSTOP)
    began = time.monotonic()
    other = nodes.processes[1 - hung]
    other.join(30)
    assert other.exitcode == 2
    assert 3 < time.monotonic() - began < 20
    nodes.processes[hung].kill()
    _, said = nodes.end()
    what = ["the first process of the run, at 127.0.0.1, was lost", f"no sign of life for 4 s of process {hung} of"]
    (line,) = errors(said[1 - hung])
    assert any(one in line for one in what), line
    assert line.endswith(RESUMES)


def test_what_goes_wrong_on_one_node_is_said_on_all_of_them_in_the_same_words(train, tmp_path, start, twenty_questions):
    codes, said = start(train(tmp_path / "nan", *LONG, "optim.lr=1e30")).end()
    assert codes == [2, 2]
    for one in said:
        (line,) = errors(one)
        assert line.startswith("spanqa: error: the loss is")

    fewer = [train(tmp_path / "other", *SHORT), train(tmp_path / "other", *SHORT, "validation_ds.num_samples=2")]
    codes, said = start(fewer.__getitem__, "other").end()
    assert codes == [2, 2]
    assert [errors(one) for one in said] == [
        ["spanqa: error: node 1 has other data or another base model than node 0: give every node the same files"]
    ] * 2

    apart = [train(tmp_path / f"apart{rank}", *SHORT) for rank in range(2)]
    codes, said = start(apart.__getitem__, "apart").end()
    assert codes == [2, 2]
    assert "is another folder on node 1 than on node 0: give one that all share" in said[0]
    assert not (tmp_path / "apart1" / "state").exists(), "the first alone writes"


def test_two_nodes_train_what_two_processes_of_one_machine_train(
    train, tmp_path, tools, start, started_by_fork, monkeypatch
):
    codes, _ = start(train(tmp_path / "nodes", *SHORT)).end()
    assert codes == [0, 0]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(train(tmp_path / "machine", *SHORT, "-g", "2")) == 0
    tools.assert_same_weights(tools.trained(tmp_path / "nodes")[1], tools.trained(tmp_path / "machine")[1])


def test_torchrun_itself_starts_two_nodes(train, tmp_path, tools):
    port = str(free_port())
    where = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    command = [sys.executable, "-m", "torch.distributed.run", *where]
    line = ["-m", "spanqa", *train(tmp_path / "run", *SHORT, "trainer.num_nodes=2")]
    nodes = [
        subprocess.Popen([*command, "--node-rank", str(rank), *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert said[0][0].decode().strip() == str(tmp_path / "run" / "checkpoints" / "trained-model.tlt")
    assert tools.trained(tmp_path / "run")[0].provenance["checks"]


VARIABLES = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
VARIABLES |= {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    def put(**changes):
        for name, value in {**VARIABLES, **changes}.items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        return place_from_environment()

    return put


def test_a_process_learns_its_place_from_the_variables_of_torchrun(variables):
    place = variables()
    assert (place.rank, place.node, place.n_nodes, place.local_rank) == (3, 1, 2, 1)
    assert variables(WORLD_SIZE="1", RANK="0") is None
    assert variables(MASTER_PORT=None) is None
    alone = variables(LOCAL_RANK=None, LOCAL_WORLD_SIZE=None)
    assert (alone.node, alone.n_nodes, alone.local_rank) == (3, 4, 0)
    for wrong in ({"RANK": "4"}, {"RANK": "x"}, {"WORLD_SIZE": "5"}, {"LOCAL_WORLD_SIZE": None}):
        with pytest.raises(RunError, match=r"by torchrun|contradict each other"):
            variables(**wrong)


def test_what_a_spec_says_of_nodes_must_be_what_was_started(variables):
    place = variables()
    for fits in ({}, {"num_nodes": 2}, {"gpus": 2}, {"gpus": 0}):
        check_nodes(TrainerSpec(**fits), place)
    with pytest.raises(RunError, match=r"trainer\.num_nodes is 3, and torchrun started 2: give 2"):
        check_nodes(TrainerSpec(num_nodes=3), place)
    with pytest.raises(RunError, match=r"trainer\.gpus \(-g\) is 4, and torchrun started 2 .*: give 2, or leave"):
        check_nodes(TrainerSpec(gpus=4), place)
    with pytest.raises(RunError, match="not started by torchrun: on each node say torchrun --nnodes 2"):
        check_nodes(TrainerSpec(num_nodes=2), None)
    check_nodes(TrainerSpec(num_nodes=1), None)
