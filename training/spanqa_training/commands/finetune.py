"""`spanqa finetune`: train a checkpoint further, on data of its own."""

from __future__ import annotations

import argparse

from spanqa_training.commands import train


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    train.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Train on finetuning_ds and write RESULTS/checkpoints/finetuned-model.tlt."""
    return train.train(args, section="finetuning_ds", save_to="finetuned-model.tlt")
