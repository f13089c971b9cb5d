"""The training loop: Fabric, AdamW, warm-up and decay, resumable at any batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.nn import functional
from tqdm import tqdm

from spanqa_training.data import LabelledBatch, LabelledWindow, batch_order, batches
from spanqa_training.errors import RunError
from spanqa_training.model import SpanModel
from spanqa_training.spec import PRECISIONS, OptimSpec, ScheduleSpec, Spec
from spanqa_training.spec_file import spec_yaml
from spanqa_training.state import RunState, load_state, restore_rng, rng_state, save_state


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnd:
    """What an epoch came to.

    Args:
        epoch: Counted from 1.
        loss: Mean loss of its batches.
        windows: Windows seen in it.
    """

    epoch: int
    loss: float
    windows: int


def learning_rate_factor(step: int, n_steps: int, schedule: ScheduleSpec) -> float:
    """Share of the highest learning rate at a step, counted from 0.

    A linear warm-up over warmup_ratio of the steps, then a decay to zero at the last: linear (BERT's schedule,
    called WarmupAnnealing in NeMo) or along half a cosine (Loshchilov and Hutter 2017).
    """
    n_warmup = math.ceil(schedule.warmup_ratio * n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    return (1 + math.cos(math.pi * progress)) / 2 if schedule.name == "CosineAnnealing" else 1 - progress


def span_loss(start_logits: torch.Tensor, end_logits: torch.Tensor, batch: LabelledBatch) -> torch.Tensor:
    """Mean of the cross-entropies of start and end over all positions (Devlin et al. 2018, section 4.2)."""
    starts = torch.from_numpy(batch.starts).to(start_logits.device)
    ends = torch.from_numpy(batch.ends).to(end_logits.device)
    mask = torch.from_numpy(batch.inputs.attention_mask).to(start_logits.device) == 0
    start_logits = start_logits.masked_fill(mask, float("-inf"))
    end_logits = end_logits.masked_fill(mask, float("-inf"))
    return (functional.cross_entropy(start_logits, starts) + functional.cross_entropy(end_logits, ends)) / 2


def _optimizer(model: SpanModel, spec: OptimSpec) -> torch.optim.AdamW:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=(spec.betas[0], spec.betas[1]))


class Trainer:
    """One training run.

    Args:
        model: The model to train, in place.
        windows: The labelled windows.
        spec: The run's spec.
        state_folder: Where the run's state is kept; an interrupted run there is resumed.
        quiet: Whether to hide the progress bar.

    Raises:
        RunError: If the folder holds a run with another spec.
    """

    def __init__(
        self,
        model: SpanModel,
        windows: Sequence[LabelledWindow],
        spec: Spec,
        state_folder: Path,
        *,
        quiet: bool = False,
    ) -> None:
        state_folder.mkdir(parents=True, exist_ok=True)
        self._spec, self._windows, self._folder, self._quiet = spec, windows, state_folder, quiet
        self._lengths = [window.seq_length for window in windows]
        # One process: several GPUs are a matter of Fabric's launcher, which needs the whole command.
        self._fabric = Fabric(devices=1, precision=PRECISIONS[spec.trainer.precision])  # type: ignore[arg-type]
        self._fabric.seed_everything(spec.trainer.seed, verbose=False)
        optimizer = _optimizer(model, spec.optim)
        self._model, self._optimizer = self._fabric.setup(model, optimizer)
        per_epoch = len(self._order(0))
        self._accumulate = spec.trainer.accumulate_grad_batches
        self._steps_per_epoch = math.ceil(per_epoch / self._accumulate)
        self._epoch, self._batch, self._loss_sum = 0, 0, 0.0
        self._stop = False
        state = load_state(state_folder, spec_yaml(spec))
        if state:
            self._restore(state)

    @property
    def resumed_at(self) -> tuple[int, int]:
        """Epoch and batch that the run starts from: (0, 0) for a fresh one."""
        return self._epoch, self._batch

    def stop(self) -> None:
        """Ask the run to save its state and end after the current optimiser step; safe in a signal handler."""
        self._stop = True

    def run(self, on_epoch: Callable[[EpochEnd], None]) -> bool:
        """Train to the end.

        Args:
            on_epoch: Called after each epoch.

        Returns:
            True when all epochs are done, False when `stop` was asked; the state is saved in both cases.

        Raises:
            RunError: If the loss is not finite.
        """
        for epoch in range(self._epoch, self._spec.trainer.max_epochs):
            if not self._run_epoch(epoch):
                return False
            on_epoch(
                EpochEnd(epoch=epoch + 1, loss=self._loss_sum / len(self._order(epoch)), windows=len(self._windows))
            )
            self._epoch, self._batch, self._loss_sum = epoch + 1, 0, 0.0
            self._save()
        return True

    def _order(self, epoch: int) -> list[list[int]]:
        data = self._spec.training_ds
        return batch_order(
            self._lengths, data.batch_size, seed=self._spec.trainer.seed, epoch=epoch, shuffle=data.shuffle
        )

    def _run_epoch(self, epoch: int) -> bool:
        order = self._order(epoch)
        self._model.train()
        saved_at = time.monotonic()
        with tqdm(
            desc=f"epoch {epoch + 1}/{self._spec.trainer.max_epochs}",
            total=len(order),
            initial=self._batch,
            unit="batch",
            disable=True if self._quiet else None,
        ) as bar:
            for batch in batches(self._windows, order[self._batch :]):
                loss = self._train_batch(batch, epoch, last=self._batch + 1 == len(order))
                self._loss_sum += loss
                self._batch += 1
                bar.update()
                bar.set_postfix(loss=f"{self._loss_sum / self._batch:.3f}", refresh=False)
                if self._batch % self._accumulate:
                    continue
                due = time.monotonic() - saved_at > self._spec.trainer.save_every_s
                if (self._stop or due) and self._batch < len(order):
                    self._save()
                    saved_at = time.monotonic()
                    if self._stop:
                        return False
        return True

    def _train_batch(self, batch: LabelledBatch, epoch: int, *, last: bool) -> float:
        step_now = last or (self._batch + 1) % self._accumulate == 0
        tensors = [
            torch.from_numpy(array).to(self._fabric.device)
            for array in (batch.inputs.input_ids, batch.inputs.attention_mask, batch.inputs.token_type_ids)
        ]
        start_logits, end_logits = self._model(*tensors)
        loss = span_loss(start_logits, end_logits, batch) / self._accumulate
        self._fabric.backward(loss)
        value = float(loss.detach()) * self._accumulate
        if not math.isfinite(value):
            raise RunError(
                f"the loss is {value} in epoch {epoch + 1}, batch {self._batch + 1}: lower optim.lr, or set "
                "trainer.gradient_clip_val=1.0"
            )
        if step_now:
            self._optimizer_step(epoch * self._steps_per_epoch + self._batch // self._accumulate)
        return value

    def _optimizer_step(self, step: int) -> None:
        spec = self._spec
        if spec.trainer.gradient_clip_val:
            self._fabric.clip_gradients(
                self._model, self._optimizer, max_norm=spec.trainer.gradient_clip_val, error_if_nonfinite=False
            )
        factor = learning_rate_factor(step, self._steps_per_epoch * spec.trainer.max_epochs, spec.optim.sched)
        for group in self._optimizer.param_groups:
            group["lr"] = spec.optim.lr * factor
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _scaler(self) -> Any:
        return getattr(self._fabric.strategy.precision, "scaler", None)

    def _save(self) -> None:
        scaler = self._scaler()
        save_state(
            RunState(
                spec=spec_yaml(self._spec),
                epoch=self._epoch,
                batch=self._batch,
                loss_sum=self._loss_sum,
                model=self._model.state_dict(),
                optimizer=self._optimizer.state_dict(),
                scaler=scaler.state_dict() if scaler else {},
                rng=rng_state(),
            ),
            self._folder,
        )

    def _restore(self, state: RunState) -> None:
        self._model.load_state_dict(state.model)
        self._optimizer.load_state_dict(state.optimizer)
        scaler = self._scaler()
        if scaler and state.scaler:
            scaler.load_state_dict(state.scaler)
        self._epoch, self._batch, self._loss_sum = state.epoch, state.batch, state.loss_sum
        restore_rng(state.rng)
