"""The training loop: resumable at any step, on one or several processes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from spanqa_training.checkpoints.keys import Key
from spanqa_training.console import tell
from spanqa_training.data.batch_order import shared_order
from spanqa_training.data.feed import SPANS, AnyShare, Feed, Objective
from spanqa_training.errors import RunError
from spanqa_training.optimization.early_stopping import reason_to_stop
from spanqa_training.run.log_file import TrainLog
from spanqa_training.run.optimizer_step import OptimizerStep
from spanqa_training.run.progress import OnCheck, Progress
from spanqa_training.run.resume import Keeper
from spanqa_training.spec.files import spec_yaml
from spanqa_training.spec.schema import DataSpec, Spec

STATE_FOLDER = "state"


class Trainer:
    """One process of a training run.

    Args:
        fabric: The process's Fabric, launched.
        model: The model to train, in place; it has a `config`.
        rows: What is trained on, as the objective takes it.
        lengths: `int32 (n_rows,)`: their lengths.
        spec: The run's spec.
        dataset: The section of the data.
        results: The folder of results; an interrupted run there is resumed.
        key: Encrypts the saved state.
        origin: What the run started from, as in `RunState`.
        quiet: Whether to hide the progress bar.
        objective: What is learned.

    Raises:
        RunError: If the folder holds a run with another spec or origin, or no batch can be made.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        rows: Any,
        lengths: NDArray[np.int32],
        *,
        spec: Spec,
        dataset: DataSpec,
        results: Path,
        key: Key | None = None,
        origin: Mapping[str, str] = {},
        quiet: bool = False,
        objective: Objective = SPANS,
    ) -> None:
        self._fabric, self._spec, self._data, self._lengths, self._quiet = fabric, spec, dataset, lengths, quiet
        self._objective, self._stop = objective, False
        torch.manual_seed(spec.trainer.seed + fabric.global_rank)
        n_batches = len(self._order(0))
        self._feed = Feed(
            source=rows,
            objective=objective,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            num_workers=_first(dataset.num_workers, spec.model.dataset.num_workers),
            pin_memory=_first(dataset.pin_memory, spec.model.dataset.pin_memory),
            device=fabric.device,
            mean_rows=None if dataset.batch_tokens is None else len(lengths) / n_batches,
        )
        self._accumulate = spec.trainer.accumulate_grad_batches
        self._steps_per_epoch = math.ceil(n_batches / self._accumulate)
        self._n_steps = spec.trainer.max_steps or self._steps_per_epoch * spec.trainer.max_epochs
        self._update = OptimizerStep.of_model(fabric, model, spec, n_steps=self._n_steps)
        self._model = self._update.model
        self._keeper = Keeper(
            fabric=fabric,
            model=self._model,
            optimizer=self._update.optimizer,
            spec=spec_yaml(spec),
            origin=dict(origin),
            folder=results / STATE_FOLDER,
            key=key,
        )
        self._at = self._keeper.restore()
        self._update.restored()
        checked = {entry.get("step") for entry in self.log}
        self._log = TrainLog(results, step=self._step(), checked=checked) if fabric.global_rank == 0 else None

    @property
    def resumed_at(self) -> tuple[int, int]:
        """Epoch and batch that the run starts from: (0, 0) for a fresh one."""
        return self._at.epoch, self._at.batch

    @property
    def complete(self) -> bool:
        """Whether nothing is left to train or to validate."""
        return self._stops_early() is not None or (not self._at.batch and self._step() >= self._n_steps)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What `on_check` gave, in order, before an interruption too."""
        return self._at.log

    def remember(self, entry: dict[str, Any]) -> None:
        """Keep what was found of the model before or between steps, and log it; it has a `step`."""
        self._at.log.append(entry)
        if self._log:
            self._log.write(**entry)

    def stop(self) -> None:
        """Ask the run to save its state and end after the current step; safe in a signal handler."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stop

    def run(self, on_check: OnCheck) -> bool:
        """Train to the end.

        Args:
            on_check: Called in every process after each val_check_interval of an epoch.

        Returns:
            True when all is done, False when any process was asked to stop; the state is saved in both cases.

        Raises:
            RunError: If the loss is not finite.
        """
        while not self.complete:
            if self._run_epoch(on_check):
                self._at.epoch, self._at.batch, self._at.loss_sum = self._at.epoch + 1, 0, 0.0
            elif not self._stops_early():
                return False
            self._keeper.save(self._at)
        return True

    def _stops_early(self, *entries: dict[str, Any]) -> str | None:
        """Why the run ends before its last step, with these entries of the log to come; None where it does not."""
        trainer, checks = self._spec.trainer, [*self.log, *entries] if self._step() < self._n_steps else []
        return reason_to_stop(checks, patience=trainer.early_stopping_patience, metric=trainer.early_stopping_metric)

    def _step(self) -> int:
        """Steps that are done."""
        return self._at.epoch * self._steps_per_epoch + math.ceil(self._at.batch / self._accumulate)

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        return shared_order(
            self._lengths,
            self._data.batch_size,
            self._data.batch_tokens,
            world_size=self._fabric.world_size,
            seed=self._spec.trainer.seed,
            epoch=epoch,
            shuffle=self._data.shuffle,
            drop_last=_first(self._data.drop_last, self._spec.model.dataset.drop_last),
        )

    def _run_epoch(self, on_check: OnCheck) -> bool:
        steps_left = self._n_steps - self._at.epoch * self._steps_per_epoch
        order = self._order(self._at.epoch)[: steps_left * self._accumulate]
        # Only between two steps can the state be saved, as it is before each check.
        n_steps = math.ceil(len(order) / self._accumulate)
        check_every = self._accumulate * max(1, round(n_steps * self._spec.trainer.val_check_interval))
        saved_at = time.monotonic()
        self._model.train()
        if self._owes_check(len(order), check_every) and not self._check(on_check):
            return False
        hidden = self._quiet or self._fabric.global_rank > 0
        with tqdm(
            desc=f"epoch {self._at.epoch + 1}/{math.ceil(self._n_steps / self._steps_per_epoch)}",
            total=len(order),
            initial=self._at.batch,
            unit="batch",
            disable=True if hidden else None,
        ) as bar:
            for share in self._feed.shares(order[self._at.batch :], self._at.epoch):
                last = self._at.batch + 1 == len(order)
                due = time.monotonic() - saved_at > self._spec.trainer.save_every_s
                stop, due = self._train_batch(share, last=last, due=due)
                bar.update()
                bar.set_postfix(loss=f"{self._at.loss_sum / self._at.batch:.3f}", refresh=False)
                if last or self._at.batch % check_every == 0:
                    if self._spec.validation_ds.file or self._objective is not SPANS:
                        self._keeper.save(self._at)
                        saved_at = time.monotonic()
                    if not self._check(on_check):
                        return False
                if (stop or due) and not last and self._at.batch % self._accumulate == 0:
                    self._keeper.save(self._at)
                    saved_at = time.monotonic()
                    if stop:
                        return False
        return True

    def _owes_check(self, n_batches: int, check_every: int) -> bool:
        """Whether the run was interrupted in a check, or just before it."""
        due = self._at.batch > 0 and (self._at.batch == n_batches or self._at.batch % check_every == 0)
        return due and all(entry.get("step") != self._step() for entry in self.log)

    def _check(self, on_check: OnCheck) -> bool:
        """Validate; False where that was stopped, or where the run stops early after it."""
        progress = Progress(
            epoch=self._at.epoch + 1,
            step=self._step(),
            n_steps=self._n_steps,
            loss=self._at.loss_sum / self._at.batch,
            lr=self._update.lr,
        )
        entry = on_check(progress)
        self._model.train()
        if entry is None:
            return False
        reason = self._stops_early(entry)
        self.remember({**entry, "stopped_early": reason} if reason else entry)
        if reason and self._fabric.global_rank == 0:
            tell(f"stopping early after step {progress.step:,} of {self._n_steps:,}: {reason}")
        return not reason

    def _train_batch(self, share: AnyShare, *, last: bool, due: bool) -> tuple[bool, bool]:
        """Train on one batch; says whether any process was asked to stop, and whether the first wants to save."""
        step_now = last or (self._at.batch + 1) % self._accumulate == 0
        with self._fabric.no_backward_sync(self._model, enabled=not step_now):
            loss = self._objective.loss(self._model, share) * share.weight
            # Gradients are averaged over processes; the mean over the global batch is the sum of the shares.
            self._fabric.backward(loss * self._fabric.world_size / self._accumulate)
        told = torch.tensor([float(loss.detach()), share.weight, self._stop, due and self._fabric.global_rank == 0])
        if self._fabric.world_size > 1:
            told = self._fabric.all_reduce(told.to(self._fabric.device), reduce_op="sum")  # type: ignore[assignment]
        value, weight, stop, save = told.tolist()
        if not math.isfinite(value):
            raise RunError(
                f"the loss is {value / weight} in epoch {self._at.epoch + 1}, batch {self._at.batch + 1}: lower "
                "optim.lr, or set trainer.gradient_clip_val=1.0"
            )
        self._at.loss_sum += value
        self._at.batch += 1
        if step_now:
            lr = self._update.apply(self._step())
            if self._log and self._step() % self._spec.trainer.log_every_n_steps == 0:
                self._log.write(step=self._step(), epoch=self._at.epoch + 1, loss=round(value / weight, 6), lr=lr)
        return stop > 0, save > 0


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value
