"""The network: a BERT encoder, pre-LN or post-LN, with a head that scores tokens as start and as end of the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from spanqa_training.errors import ModelError

ACTIVATIONS = ("gelu", "gelu_tanh")
LAYER_NORMS = ("pre", "post")
ATTENTIONS = ("eager", "sdpa")

MASKED_SCORE = -10_000.0
"""Added to the scores of padded keys: finite, so that no row becomes NaN, and within float16 (BERT's own constant)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The architecture of an encoder.

    The defaults are BERT base's (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    Args:
        vocab_size: Rows of the word embedding; at least the tokenizer's size.
        hidden_size: Width of the token states; a multiple of `num_heads`.
        num_layers: Transformer layers.
        num_heads: Attention heads of a layer.
        intermediate_size: Width of the feed-forward layer.
        max_positions: Learned positions: the longest window.
        type_vocab_size: Rows of the token type embedding: 0 marks the question, 1 the context.
        layer_norm_eps: Epsilon of every layer norm: 1e-12 in BERT, 1e-5 in Megatron-LM.
        activation: "gelu" (erf) or "gelu_tanh" (its tanh approximation).
        layer_norm: "post" (BERT: a norm on the embeddings and after each residual) or "pre" (Megatron-BERT: a norm
            before each block, none on the embeddings, one after the last layer).
        dropout: Dropout of embeddings and block outputs while training.
        attention_dropout: Dropout of attention probabilities while training.
        head_dropout: Dropout before the head while training.
        initializer_range: Standard deviation of fresh weights.

    Raises:
        ModelError: A value is impossible.
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"
    layer_norm: str = "post"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ModelError(f"{field.name} is {value!r}: give a whole number of at least 1")
            if field.type == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ModelError(f"{field.name} is {value!r}: give a number")
        if self.type_vocab_size < 2:
            raise ModelError(
                f"type_vocab_size is {self.type_vocab_size}: question and context need one type each, so at least 2"
            )
        if self.hidden_size % self.num_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}: change one of them"
            )
        for name, allowed in (("activation", ACTIVATIONS), ("layer_norm", LAYER_NORMS)):
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(allowed)}")
        for name in ("dropout", "attention_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: give a number from 0 up to, not including, 1")
        for name in ("layer_norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: give a number between 0 and 1")


class Embeddings(nn.Module):
    """The sum of word, position and token type embeddings; normalised in the post-LN family."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        post = config.layer_norm == "post"
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if post else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Embed `(batch, length)` ids into `(batch, length, hidden_size)`."""
        # Positions are a slice of the table: no Range operator in the exported graph.
        positions = self.position.weight[: input_ids.shape[1]]
        # In this order the two sides of the last sum have one shape, and ONNX Runtime fuses the sum with the norm.
        return self.dropout(self.norm(self.word(input_ids) + (self.token_type(token_type_ids) + positions)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with separate query, key and value projections.

    Separate, because ONNX Runtime's fusion recognises attention only so.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.head_size = size // config.num_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(self, hidden: Tensor, mask: Tensor, attention: str) -> Tensor:
        """Mix the token states.

        Args:
            hidden: `(batch, length, hidden_size)`.
            mask: `(batch, 1, 1, length)` float, added to the scores: 0 for tokens, `MASKED_SCORE` for padding.
            attention: "eager" or "sdpa".

        Returns:
            `(batch, length, hidden_size)`.
        """
        query = self._heads(self.query(hidden))
        key = self._heads(self.key(hidden))
        value = self._heads(self.value(hidden))
        dropout = self.dropout if self.training else 0.0
        if attention == "sdpa":
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask.to(query.dtype), dropout_p=dropout
            )
        else:
            scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size)
            # Softmax in float32 whatever the weights are; float32 is not cast, so that no Cast is exported.
            scores = (scores if scores.dtype == torch.float32 else scores.float()) + mask
            probabilities = functional.dropout(torch.softmax(scores, dim=-1), dropout, self.training)
            mixed = torch.matmul(
                probabilities if value.dtype == torch.float32 else probabilities.to(value.dtype), value
            )
        mixed = mixed.transpose(1, 2).reshape(hidden.shape[0], hidden.shape[1], self.num_heads * self.head_size)
        return self.output(mixed)

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(states.shape[0], states.shape[1], self.num_heads, self.head_size).transpose(1, 2)


class Layer(nn.Module):
    """One transformer layer: self-attention and feed-forward, each with a residual connection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm = config.layer_norm == "pre"
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, mask: Tensor, attention: str) -> Tensor:
        """Transform `(batch, length, hidden_size)`; `mask` and `attention` as in `SelfAttention`."""
        if self.pre_norm:
            hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), mask, attention))
            return hidden + self._feed_forward(self.feed_forward_norm(hidden))
        hidden = self.attention_norm(self.dropout(self.attention(hidden, mask, attention)) + hidden)
        return self.feed_forward_norm(self._feed_forward(hidden) + hidden)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.contract(functional.gelu(self.expand(hidden), approximate=self.approximate)))


class SpanModel(nn.Module):
    """An encoder with a span head: every token's score as the start and as the end of the answer.

    Args:
        config: The architecture.
        attention: "sdpa" (torch's fused kernels: training and evaluation) or "eager" (plain operators with a float32
            softmax: exporting). A plain attribute; the two give the same logits to float rounding.

    Raises:
        ModelError: `attention` is neither.
    """

    def __init__(self, config: EncoderConfig, attention: str = "sdpa") -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ModelError(f"attention is {attention!r}: give one of {', '.join(ATTENTIONS)}")
        self.config = config
        self.attention = attention
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        pre = config.layer_norm == "pre"
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if pre else nn.Identity()
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.hidden_size, 2)
        self.apply(self._initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Score every token of every window.

        Args:
            input_ids: Word piece ids, `(batch, length)`, int32 or int64.
            attention_mask: 1 for tokens and 0 for padding, `(batch, length)`, integers.
            token_type_ids: 0 for the question and 1 for the context, `(batch, length)`, int32 or int64.

        Returns:
            Start and end logits, each `(batch, length)` float32. Those of padding mean nothing.

        Raises:
            ModelError: The windows are longer than the model's positions.
        """
        hidden = self.head_dropout(self.states(input_ids, attention_mask, token_type_ids))
        # The head runs in its own precision: bfloat16 logits would tie answers that differ.
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.head(hidden.to(self.head.weight.dtype))
            if logits.dtype != torch.float32:
                logits = logits.float()
        return logits[..., 0], logits[..., 1]

    def states(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Give the encoder's last states, `(batch, length, hidden_size)`; arguments and errors as `forward`."""
        self._check_length(input_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * MASKED_SCORE
        hidden = self.embeddings(input_ids, token_type_ids)
        for layer in self.layers:
            hidden = layer(hidden, mask, self.attention)
        return self.final_norm(hidden)

    def _check_length(self, input_ids: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        if input_ids.shape[1] > self.config.max_positions:
            raise ModelError(
                f"windows of {input_ids.shape[1]} tokens are longer than the model's {self.config.max_positions}"
                " positions: lower max_seq_length"
            )

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
