"""What a family is made of: names of settings and weights, both ways, and what is the same in all its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
}
"""Our architecture's fields -> BERT's keys, which most families share."""

DEFAULTS = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
"""What most families' configurations mean where they are silent (transformers' BertConfig)."""

ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family. In tables of weights `{layer}` is a number and `{part}` weight or bias.

    Args:
        model_type: Its name in config.json.
        class_name: Its name in transformers' classes, such as Bert in BertForQuestionAnswering.
        prefix: What stands before the encoder's weights in a model with a head, without the point.
        keys: Our weights -> its own, without the prefix; those that a model lacks are left out.
        layer: A pattern of the names of a layer's weights, whose group is the layer's number.
        lm_head: The head of the masked language model: our weights -> its own.
        lm_bias: Another name of that head's bias: the two are one tensor, and files keep either.
        lm_decoder: That head's other matrix, which is the word embedding where the two are tied.
        heads: How names of weights begin that are of heads, those above among them.
        fixed: Fields of an architecture that are the same in all its models.
        config_keys: Fields of an architecture -> its keys.
        activation_key: The key of the activation.
        defaults: What a configuration means where it is silent.
        only: Keys and the one value of each that our encoder computes.
        padded_positions: Whether the positions of tokens begin after the padding's id.
    """

    model_type: str
    class_name: str
    prefix: str
    keys: Mapping[str, str]
    layer: str
    lm_head: Mapping[str, str]
    lm_bias: str = ""
    lm_decoder: str
    heads: tuple[str, ...] = ("qa_outputs.", "classifier.")
    fixed: Mapping[str, Any] = field(default_factory=dict)
    config_keys: Mapping[str, str] = field(default_factory=lambda: CONFIG_KEYS)
    activation_key: str = "hidden_act"
    defaults: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    only: Mapping[str, Any] = field(default_factory=lambda: ONLY)
    padded_positions: bool = False
