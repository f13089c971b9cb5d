"""One training run: every process trains its share, the first writes the checkpoint."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from spanqa.files import write_atomically
from spanqa.squad import Example
from spanqa_client.reports.calibration import FittedScale
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.model_card import card_from_checkpoint
from spanqa_training.data.window_index import TrainingIndex
from spanqa_training.inference.evaluation import Evaluation
from spanqa_training.model import SpanModel
from spanqa_training.run.allocator import keep_freed_memory
from spanqa_training.run.launch import handled, precision_of
from spanqa_training.run.log_picture import svg_from_run
from spanqa_training.run.loop import STATE_FOLDER, Trainer
from spanqa_training.run.validation import Validator, threshold_of
from spanqa_training.spec.schema import DataSpec, Spec

CHECKPOINTS = "checkpoints"
CARD_FILE = "model_card.md"
CURVES_FILE = "training.svg"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """All that a process of a run needs; it reaches spawned processes through a pipe.

    Args:
        spec: The run's spec.
        dataset: The section of the training data.
        checkpoint: The model that training starts from.
        model: Its weights.
        index: Folder of the training windows' index.
        origin: SHA-256 of what the run starts from, by name.
        validation: Validation questions; none without.
        validation_rows: Windows in a batch of theirs; None for as many as fit a fixed number of tokens.
        results: The folder of results.
        save_to: Name of the checkpoint to write.
        key: Encrypts what is written; None without.
        quiet: Whether to hide progress.
    """

    spec: Spec
    dataset: DataSpec
    checkpoint: Checkpoint
    model: SpanModel
    index: Path
    origin: Mapping[str, str]
    validation: Sequence[Example]
    validation_rows: int | None
    results: Path
    save_to: str
    key: Key | None = dataclasses.field(default=None, repr=False)
    quiet: bool = False

    @property
    def target(self) -> Path:
        """The checkpoint to write."""
        return self.results / CHECKPOINTS / self.save_to


def train_process(fabric: Fabric, run: TrainingRun) -> bool:
    """Train as one process of a run.

    Returns:
        True when the checkpoint is written, False when the run was interrupted and its state saved.

    Raises:
        SpanqaError: Whatever ends the run.
    """
    if fabric.device.type == "cpu":
        keep_freed_memory()
    # Spawned processes get the weights in memory that they share: each trains a copy of its own.
    model = run.model if fabric.world_size == 1 else copy.deepcopy(run.model)
    with TrainingIndex.open(run.index) as index:
        trainer = Trainer(
            fabric,
            model,
            index,
            index.lengths,
            spec=run.spec,
            dataset=run.dataset,
            results=run.results,
            key=run.key,
            origin=run.origin,
            quiet=run.quiet,
        )
        validator = Validator(
            fabric=fabric,
            model=model,
            checkpoint=run.checkpoint,
            spec=run.spec,
            examples=run.validation,
            rows_per_batch=run.validation_rows,
            folder=run.target.parent,
            name=run.target.stem,
            key=run.key,
            log=trainer.log,
            quiet=run.quiet,
        )
        if message := _resumption(trainer, run):
            validator.say(message)
        with handled(lambda *_: trainer.stop()):
            finished = trainer.run(partial(validator.check, stopping=trainer.stopping))
        if not finished:
            validator.say(f"interrupted: the same command resumes from {run.results / STATE_FOLDER}")
            return False
        facts = {
            "n_questions": index.n_questions,
            "n_unanswerable": index.n_unanswerable,
            "n_windows": index.n_windows,
            "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "CPU",
            "precision": precision_of(run.spec.trainer, fabric.device.type),
        }
    evaluation = _final_evaluation(run, model, validator)
    fitted = validator.fitted_scale(evaluation) if evaluation else None
    if fabric.global_rank == 0:
        _save(run, model, evaluation, fitted, {**facts, "checks": trainer.log})
    fabric.barrier()
    return True


def _resumption(trainer: Trainer, run: TrainingRun) -> str:
    """What to say of a run that does not begin at its beginning; nothing of others."""
    if trainer.complete:
        return (
            f"the run is complete already and nothing is trained: {run.target} is written again from its state; "
            "for another run give another -r"
        )
    epoch, batch = trainer.resumed_at
    return f"resuming at epoch {epoch + 1}, batch {batch}" if epoch or batch else ""


def _final_evaluation(run: TrainingRun, model: SpanModel, validator: Validator) -> Evaluation | None:
    """The validation of the weights as they are stored."""
    if run.spec.trainer.checkpoint_dtype == "float16":
        model.half().float()
    elif validator.last:
        return validator.last
    return validator.evaluate()


def _save(
    run: TrainingRun,
    model: SpanModel,
    evaluation: Evaluation | None,
    fitted: FittedScale | None,
    training: dict[str, Any],
) -> None:
    threshold = threshold_of(run.spec, run.checkpoint, evaluation)
    before = run.checkpoint.provenance
    checkpoint = dataclasses.replace(
        run.checkpoint.with_scale(fitted.scale) if fitted else run.checkpoint,
        no_answer_threshold=threshold,
        metrics=_metrics(run, evaluation, threshold, fitted) if evaluation else {},
        provenance={
            **before,
            "trained_on": [*before.get("trained_on", []), *(Path(file).name for file in run.dataset.file)],
            "base_fingerprint": run.origin["base model"],
            **training,
        },
    )
    card = card_from_checkpoint(checkpoint, run.spec, run.dataset, name=run.target.stem)
    save_checkpoint(checkpoint, model, run.target, dtype=run.spec.trainer.checkpoint_dtype, key=run.key, card=card)
    picture = svg_from_run(run.results, title=run.target.stem)
    for name, text in ((CARD_FILE, card), (CURVES_FILE, picture)):
        if text:
            write_atomically(run.results / name, text)


def _metrics(run: TrainingRun, evaluation: Evaluation, threshold: float, fitted: FittedScale | None) -> dict[str, Any]:
    return {
        "validation": {
            "files": [Path(file).name for file in run.spec.validation_ds.file],
            "threshold": threshold,
            **({"score_scale": dataclasses.asdict(fitted.scale), "ece": fitted.ece_after} if fitted else {}),
            "model_threshold": evaluation.scores(threshold, intervals=True),
            "threshold_0": evaluation.scores(0.0),
            "forced_answerable": evaluation.forced_scores(),
        }
    }
