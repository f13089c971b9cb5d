"""`spanqa train`: a checkpoint from a spec, resumed where an earlier run was interrupted."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spanqa.spans import DecodeSettings
from spanqa.windows import WindowMaker
from spanqa_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spanqa_training.data import labelled_windows, read_examples
from spanqa_training.evaluate import Evaluation, evaluate, network_from_model
from spanqa_training.loop import EpochEnd, Trainer
from spanqa_training.model import SpanModel
from spanqa_training.spec import Spec
from spanqa_training.spec_file import load_spec, spec_yaml

TRAINED_MODEL = "trained-model"
INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-e", "--spec", required=True, help="the YAML spec")
    parser.add_argument("-m", "--model", help="checkpoint to start from (replaces restore_from)")
    parser.add_argument("-r", "--results", required=True, help="folder for the checkpoint, the log and the state")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="spec keys to replace, such as optim.lr=1e-4")


def run(args: argparse.Namespace) -> int:
    """Train, validate, and write RESULTS/checkpoints/trained-model."""
    spec = load_spec(args.spec, args.overrides, model=args.model)
    results = Path(args.results)
    checkpoint, model = load_checkpoint(spec.restore_from)
    checkpoint = dataclasses.replace(
        checkpoint,
        windows=spec.window_settings(),
        max_answer_tokens=spec.model.dataset.max_answer_length,
        spec=spec_yaml(spec),
    )
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    examples = read_examples(spec.training_ds, seed=spec.trainer.seed)
    windows = labelled_windows(examples, maker)
    print(f"{len(examples):,} questions, {len(windows):,} windows", file=sys.stderr)
    trainer = Trainer(model, windows, spec, results / "state", quiet=args.quiet)
    if trainer.resumed_at != (0, 0):
        print(f"resuming at epoch {trainer.resumed_at[0] + 1}, batch {trainer.resumed_at[1]}", file=sys.stderr)
    log: list[dict[str, Any]] = []

    def on_epoch(end: EpochEnd) -> None:
        log.append(dataclasses.asdict(end))
        print(f"epoch {end.epoch}: loss {end.loss:.4f} over {end.windows:,} windows", file=sys.stderr)

    with _stopping_on_signals(trainer):
        finished = trainer.run(on_epoch)
    if not finished:
        print(f"interrupted: the same command resumes from {results / 'state'}", file=sys.stderr)
        return INTERRUPTED
    if spec.trainer.checkpoint_dtype == "float16":
        # Rounded now: the threshold and the scores are those of the weights that are stored.
        model.half().float()
    checkpoint = _validated(checkpoint, model, maker, spec, args.quiet)
    checkpoint = dataclasses.replace(
        checkpoint,
        provenance={
            **checkpoint.provenance,
            "trained_on": [
                *checkpoint.provenance.get("trained_on", []),
                *(Path(file).name for file in spec.training_ds.file),
            ],
            "n_questions": len(examples),
            "epochs": log,
        },
    )
    target = results / "checkpoints" / TRAINED_MODEL
    save_checkpoint(checkpoint, model, target, dtype=spec.trainer.checkpoint_dtype)
    print(target)
    return 0


@contextmanager
def _stopping_on_signals(trainer: Trainer) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the current step, with its state saved."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda *_: trainer.stop()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _validated(checkpoint: Checkpoint, model: SpanModel, maker: WindowMaker, spec: Spec, quiet: bool) -> Checkpoint:
    """Score the validation questions and keep the threshold that is best on them."""
    if not spec.validation_ds.file:
        return checkpoint
    examples = read_examples(spec.validation_ds, seed=spec.trainer.seed)
    settings = DecodeSettings(max_answer_tokens=checkpoint.max_answer_tokens, temperature=checkpoint.temperature)
    device = next(model.parameters()).device
    evaluation: Evaluation = evaluate(network_from_model(model, device), maker, examples, settings, quiet=quiet)
    threshold = evaluation.tuned_threshold()
    metrics = {
        "validation": {
            "files": [Path(file).name for file in spec.validation_ds.file],
            "threshold_0": evaluation.scores(0.0),
            "tuned_threshold": evaluation.scores(threshold),
            "forced_answerable": dict(evaluation.forced_scores()),
        }
    }
    print(json.dumps(metrics, indent=2), file=sys.stderr)
    return dataclasses.replace(checkpoint, no_answer_threshold=threshold, metrics=metrics)
