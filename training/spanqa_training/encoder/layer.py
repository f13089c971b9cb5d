"""One transformer layer: self-attention and feed-forward, each with a residual connection."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from spanqa_training.encoder.attention import SelfAttention
from spanqa_training.encoder.config import EncoderConfig
from spanqa_training.encoder.disentangled import DisentangledAttention
from spanqa_training.encoder.distances import Relative
from spanqa_training.encoder.dropout import Dropout


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.layer_norm == "pre"
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        disentangled = config.position_scheme == "disentangled"
        self.attention = DisentangledAttention(config) if disentangled else SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, mask: Tensor, attention: str, relative: Relative = None) -> Tensor:
        """Transform `(batch, length, hidden_size)`; the others as its attention takes them."""
        if self.pre_norm:
            hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), mask, attention, relative))
            return hidden + self._feed_forward(self.feed_forward_norm(hidden))
        hidden = self.attention_norm(self.dropout(self.attention(hidden, mask, attention, relative)) + hidden)
        return self.feed_forward_norm(self._feed_forward(hidden) + hidden)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.contract(functional.gelu(self.expand(hidden), approximate=self.approximate)))
