"""The optimisers that a spec can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
WITH_BETAS = ("adamw", "adam", "adamax")
_FUSED = ("adamw", "adam")
_FUSED_ON = ("cpu", "cuda")
_SCALES = "_step_supports_amp_scaling"
"""By it `torch.amp.GradScaler` knows an optimiser that takes the scale out of the gradients itself."""


def make_optimizer(
    model: nn.Module, name: str, *, lr: float, betas: tuple[float, ...], weight_decay: float, fused: bool = False
) -> torch.optim.Optimizer:
    """Make an optimiser over a model's parameters; biases and norms are not decayed (Devlin et al. 2018's code).

    Args:
        model: The model; what of it needs no gradient is left alone.
        name: One of OPTIMIZERS.
        lr: Highest learning rate.
        betas: Used by the Adam family.
        weight_decay: Of the weight matrices.
        fused: Whether one kernel updates a tensor: the same to float rounding, in less time.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    plain = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    options: dict[str, Any] = {"lr": lr}
    if name in WITH_BETAS:
        options["betas"] = betas
    if fused:
        options["fused"] = True
    return OPTIMIZERS[name](groups, **options)


def can_fuse(name: str, device: torch.device, *, clips_scaled: bool) -> bool:
    """Say whether torch has a fused kernel of an optimiser for a device.

    Args:
        name: One of OPTIMIZERS.
        device: Where the parameters lie.
        clips_scaled: Whether gradients of a scaled loss are clipped. A fused optimiser takes the scale out of them
            itself, after they were to be clipped.
    """
    return name in _FUSED and device.type in _FUSED_ON and not clips_scaled


def keep_restored_kernel(optimizer: torch.optim.Optimizer) -> None:
    """Tell the loss scaler whether a restored optimiser is fused: one saved without it goes on without."""
    if not all(group.get("fused") for group in optimizer.param_groups) and hasattr(optimizer, _SCALES):
        setattr(optimizer, _SCALES, False)
