"""Saving and resuming a run on one or several processes: called by all of them, written by the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import RunError
from spanqa_training.run.allocator import give_back_idle_memory
from spanqa_training.run.state import RunState, load_state, restore_rng, rng_state, save_state


@dataclass(slots=True, kw_only=True)
class Cursor:
    """Where a run is.

    Args:
        epoch: Current epoch, from 0.
        batch: Batches of it that are done.
        loss_sum: Sum of the losses of this epoch's batches.
        log: What each validation gave.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Keeps the state of one run.

    Args:
        fabric: The process's Fabric.
        model: The model, set up.
        optimizer: Its optimiser, set up.
        spec: The resolved spec as YAML; a run resumes only under the same.
        origin: What it started from, as in `RunState`; a run resumes only on the same.
        folder: Where the state lies.
        key: Encrypts it; None without.
    """

    fabric: Fabric
    model: nn.Module
    optimizer: torch.optim.Optimizer
    spec: str
    origin: dict[str, str]
    folder: Path
    key: Key | None

    def save(self, cursor: Cursor) -> None:
        """Save the state; every process calls it after the same step.

        Raises:
            RunError: It cannot be written.
        """
        n_processes = self.fabric.world_size
        # Every process draws its own dropout.
        rng: list[list[torch.Tensor]] = [[] for _ in range(n_processes)]
        if n_processes > 1:
            torch.distributed.all_gather_object(rng, rng_state())
        else:
            rng = [rng_state()]
        if self.fabric.global_rank == 0:
            scaler = self._scaler()
            state = RunState(
                spec=self.spec,
                origin=self.origin,
                world_size=n_processes,
                epoch=cursor.epoch,
                batch=cursor.batch,
                loss_sum=cursor.loss_sum,
                log=cursor.log,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                scaler=scaler.state_dict() if scaler else {},
                rng=rng,
            )
            save_state(state, self.folder, key=self.key)
        give_back_idle_memory()
        self.fabric.barrier()

    def restore(self) -> Cursor:
        """Restore an interrupted run; gives a fresh cursor where there is none.

        Raises:
            RunError: The state is damaged, or of a run with another spec, origin or number of processes.
            EncryptionError: The key is not the state's.
        """
        n_processes = self.fabric.world_size
        state = load_state(self.folder, self.spec, origin=self.origin, world_size=n_processes, key=self.key)
        self._check_same(state)
        if state is None:
            return Cursor()
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        scaler = self._scaler()
        if scaler and state.scaler:
            scaler.load_state_dict(state.scaler)
        restore_rng(state.rng[self.fabric.global_rank])
        return Cursor(epoch=state.epoch, batch=state.batch, loss_sum=state.loss_sum, log=list(state.log))

    def _check_same(self, state: RunState | None) -> None:
        """Refuse to go on where the processes, of several machines perhaps, do not read the same state."""
        if self.fabric.world_size == 1:
            return
        places: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(places, state and (state.epoch, state.batch, len(state.log)))
        if any(place != places[0] for place in places):
            raise RunError(f"{self.folder}: holds another state for each node: -r must be one folder that all share")

    def _scaler(self) -> Any:
        """The loss scaler of float16, which Fabric does not save."""
        return getattr(self.fabric.strategy.precision, "scaler", None)
