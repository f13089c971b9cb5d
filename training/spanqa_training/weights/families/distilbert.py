"""DistilBERT: BERT without token types, under names of its own."""

from __future__ import annotations

from spanqa_training.weights.families.family import Family

DISTILBERT = Family(
    model_type="distilbert",
    class_name="DistilBert",
    prefix="distilbert",
    keys={
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.norm.{part}": "embeddings.LayerNorm.{part}",
        "layers.{layer}.attention.query.{part}": "transformer.layer.{layer}.attention.q_lin.{part}",
        "layers.{layer}.attention.key.{part}": "transformer.layer.{layer}.attention.k_lin.{part}",
        "layers.{layer}.attention.value.{part}": "transformer.layer.{layer}.attention.v_lin.{part}",
        "layers.{layer}.attention.output.{part}": "transformer.layer.{layer}.attention.out_lin.{part}",
        "layers.{layer}.attention_norm.{part}": "transformer.layer.{layer}.sa_layer_norm.{part}",
        "layers.{layer}.expand.{part}": "transformer.layer.{layer}.ffn.lin1.{part}",
        "layers.{layer}.contract.{part}": "transformer.layer.{layer}.ffn.lin2.{part}",
        "layers.{layer}.feed_forward_norm.{part}": "transformer.layer.{layer}.output_layer_norm.{part}",
    },
    layer=r"transformer\.layer\.(\d+)\.",
    lm_head={
        "transform.{part}": "vocab_transform.{part}",
        "norm.{part}": "vocab_layer_norm.{part}",
        "bias": "vocab_projector.bias",
    },
    lm_decoder="vocab_projector.weight",
    heads=("vocab_", "qa_outputs.", "classifier.", "pre_classifier."),
    # Its norms have no epsilon of their own in a configuration: transformers' DistilBert has this one.
    fixed={"family": "distilbert", "type_vocab_size": 0, "layer_norm_eps": 1e-12},
    config_keys={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "head_dropout": "qa_dropout",
        "initializer_range": "initializer_range",
    },
    activation_key="activation",
    defaults={
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "qa_dropout": 0.1,
        "initializer_range": 0.02,
    },
    # A table of sines and cosines is stored like a learned one, and computes like one.
    only={"layer_norm_eps": 1e-12},
)
