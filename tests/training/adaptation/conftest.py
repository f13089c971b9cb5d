"""`spanqa adapt` on the paragraphs of real questions, by a tiny model."""

import json
import sys

import pytest
import torch

from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head

SPEC = """\
restore_from: ???
trainer: {max_epochs: 2, seed: 1, precision: 32, gradient_clip_val: 1.0, log_every_n_steps: 1}
model: {dataset: {max_seq_length: 64}}
training_ds: {file: '???', batch_size: 4}
optim: {lr: 3.0e-3, sched: {name: WarmupAnnealing, warmup_ratio: 0.1}}
"""


@pytest.fixture
def adapt(tmp_path, tiny_checkpoint, fifty_questions):
    """The arguments of `spanqa adapt` on the 13 paragraphs of fifty real questions."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")

    def arguments(results, *overrides):
        given = [f"training_ds.file={fifty_questions}", "--held-out", "0.2"]
        return ["adapt", "-e", str(spec), "-m", str(tiny_checkpoint), "-r", str(results), "--quiet", *given, *overrides]

    return arguments


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file, which tests cannot import."""
    return sys.modules[__name__]


def adapted(results):
    return results / "checkpoints" / "adapted-model.tlt"


def metrics(results):
    return json.loads((results / "metrics.json").read_text(encoding="utf-8"))


def lines(results):
    return [json.loads(line) for line in (results / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(results):
    """The encoder's weights and those of its masked-LM head."""
    _, model = load_checkpoint(adapted(results))
    return {**model.state_dict(), **{f"lm_head.{name}": w for name, w in load_lm_head(adapted(results)).items()}}


def assert_same_weights(one, other, *, atol=0.0):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=atol), name
