"""`spanqa train`: a checkpoint from a spec, resumed where an earlier run was interrupted."""

from __future__ import annotations

import argparse
import shutil
import sys

from spanqa_training.commands.arguments import add_overrides, add_spec_options
from spanqa_training.console import tell

INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Train, validate, and write RESULTS/checkpoints/trained-model.tlt."""
    return train(args, section="training_ds", save_to="trained-model.tlt")


def train(args: argparse.Namespace, *, section: str, save_to: str) -> int:
    """Run a training.

    Args:
        args: Parsed arguments.
        section: The section of the training data.
        save_to: Name of the checkpoint, where the spec gives none.
    """
    from spanqa_training.commands.prepare import run_from_request
    from spanqa_training.run.launch import run_processes
    from spanqa_training.run.loop import STATE_FOLDER
    from spanqa_training.run.state import sole_run
    from spanqa_training.run.training_run import train_process

    run = run_from_request(args, section=section, save_to=save_to)
    with sole_run(run.results / STATE_FOLDER):
        finished = run_processes(run.spec.trainer, train_process, run)
        if finished is None:
            tell("interrupted before training began: the same command starts it")
        if not finished:
            return INTERRUPTED
        if not run.spec.model.dataset.use_cache:
            shutil.rmtree(run.index)
    tell(str(run.target), sys.stdout)
    return 0
