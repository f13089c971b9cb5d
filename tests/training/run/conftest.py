"""`spanqa train` on twenty real questions, and what its results are read with."""

import json
import multiprocessing
import sys
from multiprocessing import forkserver

import pytest
import torch

from spanqa_training.checkpoints.checkpoint import load_checkpoint

SPEC = """\
restore_from: ???
trainer: {max_epochs: 20, seed: 1, precision: 32, save_top_k: 0}
model: {dataset: {max_seq_length: 128, doc_stride: 48}}
training_ds: {file: '???', batch_size: 4}
validation_ds: {file: '???'}
optim: {lr: 5.0e-3, sched: {name: WarmupAnnealing, warmup_ratio: 0.1}}
"""


@pytest.fixture
def train(tmp_path, tiny_checkpoint, twenty_questions):
    """The arguments of `spanqa train` on twenty real questions, most of a window, some of two."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")

    def arguments(results, *overrides):
        files = [f"training_ds.file={twenty_questions}", f"validation_ds.file={twenty_questions}"]
        return ["train", "-e", str(spec), "-m", str(tiny_checkpoint), "-r", str(results), "--quiet", *files, *overrides]

    return arguments


@pytest.fixture(scope="session")
def forked():
    """Makes processes, each forked from one that has imported all: a process that begins imports for seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spanqa_training.run.training_run"])
    forkserver.ensure_running()  # while this process imports the same
    return context


@pytest.fixture
def started_by_fork(forked, monkeypatch):
    """Processes of `-g N` are forked as those of `forked` are."""
    start = torch.multiprocessing.start_processes

    def from_one(*arguments, **options):
        return start(*arguments, **{**options, "start_method": "forkserver"})

    monkeypatch.setattr(torch.multiprocessing, "start_processes", from_one)


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file, which tests cannot import."""
    return sys.modules[__name__]


def trained(results, name="trained-model.tlt"):
    return load_checkpoint(results / "checkpoints" / name)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same_weights(one, other, *, atol=0.0):
    for name, tensor in one.state_dict().items():
        assert torch.allclose(tensor, other.state_dict()[name], rtol=0, atol=atol), name
