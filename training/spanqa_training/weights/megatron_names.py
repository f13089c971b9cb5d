"""Megatron-LM's names of what its BERT is made of: arguments, weights and the fused attention weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spanqa.tokenization import Tokenizer
from spanqa_training.errors import ImportWeightsError
from spanqa_training.model import EncoderConfig
from spanqa_training.weights.hugging_face_names import config_of_width, encoder_config_from_hugging_face, overridden
from spanqa_training.weights.import_types import ImportOptions, Parts
from spanqa_training.weights.megatron_core_names import (
    MEGATRON_CORE_KEYS,
    QKV_VERSION,
    canonical_core_names,
    check_core_arguments,
    core_lm_head,
    is_megatron_core,
    shown,
)
from spanqa_training.weights.renaming import expanded_keys, layers_to_expect, matrix_shape, num_layers, renamed_weights
from spanqa_training.weights.vocabulary import rows_without_padding

LAYER_NORM_EPS = 1e-5
"""Megatron-LM's default (`--layernorm-epsilon`)."""

WORD_EMBEDDING = "embedding.word_embeddings.weight"
_TYPES = "embedding.tokentype_embeddings.weight"
_POSITIONS = "embedding.position_embeddings.weight"
_LAYER = r"encoder\.layers\.(\d+)\."
_FUSED = "layers.{layer}.attention.query_key_value.{part}"

MEGATRON_KEYS = {
    "embeddings.word.weight": WORD_EMBEDDING,
    "embeddings.position.weight": _POSITIONS,
    "embeddings.token_type.weight": _TYPES,
    "layers.{layer}.attention_norm.{part}": "encoder.layers.{layer}.input_layernorm.{part}",
    _FUSED: "encoder.layers.{layer}.self_attention.query_key_value.{part}",
    "layers.{layer}.attention.output.{part}": "encoder.layers.{layer}.self_attention.dense.{part}",
    "layers.{layer}.feed_forward_norm.{part}": "encoder.layers.{layer}.post_attention_layernorm.{part}",
    "layers.{layer}.expand.{part}": "encoder.layers.{layer}.mlp.dense_h_to_4h.{part}",
    "layers.{layer}.contract.{part}": "encoder.layers.{layer}.mlp.dense_4h_to_h.{part}",
    "final_norm.{part}": "encoder.final_layernorm.{part}",
}
"""Our weights, attention still fused -> Megatron-LM's below `language_model`, in one of its spellings."""

_OTHER_SPELLINGS = (
    (re.compile(r"^transformer\."), "encoder."),
    (re.compile(r"^(encoder\.layers\.\d+)\.attention\."), r"\1.self_attention."),
    (re.compile(r"^(encoder\.(?:layers\.\d+\.)?(?:input|post_attention|final)_)norm\."), r"\1layernorm."),
)
"""Of earlier and of later releases."""

LM_HEAD_KEYS = {"transform.{part}": "dense.{part}", "norm.{part}": "layernorm.{part}", "bias": "bias"}
"""The masked-LM head, below `lm_head`; later releases write `norm` for `layernorm`."""

_UNUSED = re.compile(r"(pooler|lm_head|binary_head|output_layer)\..*")

_CONFIG_OF_ARGUMENTS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "layernorm_epsilon": "layer_norm_eps",
    "norm_epsilon": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "init_method_std": "initializer_range",
}
"""Megatron-LM's arguments -> Hugging Face's configuration keys."""

_PARALLEL = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "model_parallel_size")
_OF_ACTIVATION = ("bias_gelu_fusion", "openai_gelu", "onnx_safe")
_OTHER_COMPUTATIONS = ("apply_residual_connection_post_layernorm", "apply_layernorm_1p", "squared_relu")

_LARGEST_VERSION = 1000

MERGE_SHARDS = (
    "merge the shards into one with Megatron-LM's own tools (tools/checkpoint/convert.py with"
    " --target-tensor-parallel-size 1 and --target-pipeline-parallel-size 1; in older releases checkpoint_util.py or"
    " merge_mp_partitions.py)"
)


