"""`spanqa train`: a checkpoint from a spec, resumed where an earlier run was interrupted."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from spanqa_training.commands.arguments import add_overrides, add_spec_options
from spanqa_training.console import mute, tell

if TYPE_CHECKING:
    from spanqa_training.run.training_run import TrainingRun

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
    # Before torch is imported: a lost connection is one sentence of ours, and pages of its C++ stack otherwise.
    if "MASTER_ADDR" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from spanqa_training.run.launch import run_processes
    from spanqa_training.run.nodes import run_on_nodes
    from spanqa_training.run.place import place_from_environment
    from spanqa_training.run.training_run import train_process

    place = place_from_environment()
    is_first = place is None or not place.rank
    if not is_first:
        mute()
        args.quiet = True
    with ExitStack() as locks:
        prepare = partial(_prepared, args, section, save_to, locks if is_first else None)
        finished: bool | None
        if place:
            run, finished = run_on_nodes(place, prepare, train_process)
        else:
            run = prepare()
            finished = run_processes(run.spec.trainer, train_process, run)
        if finished is None:
            tell("interrupted before training began: the same command starts it")
        if not finished:
            return INTERRUPTED
        if is_first and not run.spec.model.dataset.use_cache:
            shutil.rmtree(run.index)
    tell(str(run.target), sys.stdout)
    return 0


def _prepared(args: argparse.Namespace, section: str, save_to: str, locks: ExitStack | None) -> TrainingRun:
    """Prepare a run, and keep others from its folder where this process is the first of it."""
    from spanqa_training.commands.prepare import run_from_request
    from spanqa_training.run.loop import STATE_FOLDER
    from spanqa_training.run.state import sole_run

    run = run_from_request(args, section=section, save_to=save_to)
    if locks:
        locks.enter_context(sole_run(run.results / STATE_FOLDER))
    return run
