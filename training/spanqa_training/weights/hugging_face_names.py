"""Hugging Face's names of what encoders are made of: configuration keys and weights, both ways, by family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spanqa_training.errors import ImportWeightsError, ModelError
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights.families.bert import SHARED_KEYS
from spanqa_training.weights.families.family import Family
from spanqa_training.weights.families.table import HUGGING_FACE_FAMILIES
from spanqa_training.weights.import_types import ImportOptions, Parts
from spanqa_training.weights.renaming import expanded_keys, layers_to_expect, matrix_shape, num_layers, renamed_weights

HIDDEN_ACT = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
"""Our activation -> Hugging Face's."""

ACTIVATION_OF_HIDDEN_ACT = {"gelu": "gelu", "gelu_python": "gelu"} | dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)

HEAD_SIZE = 64
"""Width of an attention head in BERT and Megatron-BERT, of all sizes; weights alone do not say it."""

HEAD_KEYS = {"head.weight": "qa_outputs.weight", "head.bias": "qa_outputs.bias"}

UNUSED = re.compile(r"pooler\..*|.*position_ids")
"""Weights of an encoder that extracting a span does not need."""

_BERT_KEYS = {"hidden_act": "activation", "num_attention_heads": "num_heads", "layer_norm_eps": "layer_norm_eps"}
"""BERT's keys of what the user may say of any family -> our architecture's fields."""

_OLD_NORM_PARTS = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of a layer norm's parts in the first BERT checkpoints, still found on the Hub."""


def family_of_config(source: Mapping[str, Any]) -> Family:
    """Give the family that a configuration is of.

    Raises:
        ImportWeightsError: It is of none that is known.
    """
    name = source.get("model_type")
    if not isinstance(name, str) or name not in HUGGING_FACE_FAMILIES:
        *others, last = HUGGING_FACE_FAMILIES
        raise ImportWeightsError(f"model_type is {name!r}: only {', '.join(others)} and {last} can be taken over")
    return HUGGING_FACE_FAMILIES[name]


def hugging_face_keys(family: str, num_layers: int) -> dict[str, str]:
    """Our name of each encoder weight -> Hugging Face's, without the prefix; those that a model may lack too."""
    return expanded_keys(HUGGING_FACE_FAMILIES[family].keys, num_layers)


def hugging_face_weights_from_model(model: SpanModel) -> dict[str, Tensor]:
    """Rename a model's weights to those of its family's class for questions, such as `BertForQuestionAnswering`."""
    family = HUGGING_FACE_FAMILIES[model.config.model_type]
    theirs = hugging_face_keys(family.model_type, len(model.layers))
    keys = {ours: f"{family.prefix}.{name}" for ours, name in theirs.items()} | HEAD_KEYS
    return {keys[name]: tensor for name, tensor in model.state_dict().items()}


def parts_from_hugging_face(weights: Mapping[str, Tensor], source: Mapping[str, Any]) -> Parts:
    """Take over the weights of a model with or without a head.

    Args:
        weights: Hugging Face's names -> weights of any float type, with or without `bert.` or the like before the
            encoder's.
        source: The configuration, with all that replaces its values.

    Raises:
        ImportWeightsError: It is of another family or variant, or the weights are not those of it.
    """
    config = encoder_config_from_hugging_face(source)
    family = family_of_config(source)
    for old, new in _OLD_NORM_PARTS:
        weights = {name.removesuffix(old) + new if name.endswith(old) else name: t for name, t in weights.items()}
    prefix = f"{family.prefix}."
    encoder = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    if not encoder:
        encoder = {name: tensor for name, tensor in weights.items() if not name.startswith(family.heads)}
    n_layers = 1 if config.shared_layers else config.num_layers
    keys = expanded_keys(_keys_of(family, config), layers_to_expect(n_layers, encoder, family.layer))
    ours = renamed_weights(encoder, keys, unused=UNUSED)
    lm_head = _lm_head(weights, family, ours["embeddings.word.weight"])
    return Parts(config=config, encoder=ours, head=_among(weights, HEAD_KEYS), lm_head=lm_head)


def _keys_of(family: Family, config: EncoderConfig) -> dict[str, str]:
    """The family's table without the layer that a model has only where its embeddings are narrow."""
    narrow = config.embedding_size is not None
    return {ours: theirs for ours, theirs in family.keys.items() if narrow or "embeddings.projection" not in ours}


def _lm_head(weights: Mapping[str, Tensor], family: Family, embedding: Tensor) -> dict[str, Tensor]:
    """The head of the masked language model; empty where there is none, or one that is not tied to the embedding."""
    keys = expanded_keys(family.lm_head, 0)
    if family.lm_bias in weights and keys["bias"] not in weights:
        keys["bias"] = family.lm_bias
    lm_head = _among(weights, keys)
    decoder = weights.get(family.lm_decoder)
    if decoder is not None:
        (copied,) = renamed_weights({"decoder": decoder}, {"decoder": "decoder"}).values()
        # Ours has no decoder but the word embedding.
        return lm_head if torch.equal(copied, embedding) else {}
    return lm_head


