"""BERT, Megatron-BERT, and those that keep BERT's names: RoBERTa and its kin, and ELECTRA."""

from __future__ import annotations

from dataclasses import replace

from spanqa_training.weights.families.family import CONFIG_KEYS, DEFAULTS, Family

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
"""Our weights -> BERT's and Megatron-BERT's."""

POST_NORM_KEYS = {
    "embeddings.norm.{part}": "embeddings.LayerNorm.{part}",
    "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.output.LayerNorm.{part}",
    "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.output.LayerNorm.{part}",
}

PRE_NORM_KEYS = {
    "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.ln.{part}",
    "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.ln.{part}",
    "final_norm.{part}": "encoder.ln.{part}",
}

LM_HEAD_KEYS = {
    "transform.{part}": "cls.predictions.transform.dense.{part}",
    "norm.{part}": "cls.predictions.transform.LayerNorm.{part}",
    "bias": "cls.predictions.bias",
}

LAYER = r"encoder\.layer\.(\d+)\."

BERT = Family(
    model_type="bert",
    class_name="Bert",
    prefix="bert",
    keys=SHARED_KEYS | POST_NORM_KEYS,
    layer=LAYER,
    lm_head=LM_HEAD_KEYS,
    lm_decoder="cls.predictions.decoder.weight",
    heads=("cls.", "qa_outputs.", "classifier."),
)

MEGATRON_BERT = replace(
    BERT,
    model_type="megatron-bert",
    class_name="MegatronBert",
    keys=SHARED_KEYS | PRE_NORM_KEYS,
    fixed={"layer_norm": "pre"},
)

ROBERTA = Family(
    model_type="roberta",
    class_name="Roberta",
    prefix="roberta",
    keys=BERT.keys,
    layer=LAYER,
    lm_head={"transform.{part}": "lm_head.dense.{part}", "norm.{part}": "lm_head.layer_norm.{part}"}
    | {"bias": "lm_head.bias"},
    lm_bias="lm_head.decoder.bias",
    lm_decoder="lm_head.decoder.weight",
    heads=("lm_head.", "qa_outputs.", "classifier."),
    fixed={"family": "roberta"},
    defaults=DEFAULTS | {"pad_token_id": 1},
    padded_positions=True,
)

XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta", class_name="XLMRoberta", fixed={"family": "xlm-roberta"})

CAMEMBERT = replace(ROBERTA, model_type="camembert", class_name="Camembert", fixed={"family": "camembert"})

ELECTRA = Family(
    model_type="electra",
    class_name="Electra",
    prefix="electra",
    keys={**BERT.keys, "embeddings.projection.{part}": "embeddings_project.{part}"},
    layer=LAYER,
    lm_head={"transform.{part}": "generator_predictions.dense.{part}"}
    | {"norm.{part}": "generator_predictions.LayerNorm.{part}", "bias": "generator_lm_head.bias"},
    lm_decoder="generator_lm_head.weight",
    heads=("generator_", "discriminator_predictions.", "qa_outputs.", "classifier."),
    fixed={"family": "electra"},
    config_keys=CONFIG_KEYS | {"embedding_size": "embedding_size"},
    defaults=DEFAULTS | {"embedding_size": 128},
)
