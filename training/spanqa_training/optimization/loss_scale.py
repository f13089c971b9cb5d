"""The watch over float16's loss scaling: an overflow now and then is part of it, one after another is not."""

from __future__ import annotations

from typing import Protocol

from spanqa_training.errors import RunError

MOST_OVERFLOWS = 25
"""Steps in a row. torch's scale begins at 2 ** 16 and halves with each: it is then below 1, and no scale would help."""


class Scaler(Protocol):
    """What of `torch.amp.GradScaler` is looked at."""

    def get_scale(self) -> float:
        """Give the factor of the loss."""


class OverflowWatch:
    """Counts the steps whose gradients overflowed one after another; the scaler left them out.

    Args:
        scaler: The loss scaler; None where the loss is not scaled.
    """

    def __init__(self, scaler: Scaler | None) -> None:
        self._scaler = scaler
        self._in_a_row = 0
        self._scale = scaler.get_scale() if scaler else 0.0

    def before_step(self) -> None:
        """Note the scale that the step's gradients have; a resumed run has another than it began with."""
        if self._scaler:
            self._scale = self._scaler.get_scale()

    def after_step(self, step: int) -> None:
        """Look whether the scaler halved its scale, as it does at an overflow.

        Args:
            step: Its number.

        Raises:
            RunError: The gradients of MOST_OVERFLOWS steps in a row overflowed.
        """
        if not self._scaler:
            return
        scale = self._scaler.get_scale()
        self._in_a_row = self._in_a_row + 1 if scale < self._scale else 0
        if self._in_a_row >= MOST_OVERFLOWS:
            raise RunError(
                f"the gradients of {self._in_a_row} steps in a row overflowed float16, up to step {step:,}, and the "
                f"loss scale fell to {scale:g}: set trainer.precision=bf16 (or 32), or lower optim.lr"
            )
