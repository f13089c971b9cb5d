"""DeBERTa's disentangled attention: scores from what two tokens hold, and from what each makes of their distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from spanqa_training.encoder.attention import SelfAttention
from spanqa_training.encoder.config import EncoderConfig
from spanqa_training.encoder.dropout import dropout

_N_TERMS = 3
"""Content to content, content to position and position to content: scores are scaled by the root of head size * 3."""


class DisentangledAttention(SelfAttention):
    """Multi-head self-attention whose scores have three terms (He et al. 2020, https://arxiv.org/abs/2006.03654).

    Embeddings of distances are projected by the weights that project tokens, as DeBERTa-v2 and v3 do.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self._projected: tuple[Tensor, Tensor] | None = None

    def take_dropout(self, config: EncoderConfig) -> None:
        """Drop as a configuration says from now on."""
        super().take_dropout(config)
        self.distance_dropout = config.dropout

    def forward(  # type: ignore[override]
        self, hidden: Tensor, mask: Tensor, attention: str, relative: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Mix the token states.

        Args:
            hidden: `(batch, length, hidden_size)`.
            mask: `(batch, 1, 1, length)` float, added to the scores: 0 for tokens, `MASKED_SCORE` for padding.
            attention: "eager" or "sdpa".
            relative: Embeddings of distances, `(n_distances, hidden_size)`, and the row of each pair of query and key,
                `int64 (length, length)`.

        Returns:
            `(batch, length, hidden_size)`.
        """
        embeddings, rows = relative
        query = self.heads(self.query(hidden))
        key = self.heads(self.key(hidden))
        value = self.heads(self.value(hidden))
        far_query, far_key = self._projected or self._projections(embeddings)
        scale = math.sqrt(self.head_size * _N_TERMS)
        rows = rows.expand(query.shape[0], self.num_heads, rows.shape[0], rows.shape[1])
        # Scaled before the products, which float16 could not hold else.
        to_position = torch.matmul(query / scale, far_key.transpose(-1, -2)).gather(-1, rows)
        # The distance from a key to a query is that from the query to the key, turned round: the rows transposed.
        to_content = torch.matmul(key / scale, far_query.transpose(-1, -2)).gather(-1, rows.transpose(-1, -2))
        bias = to_position + to_content.transpose(-1, -2)
        if attention == "sdpa":
            probability = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias + mask.to(bias.dtype), dropout_p=probability, scale=1 / scale
            )
        else:
            mixed = self.mixed(torch.matmul(query / scale, key.transpose(-1, -2)), value, mask, bias)
        return self.joined(mixed, hidden)

    def keep_projections(self, embeddings: Tensor) -> None:
        """Project the distances once and for all, for a network whose weights change no more."""
        with torch.no_grad():
            self._projected = self._projections(embeddings)

    def _projections(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Give the distances as queries and as keys, each `(num_heads, n_distances, head_size)`."""
        embeddings = dropout(embeddings, self.distance_dropout, self.training)
        query, key = self.query(embeddings), self.key(embeddings)
        return self.heads(query[None])[0], self.heads(key[None])[0]
