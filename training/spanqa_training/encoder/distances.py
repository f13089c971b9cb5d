"""What attention is told of the distance between two tokens: a bias of their score, or an embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spanqa_training.encoder.config import EncoderConfig

Relative = Tensor | tuple[Tensor, Tensor] | None
"""What layers are told of distances: a bias, or embeddings and their rows, or nothing."""


class Distances(nn.Module):
    """The row of a table for every pair of tokens, by their distance.

    Args:
        rows: `int64 (max_positions, max_positions)`.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        # No buffer: it follows from the architecture, and is real where the weights are still without content.
        self._rows = rows

    def rows(self, length: int, device: torch.device) -> Tensor:
        """Give the rows for windows of a length, `int64 (length, length)`."""
        if self._rows.device != device:
            self._rows = self._rows.to(device)
        return self._rows[:length, :length]


class DistanceBias(Distances):
    """A learned bias for each head and distance, the same in all layers (MPNet's and T5's)."""

    def __init__(self, config: EncoderConfig) -> None:
        buckets, distance = config.relative_buckets or 0, config.relative_distance or 0
        super().__init__(bias_buckets(_distances(config.max_positions), buckets, distance))
        self.bias = nn.Embedding(buckets, config.num_heads)

    def forward(self, length: int) -> Tensor:
        """Give what is added to the scores, `(1, num_heads, length, length)`."""
        return self.bias(self.rows(length, self.bias.weight.device)).permute(2, 0, 1)[None]


class DistanceEmbeddings(Distances):
    """A normalised embedding for each distance, which every layer projects for itself (DeBERTa's)."""

    def __init__(self, config: EncoderConfig) -> None:
        span, distance = config.relative_buckets or 0, config.relative_distance or 0
        buckets = embedding_buckets(_distances(config.max_positions), span, distance)
        super().__init__((buckets + span).clamp(0, 2 * span - 1))
        self.table = nn.Embedding(2 * span, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Give the embeddings, `(2 * relative_buckets, hidden_size)`, and the row of each pair of query and key."""
        weight = self.table.weight
        return self.norm(weight), self.rows(length, weight.device)


def _distances(max_positions: int) -> Tensor:
    """The query's position minus the key's, for every pair."""
    positions = torch.arange(max_positions, device="cpu")
    return positions[:, None] - positions[None, :]


def bias_buckets(distances: Tensor, buckets: int, farthest: int) -> Tensor:
    """Sort distances into buckets, near ones alone and far ones by their logarithm, each direction for itself.

    Rule and constants are those of T5 (`relative_position_bucket` of its reference code), which MPNet took over.

    Args:
        distances: int64 of any shape: the query's position minus the key's.
        buckets: How many there are.
        farthest: The distance from which all share the last bucket.

    Returns:
        int64 of the same shape, from 0.
    """
    half = buckets // 2
    single = half // 2
    sizes = distances.abs()
    far = torch.log(sizes.float() / single) / math.log(farthest / single) * (half - single)
    far = (single + far.clamp(min=0).long()).clamp(max=half - 1)
    return torch.where(sizes < single, sizes, far) + half * (distances < 0)


def embedding_buckets(distances: Tensor, span: int, farthest: int) -> Tensor:
    """Sort distances into buckets, those up to half of the span alone and others by their logarithm.

    Rule and constants are DeBERTa-v2's (`make_log_bucket_position` of its reference code).

    Args:
        distances: int64 of any shape: the query's position minus the key's.
        span: Buckets of each direction.
        farthest: The distance from which all share the last bucket.

    Returns:
        int64 of the same shape, from -span to span.
    """
    middle = span // 2
    sizes = distances.abs().clamp(min=middle)
    scale = torch.log(torch.tensor((farthest - 1) / middle, device=distances.device))
    far = torch.ceil(torch.log(sizes / middle) / scale * (middle - 1)) + middle
    return torch.where(distances.abs() <= middle, distances, (far * torch.sign(distances)).long())
