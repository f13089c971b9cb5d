"""Attention of a training step on a CPU: torch's fused kernel is slow backwards there, its plain one slow to drop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spanqa_training.encoder.dropout import LEVELS, dropped_levels, kept

_TOKENS_AT_ONCE = 1_000
"""Rows are computed in groups of so many tokens: their scores stay in a core's cache."""


def attention_on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) with gradients, for a step of training.

    Args:
        query: `(batch, heads, length, head_size)`, float.
        key: Same.
        value: Same.
        mask: `(batch, 1, 1, length)` or `(batch, heads, length, length)`, of their dtype, added to the scores.
        dropout: Share of the attention that is dropped, as `dropout.dropout` drops.

    Returns:
        As `query`. The gradient of `mask` is not computed.
    """
    with torch.autocast("cpu", enabled=False):
        scaled = query * query.shape[-1] ** -0.5
        mixed: Tensor = _Attention.apply(scaled, key, value, mask, dropout)
    return mixed


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
        n_dropped = dropped_levels(dropout)
        ctx.scale = LEVELS / (LEVELS - n_dropped)
        ctx.group = max(1, _TOKENS_AT_ONCE // query.shape[2])
        mixed = torch.empty_like(query)
        saved = []
        for low in range(0, len(query), ctx.group):
            part = slice(low, low + ctx.group)
            probabilities = torch.softmax(query[part] @ key[part].transpose(-1, -2) + mask[part], dim=-1)
            keep = kept(probabilities.shape, n_dropped) if n_dropped else None
            saved += [probabilities, keep]
            dropped = probabilities if keep is None else probabilities * keep
            torch.matmul(dropped, value[part], out=mixed[part])
        if n_dropped:
            mixed *= ctx.scale
        ctx.save_for_backward(query, key, value, mixed, *saved)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (of_mixed,) = gradients
        query, key, value, mixed, *saved = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        # The row sums of the softmax's gradient, without its matrix (Dao et al. 2022, arXiv:2205.14135, appendix B.4).
        exact = torch.promote_types(query.dtype, torch.float32)
        sums = (of_mixed.to(exact) * mixed.to(exact)).sum(-1, keepdim=True).to(query.dtype)
        of_mixed = of_mixed * ctx.scale
        for number, low in enumerate(range(0, len(query), ctx.group)):
            part = slice(low, low + ctx.group)
            probabilities, keep = saved[2 * number : 2 * number + 2]
            dropped = probabilities if keep is None else probabilities * keep
            torch.matmul(dropped.transpose(-1, -2), of_mixed[part], out=of_value[part])
            of_scores = of_mixed[part] @ value[part].transpose(-1, -2)
            if keep is not None:
                of_scores *= keep
            of_scores -= sums[part]
            of_scores *= probabilities
            torch.matmul(of_scores, key[part], out=of_query[part])
            torch.matmul(of_scores.transpose(-1, -2), query[part], out=of_key[part])
        return of_query, of_key, of_value, None, None
