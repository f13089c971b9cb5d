"""The network: an encoder of any family, with a head that scores tokens as start and as end of the answer."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from spanqa_training.encoder.attention import MASKED_SCORE, SelfAttention
from spanqa_training.encoder.config import ACTIVATIONS, FAMILIES, EncoderConfig, architecture_of
from spanqa_training.encoder.disentangled import DisentangledAttention
from spanqa_training.encoder.distances import DistanceBias, DistanceEmbeddings, Relative
from spanqa_training.encoder.dropout import Dropout
from spanqa_training.encoder.embeddings import Embeddings
from spanqa_training.encoder.layer import Layer
from spanqa_training.errors import ModelError

__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "MASKED_SCORE",
    "EncoderConfig",
    "Layer",
    "SpanModel",
    "architecture_of",
    "exportable",
]

ATTENTIONS = ("eager", "sdpa")


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
        self.layers = nn.ModuleList(Layer(config) for _ in range(1 if config.shared_layers else config.num_layers))
        pre = config.layer_norm == "pre"
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if pre else nn.Identity()
        self.distances = _distances(config)
        self.head_dropout = Dropout(config.head_dropout)
        self.head = nn.Linear(config.hidden_size, 2)
        self.apply(self._initialise)

    def take_dropout(self, config: EncoderConfig) -> None:
        """Drop as a configuration says from now on; `config`, which is stored with the weights, stays as it is."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.p = config.dropout
            elif isinstance(module, SelfAttention):
                module.take_dropout(config)
        self.head_dropout.p = config.head_dropout

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Score every token of every window.

        Args:
            input_ids: Word piece ids, `(batch, length)`, int32 or int64.
            attention_mask: 1 for tokens and 0 for padding, `(batch, length)`, integers.
            token_type_ids: 0 for the question and 1 for the context, `(batch, length)`, int32 or int64; they change
                nothing in a family without token types.

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
        relative: Relative = None if self.distances is None else self.distances(input_ids.shape[1])
        for index in range(self.config.num_layers):
            layer = self.layers[0 if self.config.shared_layers else index]
            hidden = layer(hidden, mask, self.attention, relative)
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


def _distances(config: EncoderConfig) -> DistanceBias | DistanceEmbeddings | None:
    if config.position_scheme == "biased":
        return DistanceBias(config)
    return DistanceEmbeddings(config) if config.position_scheme == "disentangled" else None


def exportable(model: SpanModel) -> SpanModel:
    """Copy a model into the form that exporters take: float32 on the CPU, plain operators, every input read.

    What depends on weights alone is computed once and becomes a constant.
    """
    copied = copy.deepcopy(model).to("cpu", torch.float32).eval()
    copied.attention = "eager"
    copied.embeddings.read_token_types()
    if isinstance(copied.distances, DistanceEmbeddings):
        with torch.no_grad():
            embeddings, _ = copied.distances(1)
        for layer in copied.layers:
            if isinstance(layer.attention, DisentangledAttention):
                layer.attention.keep_projections(embeddings)
    return copied
