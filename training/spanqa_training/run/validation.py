"""Validation inside a training run: shared by its processes, and the choice of the checkpoints that are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker, Windows
from spanqa_client.reports.calibration import FittedScale
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from spanqa_training.checkpoints.keys import Key
from spanqa_training.console import tell
from spanqa_training.inference.decode_settings import decode_settings, threshold_from_spec
from spanqa_training.inference.evaluation import Evaluation, Logits, evaluate, network_from_model
from spanqa_training.inference.score_fit import LEAST_TO_FIT, scale_from_evaluation
from spanqa_training.model import SpanModel
from spanqa_training.run.progress import Progress
from spanqa_training.spec.schema import Spec

Inputs = tuple[Windows, Logits]


class _StoppedError(Exception):
    """A process was asked to stop while it validated."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Validator:
    """Validates a model while it is trained.

    Args:
        fabric: The process's Fabric.
        model: The model in training.
        checkpoint: What is saved beside its weights.
        spec: The run's spec.
        examples: The validation questions; none validates nothing.
        rows_per_batch: Windows in a batch; None for as many as fit a fixed number of tokens.
        folder: Where the best checkpoints are kept.
        name: How their names begin.
        key: Encrypts them; None without.
        log: What earlier checks gave; the caller appends to it.
        quiet: Whether to hide progress.
    """

    fabric: Fabric
    model: SpanModel
    checkpoint: Checkpoint
    spec: Spec
    examples: Sequence[Example]
    rows_per_batch: int | None
    folder: Path
    name: str
    key: Key | None
    log: Sequence[dict[str, Any]]
    quiet: bool
    last: Evaluation | None = None
    _inputs: Sequence[Inputs] = ()

    def check(self, progress: Progress, stopping: Callable[[], bool]) -> dict[str, Any] | None:
        """Validate in the middle or at the end of an epoch, and keep the model where its loss is among the lowest.

        Args:
            progress: Where the run is.
            stopping: Asked before each batch; the validation ends where any process is to stop.

        Returns:
            What is remembered of it; None where it was ended.
        """
        entry: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "train_loss": round(progress.loss, 6),
            "lr": progress.lr,
        }
        try:
            self.last = self.evaluate(stopping)
        except _StoppedError:
            return None
        if self.last:
            threshold = threshold_of(self.spec, self.checkpoint, self.last)
            scores = self.last.scores(threshold)
            entry |= {
                "val_loss": round(sum(self.last.losses) / len(self.last.losses), 6),
                "exact": scores["exact"],
                "f1": scores["f1"],
                "threshold": threshold,
            }
            entry["checkpoint"] = f"{self.name}--val_loss={entry['val_loss']:.4f}-step={entry['step']}.ckpt"
        shown = [f"{name} {entry[name]:.4g}" for name in ("train_loss", "val_loss", "exact", "f1") if name in entry]
        self.say(f"epoch {progress.epoch}, step {progress.step:,} of {progress.n_steps:,}: {', '.join(shown)}")
        if self.last and self.fabric.global_rank == 0:
            self._keep_best(entry)
        return entry

    def say(self, message: str) -> None:
        """Tell the user something, once."""
        if self.fabric.global_rank == 0:
            tell(message)

    def evaluate(self, stopping: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """Answer the validation questions, each process its share; None without any."""
        if not self.examples:
            return None
        n_processes = self.fabric.world_size
        part = self._part(stopping)
        self._inputs = part.inputs if part else ()
        parts: list[Any] = [part and (part.decoded, part.losses)]
        if n_processes > 1:
            parts = [None] * n_processes
            torch.distributed.all_gather_object(parts, part and (part.decoded, part.losses))
        if None in parts:
            # In any of them: all must agree on what comes next.
            raise _StoppedError
        decoded: list[Any] = [None] * len(self.examples)
        for other, (shared, _) in enumerate(parts):
            decoded[other::n_processes] = shared
        return Evaluation(
            examples=self.examples, decoded=decoded, losses=[loss for _, shared in parts for loss in shared]
        )

    def _part(self, stopping: Callable[[], bool]) -> Evaluation | None:
        """This process's share; None where it was ended."""
        rank, n_processes = self.fabric.global_rank, self.fabric.world_size
        network = network_from_model(self.model, self.fabric.device)

        def stoppable(batch: Batch) -> Logits:
            if stopping():
                raise _StoppedError
            return network(batch)

        try:
            return evaluate(
                stoppable,
                WindowMaker(self.checkpoint.tokenizer(), self.checkpoint.windows),
                self.examples[rank::n_processes],
                decode_settings(self.checkpoint),
                quiet=self.quiet or rank > 0,
                rows_per_batch=self.rows_per_batch,
                keep_inputs=len(self.examples) >= LEAST_TO_FIT,
            )
        except _StoppedError:
            return None

    def fitted_scale(self, evaluation: Evaluation) -> FittedScale | None:
        """Fit the scale of the scores on the questions of the last `evaluate`, as `spanqa evaluate` does.

        Every process calls it. None where there are too few questions, or but one paragraph.
        """
        if len(self.examples) < LEAST_TO_FIT:
            return None
        n_processes = self.fabric.world_size
        parts: list[Any] = [self._inputs]
        if n_processes > 1:
            parts = [None] * n_processes
            torch.distributed.all_gather_object(parts, self._inputs)
        if self.fabric.global_rank:
            return None
        inputs: list[Any] = [None] * len(self.examples)
        for other, shared in enumerate(parts):
            inputs[other::n_processes] = shared
        return scale_from_evaluation(dataclasses.replace(evaluation, inputs=inputs), decode_settings(self.checkpoint))

    def _keep_best(self, entry: dict[str, Any]) -> None:
        checks = [one for one in (*self.log, entry) if "checkpoint" in one]
        best = sorted(checks, key=lambda one: (one["val_loss"], one["step"]))[: self.spec.trainer.save_top_k]
        kept = {one["checkpoint"] for one in best}
        if entry["checkpoint"] in kept:
            save_checkpoint(
                dataclasses.replace(self.checkpoint, no_answer_threshold=entry["threshold"], metrics={"check": entry}),
                self.model,
                self.folder / entry["checkpoint"],
                dtype=self.spec.trainer.checkpoint_dtype,
                key=self.key,
            )
        for one in checks:
            if one["checkpoint"] not in kept:
                (self.folder / one["checkpoint"]).unlink(missing_ok=True)


def threshold_of(spec: Spec, checkpoint: Checkpoint, evaluation: Evaluation | None) -> float:
    """The no-answer threshold of a model: what the spec gives, else the best on the validation questions."""
    asked = threshold_from_spec(spec)
    if asked is not None:
        return asked
    return evaluation.tuned_threshold() if evaluation else checkpoint.no_answer_threshold
