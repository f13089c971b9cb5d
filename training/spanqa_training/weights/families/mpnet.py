"""MPNet: RoBERTa's positions, and a bias of attention by distance."""

from __future__ import annotations

from spanqa_training.weights.families.bert import LAYER, ROBERTA
from spanqa_training.weights.families.family import CONFIG_KEYS, DEFAULTS, ONLY, Family

_PADDING_ID = 1
"""Positions begin after it whatever the configuration says (transformers' MPNetEmbeddings)."""
_FARTHEST = 128
"""The distance of the last bucket, likewise (`relative_position_bucket`)."""

MPNET = Family(
    model_type="mpnet",
    class_name="MPNet",
    prefix="mpnet",
    keys={
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.norm.{part}": "embeddings.LayerNorm.{part}",
        "layers.{layer}.attention.query.{part}": "encoder.layer.{layer}.attention.attn.q.{part}",
        "layers.{layer}.attention.key.{part}": "encoder.layer.{layer}.attention.attn.k.{part}",
        "layers.{layer}.attention.value.{part}": "encoder.layer.{layer}.attention.attn.v.{part}",
        "layers.{layer}.attention.output.{part}": "encoder.layer.{layer}.attention.attn.o.{part}",
        "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.LayerNorm.{part}",
        "layers.{layer}.expand.{part}": "encoder.layer.{layer}.intermediate.dense.{part}",
        "layers.{layer}.contract.{part}": "encoder.layer.{layer}.output.dense.{part}",
        "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.output.LayerNorm.{part}",
        "distances.bias.weight": "encoder.relative_attention_bias.weight",
    },
    layer=LAYER,
    lm_head=ROBERTA.lm_head,
    lm_bias=ROBERTA.lm_bias,
    lm_decoder=ROBERTA.lm_decoder,
    heads=ROBERTA.heads,
    fixed={
        "family": "mpnet",
        "type_vocab_size": 0,
        "position_scheme": "biased",
        "relative_distance": _FARTHEST,
    },
    config_keys={ours: theirs for ours, theirs in CONFIG_KEYS.items() if ours != "type_vocab_size"}
    | {"relative_buckets": "relative_attention_num_buckets"},
    defaults={key: value for key, value in DEFAULTS.items() if key != "type_vocab_size"}
    | {"relative_attention_num_buckets": 32, "pad_token_id": _PADDING_ID},
    # The code computes 32 buckets whatever the configuration says.
    only=ONLY | {"pad_token_id": _PADDING_ID, "relative_attention_num_buckets": 32},
    padded_positions=True,
)