def _among(weights: Mapping[str, Tensor], keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename the weights of a head that may be missing as a whole."""
    found = {name: weights[name] for name in keys.values() if name in weights}
    return renamed_weights(found, keys) if found else {}


def config_of_shapes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the weights of a BERT or Megatron-BERT alone say of its configuration; heads are of `HEAD_SIZE`.

    Args:
        weights: Hugging Face's names, without `bert.`, -> weights.

    Raises:
        ImportWeightsError: They are not those of an encoder.
    """
    vocab_size, hidden_size = matrix_shape(weights, SHARED_KEYS["embeddings.word.weight"])
    return {
        "model_type": "megatron-bert" if "encoder.ln.weight" in weights else "bert",
        "vocab_size": vocab_size,
        "num_hidden_layers": num_layers(weights, HUGGING_FACE_FAMILIES["bert"].layer),
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
    """Lay what the user says over a configuration, under the keys of its family."""
    family = HUGGING_FACE_FAMILIES.get(str(config.get("model_type")), HUGGING_FACE_FAMILIES["bert"])
    own = {**family.config_keys, "activation": family.activation_key}
    said = {
        "layer_norm_eps": options.layer_norm_eps,
        "hidden_act": HIDDEN_ACT[options.activation] if options.activation else None,
        "num_attention_heads": options.num_heads,
    }
    given = {own.get(_BERT_KEYS[key], key): value for key, value in said.items() if value is not None}
    return {**config, **(options.config or {}), **given}


def encoder_config_from_hugging_face(source: Mapping[str, Any]) -> EncoderConfig:
    """Translate a Hugging Face configuration.

    Raises:
        ImportWeightsError: It is of another family, or of a variant that our encoder does not compute.
    """
    family = family_of_config(source)
    source = {**family.defaults, **source}
    for key, only in family.only.items():
        if source.get(key, only) != only:
            raise ImportWeightsError(f"{key} is {source[key]!r}: only {only!r} is supported")
    activation = str(source.get(family.activation_key))
    if activation not in ACTIVATION_OF_HIDDEN_ACT:
        raise ImportWeightsError(
            f"{family.activation_key} is {activation!r}: supported are {', '.join(ACTIVATION_OF_HIDDEN_ACT)}"
        )
    try:
        fields = {ours: source[theirs] for ours, theirs in family.config_keys.items()}
        return EncoderConfig(
            **{"activation": ACTIVATION_OF_HIDDEN_ACT[activation], **family.fixed, **_meant(fields, family, source)}
        )
    except KeyError as error:
        raise ImportWeightsError(f"the configuration lacks {error}: give a whole one, or what it lacks") from error
    except ModelError as error:
        raise ImportWeightsError(f"the configuration cannot be used: {error}") from error


def _meant(fields: dict[str, Any], family: Family, source: Mapping[str, Any]) -> dict[str, Any]:
    """Say in our terms what Hugging Face's numbers mean together; what is no number is left for our own checks."""
    if fields.get("embedding_size") == fields["hidden_size"] and family.model_type == "electra":
        fields["embedding_size"] = None  # there is no projection then, which ALBERT always has
    if fields.get("relative_distance") == -1:
        fields["relative_distance"] = fields["max_positions"]
    kinds = source.get("pos_att_type")
    if kinds is not None and sorted(kinds.lower().split("|") if isinstance(kinds, str) else kinds) != ["c2p", "p2c"]:
        raise ImportWeightsError(f"pos_att_type is {kinds!r}: only 'p2c|c2p' is supported")
    if family.padded_positions:
        padding, rows = source["pad_token_id"], fields["max_positions"]
        if not isinstance(padding, int) or not isinstance(rows, int) or not 0 <= padding < rows - 1:
            raise ImportWeightsError(
                f"pad_token_id is {padding!r} and max_position_embeddings {rows!r}: positions begin after the padding's"
                " id: give the numbers that the model was trained with"
            )
        fields |= {"position_offset": padding + 1, "max_positions": rows - padding - 1}
    return fields


def hugging_face_config_from_encoder(config: EncoderConfig) -> dict[str, Any]:
    """Translate an architecture into the configuration of a question answering model."""
    family = HUGGING_FACE_FAMILIES[config.model_type]
    values = {theirs: getattr(config, ours) for ours, theirs in family.config_keys.items()}
    if "embedding_size" in values:
        values["embedding_size"] = config.table_width
    if family.padded_positions:
        values["max_position_embeddings"] = config.max_positions + config.position_offset
        values["pad_token_id"] = config.position_offset - 1
    if config.position_scheme == "disentangled":
        values["pos_att_type"] = ["p2c", "c2p"]
    return {
        "architectures": [f"{family.class_name}ForQuestionAnswering"],
        "model_type": family.model_type,
        family.activation_key: HIDDEN_ACT[config.activation],
        **values,
        **{key: value for key, value in family.only.items() if key in family.defaults and key not in values},
    }
