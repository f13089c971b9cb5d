"""The architecture of an encoder as data: what tells one family from another are values, not classes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from spanqa_training.errors import ModelError

ACTIVATIONS = ("gelu", "gelu_tanh")
LAYER_NORMS = ("pre", "post")
POSITION_SCHEMES = ("absolute", "biased", "disentangled")

FAMILIES = {
    "bert": "BERT (post-LN)",
    "megatron-bert": "Megatron-BERT (pre-LN)",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
    "camembert": "CamemBERT",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "albert": "ALBERT",
    "mpnet": "MPNet",
    "deberta-v2": "DeBERTa (v2 or v3)",
}
"""Families, by Hugging Face's `model_type` -> what people call them."""

_TYPED = ("bert", "electra", "albert")
"""Families whose models tell question and context apart by their token types."""
_LEAST = {"position_offset": 0, "type_vocab_size": 0}
"""Whole numbers that may be less than 1."""
_SHARES = ("dropout", "attention_dropout", "head_dropout")


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
        max_positions: The longest window.
        type_vocab_size: Rows of the token type embedding: 0 marks the question, 1 the context. With one row (RoBERTa)
            every token has it, and with none (DistilBERT) there is no such embedding: token types say nothing then.
        layer_norm_eps: Epsilon of every layer norm: 1e-12 in BERT, 1e-5 in Megatron-LM.
        activation: "gelu" (erf) or "gelu_tanh" (its tanh approximation).
        layer_norm: "post" (BERT: a norm on the embeddings and after each residual) or "pre" (Megatron-BERT: a norm
            before each block, none on the embeddings, one after the last layer).
        dropout: Dropout of embeddings and block outputs while training.
        attention_dropout: Dropout of attention probabilities while training.
        head_dropout: Dropout before the head while training.
        initializer_range: Standard deviation of fresh weights.
        family: Whose architecture it is: one of FAMILIES, but "bert" for Megatron-BERT too, which `layer_norm` tells.
        embedding_size: Width of the embeddings, from which a linear layer leads to `hidden_size`; None where they have
            that width already and there is no such layer.
        position_offset: Rows of the position embedding before that of the first token: RoBERTa's begin after the
            padding's id (https://github.com/facebookresearch/fairseq, `make_positions`).
        position_scheme: "absolute" (a learned embedding a position), "biased" (that, and a bias of the attention scores
            by distance: MPNet, https://arxiv.org/abs/2004.09297) or "disentangled" (attention to distances instead:
            DeBERTa, https://arxiv.org/abs/2006.03654).
        relative_buckets: Distances that have a bias (MPNet), or an embedding in each direction (DeBERTa).
        relative_distance: The distance beyond which all are alike.
        shared_layers: Whether all layers have one set of weights (ALBERT, https://arxiv.org/abs/1909.11942).

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
    family: str = "bert"
    embedding_size: int | None = None
    position_offset: int = 0
    position_scheme: str = "absolute"
    relative_buckets: int | None = None
    relative_distance: int | None = None
    shared_layers: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.type_vocab_size < 2 and self.family in _TYPED:
            raise ModelError(
                f"type_vocab_size is {self.type_vocab_size}: question and context need one type each, so at least 2"
            )
        if self.hidden_size % self.num_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}: change one of them"
            )
        for name, allowed in (
            ("activation", ACTIVATIONS),
            ("layer_norm", LAYER_NORMS),
            ("family", tuple(FAMILIES)),
            ("position_scheme", POSITION_SCHEMES),
        ):
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(allowed)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: give a number from 0 up to, not including, 1")
        for name in ("layer_norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: give a number between 0 and 1")
        self._check_positions()

    @property
    def model_type(self) -> str:
        """The family as Hugging Face calls it: a key of FAMILIES."""
        return "megatron-bert" if self.family == "bert" and self.layer_norm == "pre" else self.family

    @property
    def family_name(self) -> str:
        """The family as people call it."""
        return FAMILIES[self.model_type]

    @property
    def table_width(self) -> int:
        """Width of the embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    def _check_kinds(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = _LEAST.get(field.name, 1)
            optional = field.type == "int | None"
            if (field.type == "int" or (optional and value is not None)) and (
                isinstance(value, bool) or not isinstance(value, int) or value < least
            ):
                raise ModelError(f"{field.name} is {value!r}: give a whole number of at least {least}")
            if field.type == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ModelError(f"{field.name} is {value!r}: give a number")
            if field.type == "bool" and not isinstance(value, bool):
                raise ModelError(f"{field.name} is {value!r}: give true or false")

    def _check_positions(self) -> None:
        relative = self.position_scheme != "absolute"
        for name in ("relative_buckets", "relative_distance"):
            if (getattr(self, name) is None) == relative:
                what = "needs one" if relative else "has none"
                raise ModelError(f"{name} is {getattr(self, name)}: position_scheme {self.position_scheme!r} {what}")
        if relative:
            # Half of the buckets (a quarter where they hold both directions) are single distances.
            least = 4 if self.position_scheme == "biased" else 2
            buckets, distance = self.relative_buckets or 0, self.relative_distance or 0
            if buckets < least or buckets % least or distance <= buckets // 2 + 1:
                raise ModelError(
                    f"relative_buckets is {buckets} and relative_distance {distance}: give a multiple of {least}, and a"
                    " distance of more than half of it"
                )


_OTHER_FAMILIES = (
    "family",
    "embedding_size",
    "position_offset",
    "position_scheme",
    "relative_buckets",
    "relative_distance",
    "shared_layers",
)
"""Fields that BERT leaves at their defaults."""


def architecture_of(config: EncoderConfig) -> dict[str, Any]:
    """Give an architecture as JSON values; what is as in BERT and only other families change is left out.

    So releases that knew only BERT read its checkpoints, and write the same.
    """
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name not in _OTHER_FAMILIES or getattr(config, field.name) != field.default
    }
