"""Hugging Face's names of what BERT and Megatron-BERT are made of: configuration keys and weights, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spanqa_training.errors import ImportWeightsError, ModelError
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights.import_types import ImportOptions, Parts
from spanqa_training.weights.renaming import expanded_keys, layers_to_expect, matrix_shape, num_layers, renamed_weights

LAYER_NORM_OF_FAMILY = {"bert": "post", "megatron-bert": "pre"}
"""Hugging Face's model_type -> where the layer norms stand."""

FAMILY_OF_LAYER_NORM = {norm: family for family, norm in LAYER_NORM_OF_FAMILY.items()}

HIDDEN_ACT = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
"""Our activation -> Hugging Face's."""

ACTIVATION_OF_HIDDEN_ACT = {"gelu": "gelu", "gelu_python": "gelu"} | dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)

HEAD_SIZE = 64
"""Width of an attention head in BERT and Megatron-BERT, of all sizes; weights alone do not say it."""

SHARED_KEYS = {
    "embeddings.word.weight": "embeddings.word_embeddings.weight",
    "embeddings.position.weight": "embeddings.position_embeddings.weight",
    "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
    "layers.{layer}.attention.query.{part}": "encoder.layer.{layer}.attention.self.query.{part}",
    "layers.{layer}.attention.key.{part}": "encoder.layer.{layer}.attention.self.key.{part}",
    "layers.{layer}.attention.value.{part}": "encoder.layer.{layer}.attention.self.value.{part}",
    "layers.{layer}.attention.output.{part}": "encoder.layer.{layer}.attention.output.dense.{part}",
    "layers.{layer}.expand.{part}": "encoder.layer.{layer}.intermediate.dense.{part}",
    "layers.{layer}.contract.{part}": "encoder.layer.{layer}.output.dense.{part}",
}
"""Our weights -> Hugging Face's, in both families. `{layer}` is a number and `{part}` weight or bias."""

_LAYER = r"encoder\.layer\.(\d+)\."

NORM_KEYS = {
    "bert": {
        "embeddings.norm.{part}": "embeddings.LayerNorm.{part}",
        "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.output.LayerNorm.{part}",
        "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.output.LayerNorm.{part}",
    },
    "megatron-bert": {
        "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.ln.{part}",
        "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.ln.{part}",
        "final_norm.{part}": "encoder.ln.{part}",
    },
}
"""The layer norms of each family, likewise."""

HEAD_KEYS = {"head.weight": "qa_outputs.weight", "head.bias": "qa_outputs.bias"}

LM_HEAD_KEYS = {
    "transform.{part}": "cls.predictions.transform.dense.{part}",
    "norm.{part}": "cls.predictions.transform.LayerNorm.{part}",
    "bias": "cls.predictions.bias",
}

UNUSED = re.compile(r"pooler\..*|.*position_ids")
"""Weights of an encoder that extracting a span does not need."""

_CONFIG_KEYS = {
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
"""Our architecture's fields -> Hugging Face's."""

DEFAULTS = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
"""What both families' configurations mean where they are silent (transformers' BertConfig)."""

_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}

_OLD_NORM_PARTS = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of a layer norm's parts in the first BERT checkpoints, still found on the Hub."""


def hugging_face_keys(family: str, num_layers: int) -> dict[str, str]:
    """Our name of each encoder weight -> Hugging Face's, without `bert.`."""
    return expanded_keys(SHARED_KEYS | NORM_KEYS[family], num_layers)


def hugging_face_weights_from_model(model: SpanModel) -> dict[str, Tensor]:
    """Rename a model's weights to those of `BertForQuestionAnswering` or `MegatronBertForQuestionAnswering`."""
    family = FAMILY_OF_LAYER_NORM[model.config.layer_norm]
    keys = {ours: f"bert.{theirs}" for ours, theirs in hugging_face_keys(family, model.config.num_layers).items()}
    keys |= HEAD_KEYS
    return {keys[name]: tensor for name, tensor in model.state_dict().items()}