def parts_from_megatron(
    weights: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
    *,
    version: float,
    tokenizer: Tokenizer,
    options: ImportOptions,
) -> Parts:
    """Take over the weights of a BERT of Megatron-LM or Megatron-Core.

    Args:
        weights: Dotted names -> weights, of any spelling and below any prefix.
        arguments: What Megatron-LM was started with, as far as known.
        version: The checkpoint version, which orders the fused attention weights.
        tokenizer: The tokenizer; rows of padding beyond it are cut.
        options: What the user says.

    Raises:
        ImportWeightsError: It is another network, a shard, or of another vocabulary.
    """
    _check_arguments(arguments)
    prefix = encoder_prefix(weights)
    below = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    core = is_megatron_core(below)
    if core:
        check_core_arguments(arguments)
        keys, version, encoder = MEGATRON_CORE_KEYS, QKV_VERSION, canonical_core_names(below)
    else:
        keys, encoder = MEGATRON_KEYS, {_spelled(name): tensor for name, tensor in below.items()}
    source = {**_config_of_shapes(encoder, keys), **_config_of_arguments(arguments)}
    n_tokens = rows_without_padding(len(encoder[WORD_EMBEDDING]), tokenizer)
    config = encoder_config_from_hugging_face(
        {**overridden(source, options), "model_type": "megatron-bert", "vocab_size": n_tokens}
    )
    encoder.setdefault(_TYPES, torch.zeros(config.type_vocab_size, matrix_shape(encoder, WORD_EMBEDDING)[1]))
    lm_head = _lm_head(core_lm_head(weights, prefix) if core else weights, prefix, config.vocab_size)
    n_layers = layers_to_expect(config.num_layers, encoder, _LAYER)
    ours = renamed_weights(encoder, expanded_keys(keys, n_layers), unused=_UNUSED)
    ours["embeddings.word.weight"] = ours["embeddings.word.weight"][: config.vocab_size].clone()
    _split_attention(ours, version, config)
    return Parts(config=config, encoder=ours, lm_head=lm_head)


def facts_of_megatron(arguments: Mapping[str, Any], version: float) -> dict[str, Any]:
    """What is worth remembering of a Megatron-LM BERT: its version, and the GeLU that its arguments name.

    The fused kernel and OpenAI's GeLU are the tanh approximation; the others compute erf.
    """
    activation = None
    if arguments.get("bias_gelu_fusion") or arguments.get("openai_gelu"):
        activation = "gelu_tanh"
    elif "bias_gelu_fusion" in arguments or arguments.get("onnx_safe"):
        activation = "gelu"
    return {"checkpoint_version": version, "activation_of_source": activation}


