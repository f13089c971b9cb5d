"""What is trained and how it is updated: clipping, the rate of each step, the update, the watch over the loss scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from spanqa_training.optimization.gradient_checkpointing import checkpoint_layers
from spanqa_training.optimization.loss_scale import OverflowWatch
from spanqa_training.optimization.optimizers import can_fuse, keep_restored_kernel, make_optimizer
from spanqa_training.optimization.schedules import Schedule
from spanqa_training.spec.schema import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerStep:
    """Applies the gradients that were summed.

    Args:
        fabric: The process's Fabric.
        model: The model, set up.
        optimizer: Its optimiser, set up.
        schedule: The learning rate of each step.
        clip: Largest global norm of the gradients; 0 does not clip.
        watch: Counts overflows.
    """

    fabric: Fabric
    model: Any  # wrapped by Fabric
    optimizer: Any
    schedule: Schedule
    clip: float
    watch: OverflowWatch

    @classmethod
    def of_model(cls, fabric: Fabric, model: nn.Module, spec: Spec, *, n_steps: int) -> OptimizerStep:
        """Set a model up to be trained as a spec says.

        Args:
            fabric: The process's Fabric, launched.
            model: The model, changed in place; it has a `config`.
            spec: The run's spec.
            n_steps: Steps of the whole run.
        """
        optim, clip, scaler = spec.optim, spec.trainer.gradient_clip_val, loss_scaler(fabric)
        if spec.trainer.gradient_checkpointing:
            checkpoint_layers(model)
        made = make_optimizer(
            model,
            optim.name,
            lr=optim.lr,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=can_fuse(optim.name, fabric.device, clips_scaled=bool(clip) and scaler is not None),
        )
        ready, optimizer = fabric.setup(model, made)
        config: Any = model.config
        schedule = Schedule(spec=optim.sched, lr=optim.lr, n_steps=n_steps, width=config.hidden_size)
        return cls(
            fabric=fabric, model=ready, optimizer=optimizer, schedule=schedule, clip=clip, watch=OverflowWatch(scaler)
        )

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def restored(self) -> None:
        """Take over what a restored state says of the optimiser."""
        made: torch.optim.Optimizer = self.optimizer.optimizer
        keep_restored_kernel(made)

    def apply(self, step: int) -> float:
        """Do a step.

        Args:
            step: Its number, from 1.

        Returns:
            Its learning rate.

        Raises:
            RunError: Gradients overflow in one step after another.
        """
        if self.clip:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.clip, error_if_nonfinite=False)
        lr = self.schedule.at(step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.watch.before_step()
        self.optimizer.step()
        self.watch.after_step(step)
        self.optimizer.zero_grad()
        return lr


def loss_scaler(fabric: Fabric) -> Any:
    """Give the loss scaler of float16, which Fabric does not save; None in other precisions."""
    return getattr(fabric.strategy.precision, "scaler", None)
