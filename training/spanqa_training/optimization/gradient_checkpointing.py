"""Gradient checkpointing: layers that are computed again in the backward pass (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spanqa_training.model import Layer


def checkpoint_layers(model: nn.Module) -> int:
    """Keep of every transformer layer its input alone for the backward pass, which computes the rest of it again.

    The gradients are the same to the last bit: dropout draws again what it drew before. Weights and their names stay as
    they are, and without gradients nothing changes.

    Args:
        model: A model with layers of `spanqa_training.model` in it; changed in place.

    Returns:
        How many layers.
    """
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    for layer in layers:
        vars(layer)["forward"] = _Recomputed(layer, layer.forward)  # of this layer alone, before its class's
    return len(layers)


class _Recomputed:
    """The forward pass of a layer, which runs a second time where gradients are wanted."""

    def __init__(self, layer: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
        self.layer, self.forward = layer, forward

    def __call__(self, *arguments: Any) -> torch.Tensor:
        if not (self.layer.training and torch.is_grad_enabled()):
            return self.forward(*arguments)
        states: torch.Tensor = checkpoint(self.forward, *arguments, use_reentrant=False)
        return states