def parts_from_hugging_face(weights: Mapping[str, Tensor], source: Mapping[str, Any]) -> Parts:
    """Take over the weights of a model with or without a head.

    Args:
        weights: Hugging Face's names -> weights of any float type, with or without `bert.` before the encoder's.
        source: The configuration, with all that replaces its values.

    Raises:
        ImportWeightsError: It is of another family or variant, or the weights are not those of it.
    """
    config = encoder_config_from_hugging_face(source)
    for old, new in _OLD_NORM_PARTS:
        weights = {name.removesuffix(old) + new if name.endswith(old) else name: t for name, t in weights.items()}
    encoder = {name.removeprefix("bert."): t for name, t in weights.items() if name.startswith("bert.")}
    if not encoder:
        heads = ("cls.", "qa_outputs.", "classifier.")
        encoder = {name: tensor for name, tensor in weights.items() if not name.startswith(heads)}
    keys = hugging_face_keys(str(source["model_type"]), layers_to_expect(config.num_layers, encoder, _LAYER))
    ours = renamed_weights(encoder, keys, unused=UNUSED)
    lm_head = _among(weights, expanded_keys(LM_HEAD_KEYS, 0))
    decoder = weights.get("cls.predictions.decoder.weight")
    if decoder is not None:
        (copied,) = renamed_weights({"decoder": decoder}, {"decoder": "decoder"}).values()
        # Ours has no decoder but the word embedding.
        lm_head = lm_head if torch.equal(copied, ours["embeddings.word.weight"]) else {}
    return Parts(config=config, encoder=ours, head=_among(weights, HEAD_KEYS), lm_head=lm_head)


def _among(weights: Mapping[str, Tensor], keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename the weights of a head that may be missing as a whole."""
    found = {name: weights[name] for name in keys.values() if name in weights}
    return renamed_weights(found, keys) if found else {}


def config_of_shapes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What an encoder's weights alone say of its configuration; heads are of `HEAD_SIZE`.

    Args:
        weights: Hugging Face's names, without `bert.`, -> weights.

    Raises:
        ImportWeightsError: They are not those of an encoder.
    """
    vocab_size, hidden_size = matrix_shape(weights, SHARED_KEYS["embeddings.word.weight"])
    return {
        "model_type": "megatron-bert" if "encoder.ln.weight" in weights else "bert",
        "vocab_size": vocab_size,
        "num_hidden_layers": num_layers(weights, _LAYER),
        "intermediate_size": matrix_shape(weights, "encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": matrix_shape(weights, SHARED_KEYS["embeddings.position.weight"])[0],
        "type_vocab_size": matrix_shape(weights, SHARED_KEYS["embeddings.token_type.weight"])[0],
        **config_of_width(hidden_size),
    }


def config_of_width(hidden_size: int) -> dict[str, int]:
    """The width, and the number of heads where heads of `HEAD_SIZE` fill it."""
    heads = {} if hidden_size % HEAD_SIZE else {"num_attention_heads": hidden_size // HEAD_SIZE}
    return {"hidden_size": hidden_size, **heads}


def overridden(config: Mapping[str, Any], options: ImportOptions) -> dict[str, Any]:
    """Lay what the user says over a configuration."""
    said = {
        "layer_norm_eps": options.layer_norm_eps,
        "hidden_act": HIDDEN_ACT[options.activation] if options.activation else None,
        "num_attention_heads": options.num_heads,
    }
    return {**config, **(options.config or {}), **{key: value for key, value in said.items() if value is not None}}


def encoder_config_from_hugging_face(source: Mapping[str, Any]) -> EncoderConfig:
    """Translate a Hugging Face configuration.

    Raises:
        ImportWeightsError: It is of another family, or of a variant that our encoder does not compute.
    """
    source = {**DEFAULTS, **source}
    family, activation = (str(source.get(key)) for key in ("model_type", "hidden_act"))
    if family not in LAYER_NORM_OF_FAMILY:
        raise ImportWeightsError(
            f"model_type is {source.get('model_type')!r}: only {' and '.join(LAYER_NORM_OF_FAMILY)} can be taken over"
        )
    for key, only in _ONLY.items():
        if source.get(key, only) != only:
            raise ImportWeightsError(f"{key} is {source[key]!r}: only {only!r} is supported")
    if activation not in ACTIVATION_OF_HIDDEN_ACT:
        raise ImportWeightsError(f"hidden_act is {activation!r}: supported are {', '.join(ACTIVATION_OF_HIDDEN_ACT)}")
    try:
        return EncoderConfig(
            activation=ACTIVATION_OF_HIDDEN_ACT[activation],
            layer_norm=LAYER_NORM_OF_FAMILY[family],
            **{ours: source[theirs] for ours, theirs in _CONFIG_KEYS.items()},
        )
    except KeyError as error:
        raise ImportWeightsError(f"the configuration lacks {error}: give a whole one, or what it lacks") from error
    except ModelError as error:
        raise ImportWeightsError(f"the configuration cannot be used: {error}") from error


def hugging_face_config_from_encoder(config: EncoderConfig) -> dict[str, Any]:
    """Translate an architecture into the configuration of a question answering model."""
    family = FAMILY_OF_LAYER_NORM[config.layer_norm]
    name = {"bert": "Bert", "megatron-bert": "MegatronBert"}[family]
    return {
        "architectures": [f"{name}ForQuestionAnswering"],
        "model_type": family,
        "hidden_act": HIDDEN_ACT[config.activation],
        **{theirs: getattr(config, ours) for ours, theirs in _CONFIG_KEYS.items()},
    }
