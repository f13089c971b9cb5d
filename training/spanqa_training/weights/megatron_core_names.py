"""Megatron-Core's names of what its BERT is made of, and the layouts that it has and our encoder has not.

Read from NVIDIA/Megatron-LM: `megatron/core/models/bert/` (`bert_model.py`, `bert_layer_specs.py`, `bert_lm_head.py`)
and `megatron/core/transformer/attention.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from spanqa_training.errors import ImportWeightsError

QKV_VERSION = 3.0
"""Megatron-LM's checkpoint version whose order of fused attention rows is Megatron-Core's, whatever a file says.

`SelfAttention.get_query_key_value_tensors` views them as [groups, (heads per group + 2) * head size] and cuts each
group into queries, key and value; with one head a group that is [heads, 3, head size].
"""

MEGATRON_CORE_KEYS = {
    "embeddings.word.weight": "embedding.word_embeddings.weight",
    "embeddings.position.weight": "embedding.position_embeddings.weight",
    "embeddings.token_type.weight": "embedding.tokentype_embeddings.weight",
    "layers.{layer}.attention_norm.{part}": "encoder.layers.{layer}.self_attention.linear_qkv.layer_norm_{part}",
    "layers.{layer}.attention.query_key_value.{part}": "encoder.layers.{layer}.self_attention.linear_qkv.{part}",
    "layers.{layer}.attention.output.{part}": "encoder.layers.{layer}.self_attention.linear_proj.{part}",
    "layers.{layer}.feed_forward_norm.{part}": "encoder.layers.{layer}.mlp.linear_fc1.layer_norm_{part}",
    "layers.{layer}.expand.{part}": "encoder.layers.{layer}.mlp.linear_fc1.{part}",
    "layers.{layer}.contract.{part}": "encoder.layers.{layer}.mlp.linear_fc2.{part}",
    "final_norm.{part}": "encoder.final_layernorm.{part}",
}
"""Our weights, attention still fused -> Megatron-Core's, layer norms fused into the linear layers that follow them."""

_SEPARATE_NORMS = (
    (re.compile(r"^(encoder\.layers\.\d+)\.input_layernorm\."), r"\1.self_attention.linear_qkv.layer_norm_"),
    (re.compile(r"^(encoder\.layers\.\d+)\.pre_mlp_layernorm\."), r"\1.mlp.linear_fc1.layer_norm_"),
)
"""Without Transformer Engine -> with it, as Megatron-Core's `sharded_state_dict_keys_map` has it."""

_EXTRA_STATE = re.compile(r"(.*\.)?_extra_state")
"""Transformer Engine's state of float8 scaling: no weights."""

_MARK = re.compile(r"encoder\.layers\.\d+\.self_attention\.linear_qkv\..*")
_OTHER_COMPUTATIONS = {
    "qk_layernorm": (None, False),
    "swiglu": (None, False),
    "normalization": (None, "LayerNorm"),
    "position_embedding_type": (None, "learned_absolute"),
}
"""Arguments that change what is computed -> the values at which our encoder computes the same."""

_SHOWN_CHARS, _SHOWN_BITS = 40, 64


def is_megatron_core(names: Iterable[str]) -> bool:
    """Whether names below the model's prefix are Megatron-Core's, not those of Megatron-LM's own older BERT."""
    return any(_MARK.fullmatch(name) for name in names)


def canonical_core_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give separate layer norms the names of fused ones, and leave Transformer Engine's own state out.

    Args:
        weights: Names below the model's prefix -> weights.

    Raises:
        ImportWeightsError: A layer norm is there under both names.
    """
    canonical: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if _EXTRA_STATE.fullmatch(name):
            continue
        fused = name
        for pattern, spelling in _SEPARATE_NORMS:
            fused = pattern.sub(spelling, fused)
        if fused in canonical:
            raise ImportWeightsError(f"holds one layer norm twice, as {name} and fused or separate: save it again")
        canonical[fused] = tensor
    return canonical


def check_core_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what Megatron-Core's BERT may be told to compute and our encoder does not.

    Raises:
        ImportWeightsError: Queries share keys and values in groups, or a layer is of another kind.
    """
    heads, groups = arguments.get("num_attention_heads"), arguments.get("num_query_groups")
    # Without group_query_attention Megatron-LM ignores the number, whose default is 1.
    plain = groups is None or (isinstance(groups, int) and groups == heads)
    if arguments.get("group_query_attention") is True and not plain:
        raise ImportWeightsError(
            f"was trained with group-query attention (num_query_groups is {shown(groups)}), and a BERT has one key and"
            " value per head: give another model"
        )
    for name, allowed in _OTHER_COMPUTATIONS.items():
        value = arguments.get(name)
        if not isinstance(value, str | bool | None) or value not in allowed:
            raise ImportWeightsError(
                f"was trained with {name} {shown(value)}, which our encoder does not compute: give another model"
            )


def core_lm_head(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Name the masked-LM head as Megatron-LM's older BERT does, where its matrix is the word embedding.

    Args:
        weights: Names -> weights.
        prefix: What stands before the model's names.

    Returns:
        The head's weights; none where its matrix is one of its own, which ours cannot be.
    """
    words = weights[f"{prefix}embedding.word_embeddings.weight"]
    matrix = weights.get(f"{prefix}output_layer.weight", words)
    if matrix is not words and not (matrix.shape == words.shape and torch.equal(matrix, words)):
        return {}
    head = {
        name.replace("lm_head.layer_norm.", "lm_head.layernorm."): tensor
        for name, tensor in weights.items()
        if name.startswith(f"{prefix}lm_head.") and not _EXTRA_STATE.fullmatch(name)
    }
    bias = weights.get(f"{prefix}output_layer.bias")
    return head if bias is None else {f"{prefix}lm_head.bias": bias, **head}


def shown(value: object) -> str:
    """Write what a file says in a few words: short texts and numbers themselves, of anything else its kind."""
    short = isinstance(value, str) or (isinstance(value, int) and value.bit_length() < _SHOWN_BITS)
    return repr(value) if short and len(repr(value)) < _SHOWN_CHARS else type(value).__name__
