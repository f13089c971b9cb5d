"""DeBERTa v2 and v3: disentangled attention, no positions among the embeddings."""

from __future__ import annotations

from spanqa_training.weights.families.bert import LAYER, LM_HEAD_KEYS, SHARED_KEYS
from spanqa_training.weights.families.bert import POST_NORM_KEYS as NORM_KEYS
from spanqa_training.weights.families.family import CONFIG_KEYS, DEFAULTS, ONLY, Family

_ATTENTION = "encoder.layer.{layer}.attention.self"

DEBERTA_V2 = Family(
    model_type="deberta-v2",
    class_name="DebertaV2",
    prefix="deberta",
    keys={ours: theirs for ours, theirs in SHARED_KEYS.items() if not ours.startswith("embeddings.")}
    | NORM_KEYS
    | {
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "layers.{layer}.attention.query.{part}": f"{_ATTENTION}.query_proj.{{part}}",
        "layers.{layer}.attention.key.{part}": f"{_ATTENTION}.key_proj.{{part}}",
        "layers.{layer}.attention.value.{part}": f"{_ATTENTION}.value_proj.{{part}}",
        "distances.table.weight": "encoder.rel_embeddings.weight",
        "distances.norm.{part}": "encoder.LayerNorm.{part}",
    },
    layer=LAYER,
    lm_head=LM_HEAD_KEYS,
    lm_decoder="cls.predictions.decoder.weight",
    # v3 was trained to find replaced tokens; what it kept of the generator's head fits another encoder.
    heads=("cls.", "lm_predictions.", "mask_predictions.", "qa_outputs.", "classifier.", "pooler."),
    fixed={"family": "deberta-v2", "type_vocab_size": 0, "position_scheme": "disentangled"},
    config_keys={ours: theirs for ours, theirs in CONFIG_KEYS.items() if ours != "type_vocab_size"}
    | {"relative_buckets": "position_buckets", "relative_distance": "max_relative_positions"},
    defaults=DEFAULTS
    | {
        "layer_norm_eps": 1e-7,
        "type_vocab_size": 0,
        "relative_attention": False,
        "position_biased_input": True,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "pos_att_type": [],
        "position_buckets": -1,
        "max_relative_positions": -1,
    },
    only=ONLY
    | {
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 0,
    },
)
