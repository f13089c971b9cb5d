"""Self-attention as BERT has it, with a bias by distance where a family adds one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from spanqa_training.encoder.config import EncoderConfig
from spanqa_training.encoder.cpu_attention import attention_on_cpu
from spanqa_training.encoder.dropout import dropout

MASKED_SCORE = -10_000.0
"""Added to the scores of padded keys: finite, so that no row becomes NaN, and within float16 (BERT's own constant)."""


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate query, key and value projections.

    Separate, because ONNX Runtime's fusion recognises attention only so.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.head_size = size // config.num_heads
        self.take_dropout(config)
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def take_dropout(self, config: EncoderConfig) -> None:
        """Drop as a configuration says from now on."""
        self.dropout = config.attention_dropout

    def forward(self, hidden: Tensor, mask: Tensor, attention: str, bias: Tensor | None = None) -> Tensor:
        """Mix the token states.

        Args:
            hidden: `(batch, length, hidden_size)`.
            mask: `(batch, 1, 1, length)` float, added to the scores: 0 for tokens, `MASKED_SCORE` for padding.
            attention: "eager" or "sdpa".
            bias: `(1, num_heads, length, length)` float, added to the scores.

        Returns:
            `(batch, length, hidden_size)`.
        """
        query = self.heads(self.query(hidden))
        key = self.heads(self.key(hidden))
        value = self.heads(self.value(hidden))
        probability = self.dropout if self.training else 0.0
        if attention == "sdpa" and bias is None and self.training and hidden.device.type == "cpu":
            mixed = attention_on_cpu(query, key, value, mask.to(query.dtype), probability)
        elif attention == "sdpa":
            added = mask if bias is None else mask + bias
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=added.to(query.dtype), dropout_p=probability
            )
        else:
            scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size)
            mixed = self.mixed(scores, value, mask, bias)
        return self.joined(mixed, hidden)

    def mixed(self, scores: Tensor, value: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Mix values by their scores, in plain operators."""
        # Softmax in float32 whatever the weights are; float32 is not cast, so that no Cast is exported.
        scores = scores if scores.dtype == torch.float32 else scores.float()
        if bias is not None:
            scores = scores + (bias if bias.dtype == torch.float32 else bias.float())
        probabilities = torch.softmax(scores + mask, dim=-1)
        probabilities = dropout(probabilities, self.dropout, self.training)
        return torch.matmul(probabilities if value.dtype == torch.float32 else probabilities.to(value.dtype), value)

    def heads(self, states: Tensor) -> Tensor:
        """Cut `(batch, length, hidden_size)` into heads, `(batch, num_heads, length, head_size)`."""
        return states.view(states.shape[0], states.shape[1], self.num_heads, self.head_size).transpose(1, 2)

    def joined(self, mixed: Tensor, hidden: Tensor) -> Tensor:
        """Put heads together again, and project them; the sizes are those of the states that were mixed."""
        mixed = mixed.transpose(1, 2).reshape(hidden.shape[0], hidden.shape[1], self.num_heads * self.head_size)
        return self.output(mixed)
