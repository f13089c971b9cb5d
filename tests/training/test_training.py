"""Training learns, and an interrupted run ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from spanqa.cli import main
from spanqa_training.checkpoint import load_checkpoint
from spanqa_training.state import load_state

SPEC = """\
restore_from: ???
trainer: {max_epochs: 40, seed: 1}
model: {dataset: {max_seq_length: 256, doc_stride: 128}}
training_ds: {file: '???', batch_size: 10}
validation_ds: {file: '???'}
optim: {lr: 2.0e-3, sched: {warmup_ratio: 0.1}}
"""


@pytest.fixture
def train(tmp_path, tiny_checkpoint, fifty_questions):
    """The arguments of `spanqa train` on 50 real questions."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")

    def arguments(results, *overrides):
        files = [f"training_ds.file={fifty_questions}", f"validation_ds.file={fifty_questions}"]
        return ["train", "-e", str(spec), "-m", str(tiny_checkpoint), "-r", str(results), "--quiet", *files, *overrides]

    return arguments


def trained(results):
    return load_checkpoint(results / "checkpoints" / "trained-model")


def test_training_on_fifty_real_questions_overfits_them(train, tmp_path):
    assert main(train(tmp_path / "run")) == 0
    checkpoint, _ = trained(tmp_path / "run")
    scores = checkpoint.metrics["validation"]["tuned_threshold"]
    assert scores["total"] == 50
    assert scores["f1"] >= 95
    assert checkpoint.metrics["validation"]["forced_answerable"]["f1"] >= 95


def test_a_run_that_was_killed_resumes_to_the_same_weights(train, tmp_path):
    short = ["trainer.max_epochs=6", "optim.lr=1e-3", "trainer.save_every_s=0.2"]
    assert main(train(tmp_path / "whole", *short)) == 0
    killed = train(tmp_path / "killed", *short)
    state = tmp_path / "killed" / "state" / "state.pt"
    process = subprocess.Popen([sys.executable, "-m", "spanqa.cli", *killed], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(killed) == 0
    (_, whole), (_, resumed) = trained(tmp_path / "whole"), trained(tmp_path / "killed")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_signal_saves_the_state_and_the_same_command_goes_on(train, tmp_path, monkeypatch, capsys):
    from spanqa_training.loop import Trainer

    once = Trainer._train_batch
    seen = []

    def interrupted(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGTERM)
        return once(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_train_batch", interrupted)
    arguments = train(tmp_path / "run", "trainer.max_epochs=2")
    assert main(arguments) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "resuming at epoch 1, batch 3" in capsys.readouterr().err


def test_another_spec_does_not_resume_a_run(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "trainer.max_epochs=1")) == 0
    assert main(train(tmp_path / "run", "trainer.max_epochs=2")) == 2
    assert "is of a run with another spec: use another results folder" in capsys.readouterr().err


def test_a_damaged_state_is_one_sentence(train, tmp_path, capsys):
    state = tmp_path / "run" / "state"
    state.mkdir(parents=True)
    (state / "state.pt").write_bytes(b"not a state")
    assert main(train(tmp_path / "run")) == 2
    assert "delete it to start again" in capsys.readouterr().err
    assert load_state(tmp_path, "any") is None


def test_a_learning_rate_that_explodes_is_one_sentence(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "optim.lr=1e30", "trainer.max_epochs=2")) == 2
    assert "lower optim.lr" in capsys.readouterr().err
