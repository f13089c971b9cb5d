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


def make_optimizer(
    model: nn.Module, name: str, *, lr: float, betas: tuple[float, ...], weight_decay: float
) -> torch.optim.Optimizer:
    """Make an optimiser over a model's parameters; biases and norms are not decayed (Devlin et al. 2018's code).

    Args:
        model: The model; what of it needs no gradient is left alone.
        name: One of OPTIMIZERS.
        lr: Highest learning rate.
        betas: Used by the Adam family.
        weight_decay: Of the weight matrices.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    plain = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    options: dict[str, Any] = {"lr": lr}
    if name in WITH_BETAS:
        options["betas"] = betas
    return OPTIMIZERS[name](groups, **options)
