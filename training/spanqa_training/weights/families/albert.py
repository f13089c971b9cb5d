"""ALBERT: one set of weights for all layers, and narrow embeddings."""

from __future__ import annotations

from spanqa_training.weights.families.family import CONFIG_KEYS, DEFAULTS, ONLY, Family

_LAYER = "encoder.albert_layer_groups.{layer}.albert_layers.0"

ALBERT = Family(
    model_type="albert",
    class_name="Albert",
    prefix="albert",
    keys={
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
        "embeddings.norm.{part}": "embeddings.LayerNorm.{part}",
        "embeddings.projection.{part}": "encoder.embedding_hidden_mapping_in.{part}",
        "layers.{layer}.attention.query.{part}": f"{_LAYER}.attention.query.{{part}}",
        "layers.{layer}.attention.key.{part}": f"{_LAYER}.attention.key.{{part}}",
        "layers.{layer}.attention.value.{part}": f"{_LAYER}.attention.value.{{part}}",
        "layers.{layer}.attention.output.{part}": f"{_LAYER}.attention.dense.{{part}}",
        "layers.{layer}.attention_norm.{part}": f"{_LAYER}.attention.LayerNorm.{{part}}",
        "layers.{layer}.expand.{part}": f"{_LAYER}.ffn.{{part}}",
        "layers.{layer}.contract.{part}": f"{_LAYER}.ffn_output.{{part}}",
        "layers.{layer}.feed_forward_norm.{part}": f"{_LAYER}.full_layer_layer_norm.{{part}}",
    },
    layer=r"encoder\.albert_layer_groups\.(\d+)\.",
    lm_head={
        "transform.{part}": "predictions.dense.{part}",
        "norm.{part}": "predictions.LayerNorm.{part}",
        "bias": "predictions.bias",
    },
    lm_bias="predictions.decoder.bias",
    lm_decoder="predictions.decoder.weight",
    heads=("predictions.", "sop_classifier.", "qa_outputs.", "classifier."),
    fixed={"family": "albert", "shared_layers": True},
    config_keys=CONFIG_KEYS | {"embedding_size": "embedding_size"},
    defaults=DEFAULTS
    | {
        "hidden_act": "gelu_new",
        "embedding_size": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    only=ONLY | {"num_hidden_groups": 1, "inner_group_num": 1},
)
