"""The activation scan for the network in torch, whose every module computes in one precision."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spanqa.windows import Batch
from spanqa_build.activation_scan import LIMIT, ActivationScan
from spanqa_build.errors import PrecisionError
from spanqa_training.model import Layer, SpanModel


def scan_modules(model: SpanModel, batches: Iterable[Batch], *, limit: float = LIMIT) -> ActivationScan:
    """Measure what modules read and give on real windows, in float32 arithmetic.

    Every sum of the network is read by a layer norm or given by a layer. What lies inside the fused attention is no
    larger than the values that it mixes, or is kept in float32 there: its scores.

    Args:
        model: The model; it is left as it is.
        batches: Real windows; padding counts too, since its states are computed like the others.
        limit: Largest magnitude trusted to float16.

    Raises:
        PrecisionError: There are no windows, or the network is not finite even in float32.
    """
    largest: dict[str, float] = {}
    n_windows = 0
    scanned = copy.deepcopy(model).to("cpu", torch.float32).eval()
    with _recorded(scanned, largest), torch.inference_mode():
        for batch in batches:
            n_windows += len(batch.input_ids)
            arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            logits = scanned(*map(torch.from_numpy, arrays))
            if not all(torch.isfinite(one).all() for one in logits):
                raise PrecisionError(
                    "the network's activations are not finite even in float32: its weights are broken; use another"
                    " checkpoint"
                )
    if not n_windows:
        raise PrecisionError("no windows to scan the network's activations on: give some real questions")
    return ActivationScan(n_windows=n_windows, limit=limit, largest=largest)


@contextmanager
def _recorded(model: SpanModel, largest: dict[str, float]) -> Iterator[None]:
    """Keep the largest magnitude of what modules give, by their name, and of what layer norms read."""

    def note(name: str, value: Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(value.abs().max()))

    def after(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        note(name, output)

    def before(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        note(f"{name}.input", inputs[0])

    handles = []
    for name, module in model.named_modules():
        if name == "head":  # in float32, as its logits are
            continue
        if isinstance(module, Layer) or not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(partial(after, name)))
        if isinstance(module, nn.LayerNorm):
            handles.append(module.register_forward_pre_hook(partial(before, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