def checkpoint_version(value: object) -> float:
    """Read a checkpoint version: 0 where there is none, as Megatron-LM does.

    Raises:
        ImportWeightsError: It is no number, or none that a version can be.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ImportWeightsError(f"checkpoint_version is {shown(value)}: it must be a number")
    if not 0 <= (value or 0) < _LARGEST_VERSION:
        raise ImportWeightsError(f"checkpoint_version must be a number from 0 to {_LARGEST_VERSION}: it is damaged")
    return float(value or 0)


def encoder_prefix(weights: Mapping[str, Tensor]) -> str:
    """What stands before the names of the encoder's weights, such as `language_model.`.

    Raises:
        ImportWeightsError: There is no encoder, or more than one.
    """
    prefixes = [name.removesuffix(WORD_EMBEDDING) for name in weights if f".{name}".endswith(f".{WORD_EMBEDDING}")]
    if len(prefixes) != 1:
        raise ImportWeightsError(
            f"holds {len(prefixes)} encoders of Megatron-LM, found by {WORD_EMBEDDING}: give model_optim_rng.pt of a"
            " BERT; weights of Hugging Face are taken over by their folder"
        )
    return prefixes[0]


def split_query_key_value(fused: Tensor, *, version: float, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a fused attention weight or bias into those of query, key and value.

    The three are interleaved by the checkpoint version (Megatron-LM's `fix_query_key_value_ordering`): rows are
    ordered [3, heads, head size] before 1.0, [heads, head size, 3] in 1.0, and [heads, 3, head size] from 2.0 on.

    Args:
        fused: `(3 * hidden_size, ...)`.
        version: The checkpoint version.
        num_heads: Attention heads.

    Returns:
        Three tensors of `(hidden_size, ...)`.
    """
    axis = 0 if version < 1 else 2 if version < 2 else 1
    order = [num_heads, len(fused) // (3 * num_heads)]
    order.insert(axis, 3)
    parts = fused.view(*order, *fused.shape[1:]).unbind(axis)
    # Each in memory of its own: together they could not be saved as separate weights.
    query, key, value = (part.clone(memory_format=torch.contiguous_format).flatten(0, 1) for part in parts)
    return query, key, value


def _split_attention(weights: dict[str, Tensor], version: float, config: EncoderConfig) -> None:
    """Replace the fused attention weights, one after the other, so that few lie twice in memory."""
    for name in expanded_keys({_FUSED: _FUSED}, config.num_layers):
        fused = weights.pop(name)
        if fused.shape[:1] != (3 * config.hidden_size,):
            raise ImportWeightsError(
                f"{name} has shape {tuple(fused.shape)} and the configuration asks for {3 * config.hidden_size} rows:"
                " the two do not belong together"
            )
        parts = split_query_key_value(fused, version=version, num_heads=config.num_heads)
        for part_name, part in zip(("query", "key", "value"), parts, strict=True):
            weights[name.replace("query_key_value", part_name)] = part


def _lm_head(weights: Mapping[str, Tensor], prefix: str, vocab_size: int) -> dict[str, Tensor]:
    beside = prefix.removesuffix("language_model.") + "lm_head."
    found = {name.removeprefix(beside): tensor for name, tensor in weights.items() if name.startswith(beside)}
    found = {re.sub(r"^norm\.", "layernorm.", name): tensor for name, tensor in found.items()}
    if not found:
        return {}
    head = renamed_weights(found, expanded_keys(LM_HEAD_KEYS, 0))
    return {**head, "bias": head["bias"].flatten()[:vocab_size].clone()}


def _spelled(name: str) -> str:
    for pattern, spelling in _OTHER_SPELLINGS:
        name = pattern.sub(spelling, name)
    return name


def _config_of_shapes(encoder: Mapping[str, Tensor], keys: Mapping[str, str]) -> dict[str, Any]:
    """What the weights alone say of the architecture, in Hugging Face's keys."""
    expand = keys["layers.{layer}.expand.{part}"].format(layer=0, part="weight")
    return {
        **config_of_width(matrix_shape(encoder, WORD_EMBEDDING)[1]),
        "num_hidden_layers": num_layers(encoder, _LAYER),
        "intermediate_size": matrix_shape(encoder, expand)[0],
        "max_position_embeddings": matrix_shape(encoder, _POSITIONS)[0],
        "type_vocab_size": matrix_shape(encoder, _TYPES)[0] if _TYPES in encoder else 2,
        "layer_norm_eps": LAYER_NORM_EPS,
    }


def _config_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    said = {theirs: arguments.get(name) for name, theirs in _CONFIG_OF_ARGUMENTS.items() if name in arguments}
    return {key: value for key, value in said.items() if value is not None}


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    for name in (*_CONFIG_OF_ARGUMENTS, *_PARALLEL, *_OTHER_COMPUTATIONS, *_OF_ACTIVATION):
        if not isinstance(arguments.get(name), int | float | str | None):
            raise ImportWeightsError(f"{name} is {shown(arguments[name])}: it must be a number, or true or false")
    for name in _PARALLEL:
        if (arguments.get(name) or 1) != 1:
            raise ImportWeightsError(f"is one of several shards ({name} is {arguments[name]}): {MERGE_SHARDS}")
    for name in _OTHER_COMPUTATIONS:
        if arguments.get(name):
            raise ImportWeightsError(f"was trained with {name}, which our encoder does not compute: give another model")
