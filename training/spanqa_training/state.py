"""The state that an interrupted training run resumes from: all that decides what comes next."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spanqa_training.errors import RunError

STATE_FILE = "state.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run after some batches.

    Args:
        spec: The resolved spec as YAML; a run resumes only under the same.
        epoch: Current epoch, from 0.
        batch: Batches of it that are done.
        loss_sum: Sum of the losses of this epoch's batches.
        model: The model's tensors.
        optimizer: The optimiser's state.
        scaler: The loss scaler's state; empty without one.
        rng: State of torch's CPU generator, then of each CUDA device's.
    """

    spec: str
    epoch: int
    batch: int
    loss_sum: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    rng: list[torch.Tensor]


def rng_state() -> list[torch.Tensor]:
    """State of every random generator that training draws from."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def restore_rng(state: list[torch.Tensor]) -> None:
    """Set the generators back to a saved state."""
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state[1:])


def save_state(state: RunState, folder: Path) -> None:
    """Write a state atomically: an interruption leaves the old one or the new one."""
    temporary = folder / f".{STATE_FILE}.new"
    try:
        with open(temporary, "wb") as file:
            torch.save({name: getattr(state, name) for name in RunState.__slots__}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / STATE_FILE)
    except OSError as error:
        raise RunError(f"{folder / STATE_FILE}: cannot be written: {error}") from error


def load_state(folder: Path, spec: str) -> RunState | None:
    """Read the state of an interrupted run; None where there is none.

    Raises:
        RunError: If it is damaged, or belongs to a run with another spec.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = RunState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for damaged files
        raise RunError(f"{path}: cannot be read ({error}): delete it to start again") from error
    if state.spec != spec:
        raise RunError(
            f"{path}: is of a run with another spec: use another results folder, or delete it to start again"
        )
    return state
