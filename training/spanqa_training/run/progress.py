"""What a training run tells its user and whoever validates it, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Args:
        epoch: Epochs begun, from 1.
        step: Steps of the optimiser that are done.
        n_steps: Steps of the whole run.
        loss: Mean loss of this epoch's batches.
        lr: Learning rate of the last step.
    """

    epoch: int
    step: int
    n_steps: int
    loss: float
    lr: float


OnCheck = Callable[[Progress], "dict[str, Any] | None"]
"""Validates in the middle or at the end of an epoch; gives what is to be remembered of it, as JSON values with the
`step`, or None where it was stopped before its end."""
