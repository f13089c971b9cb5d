"""Dropout that costs a CPU little: one random byte an element, from a stream that torch's own generator seeds.

torch draws a 64-bit number for every element on a CPU, in one thread: a quarter of a training step of a small encoder.
Masks are bytes of 0 and 1: torch multiplies bfloat16 with those in a fifth of the time that booleans take.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 256
"""A byte's values: on a CPU the share that is dropped is a multiple of 1/256, the nearest one to what is asked for."""


def dropped_levels(probability: float) -> int:
    """Give how many of a byte's 256 values drop an element; at least one where anything is to be dropped."""
    return min(LEVELS - 1, max(1, round(probability * LEVELS))) if probability > 0 else 0


def kept(shape: torch.Size, n_dropped: int) -> Tensor:
    """Draw which elements stay.

    Args:
        shape: Shape of the values.
        n_dropped: As `dropped_levels` gives it.

    Returns:
        uint8 of that shape: 1 stays, 0 is dropped. One number of torch's own generator seeds the draws (SFC64).
    """
    n_elements = shape.numel()
    stream = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
    draws = stream.random_raw((n_elements + 7) // 8).view(np.uint8)[:n_elements]
    return torch.from_numpy((draws >= n_dropped).view(np.uint8)).view(shape)


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, n_dropped: int) -> Tensor:
        mask = kept(values.shape, n_dropped)
        ctx.save_for_backward(mask)
        ctx.scale = LEVELS / (LEVELS - n_dropped)
        return (values * mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (mask,) = ctx.saved_tensors
        return (gradients[0] * mask).mul_(ctx.scale), None


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Set a random share of the values to zero and scale the rest, so that the mean stays (Srivastava et al. 2014).

    Args:
        values: Of any shape and floating dtype.
        probability: Share to drop, from 0 up to 1; on a CPU rounded to a multiple of 1/256.
        training: Whether anything is done.

    Returns:
        The same shape and dtype.
    """
    if not training or not probability:
        return values
    if values.device.type != "cpu":
        return functional.dropout(values, probability, training)
    result: Tensor = _ByteDropout.apply(values, dropped_levels(probability))
    return result


class Dropout(nn.Module):
    """`dropout` as a layer; it has no weights.

    Args:
        p: Share to drop, as in torch's own.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Drop and scale while training; give the values themselves otherwise."""
        return dropout(values, self.p, self.training)
