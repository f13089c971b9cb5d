"""How many GPUs a command uses is said by -g and by trainer.gpus, with one meaning."""

from __future__ import annotations

import argparse

import pytest
import torch

from spanqa.cli import main
from spanqa_training.commands.arguments import add_overrides, add_spec_options, request_from_args
from spanqa_training.run.launch import accelerator_of

TRAINING = ["trainer.max_steps=1", "model.dataset.max_seq_length=128", "model.dataset.doc_stride=32"]
COMMANDS = {
    "train": ["training_ds", "validation_ds"],
    "finetune": ["finetuning_ds", "validation_ds"],
    "evaluate": ["test_ds"],
    "infer": ["infer_ds"],
}


def trainer_from(*arguments):
    parser = argparse.ArgumentParser()
    add_spec_options(parser)
    add_overrides(parser)
    return request_from_args(parser.parse_args(["-r", "results", *arguments]), uses=()).spec.trainer


@pytest.fixture
def two_gpus(monkeypatch):
    """Torch counts two GPUs; where there are none, a command that chooses one fails."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_gpus_mean_one_process_on_the_cpu(tiny_checkpoint, answerable_questions, tmp_path, command):
    values = [f"{section}.file={answerable_questions}" for section in COMMANDS[command]]
    values += TRAINING if command in ("train", "finetune") else []
    arguments = ["-m", str(tiny_checkpoint), "-r", str(tmp_path / "results"), "-g", "0", "--quiet"]
    assert main([command, *arguments, *values]) == 0


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("number", ["0", "1", "2"])
def test_the_option_and_the_key_mean_the_same(number):
    trainer = trainer_from("-g", number)
    assert trainer == trainer_from(f"trainer.gpus={number}")
    assert accelerator_of(trainer) == ("cpu" if number == "0" else "cuda")
