"""Every weight of a Hugging Face model is taken over by its name, and so are the heads that we know."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    MegatronBertForMaskedLM,
    MegatronBertForPreTraining,
    MegatronBertForQuestionAnswering,
    MegatronBertModel,
)

from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.hugging_face_names import hugging_face_keys, hugging_face_weights_from_model
from spanqa_training.weights.recognition import ImportOptions, import_model

BERT = (BertModel, BertForQuestionAnswering, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification)
MEGATRON = (MegatronBertModel, MegatronBertForQuestionAnswering, MegatronBertForMaskedLM, MegatronBertForPreTraining)
EVERY_KIND = pytest.mark.parametrize("model_class", [*BERT, *MEGATRON])


@EVERY_KIND
def test_every_kind_of_model_is_renamed_back(tmp_path, model_class, hugging_face):
    """The round trip gives transformers' own names and values again."""
    source = hugging_face.write_source(tmp_path, model_class)
    back = hugging_face_weights_from_model(import_model(tmp_path).model)
    wanted = {
        name if name.startswith(("bert.", "qa_outputs.")) else f"bert.{name}": tensor
        for name, tensor in source.state_dict().items()
    }
    shared = [name for name in back if name in wanted]
    assert len(shared) == len(back) - (0 if "QuestionAnswering" in model_class.__name__ else 2)
    for name in shared:
        assert torch.equal(back[name], wanted[name]), name


@pytest.mark.parametrize("family", ["bert", "megatron-bert"])
def test_the_renaming_table_is_one_to_one(family):
    keys = hugging_face_keys(family, 24)
    assert len(set(keys.values())) == len(keys)


@EVERY_KIND
def test_a_masked_lm_head_is_kept_where_there_is_one(tmp_path, model_class, hugging_face):
    source = hugging_face.write_source(tmp_path, model_class)
    imported = import_model(tmp_path)
    if not hasattr(source, "cls"):
        assert imported.lm_head == {}
        assert imported.checkpoint.provenance["masked_lm_head"] is None
        return
    head = source.cls.predictions
    assert set(imported.lm_head) == {"transform.weight", "transform.bias", "norm.weight", "norm.bias", "bias"}
    assert torch.equal(imported.lm_head["transform.weight"], head.transform.dense.weight)
    assert torch.equal(imported.lm_head["norm.bias"], head.transform.LayerNorm.bias)
    assert torch.equal(imported.lm_head["bias"], head.bias)
    assert imported.checkpoint.provenance["masked_lm_head"] == "taken over"


def test_a_masked_lm_head_whose_decoder_is_not_the_word_embedding_is_left_out(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertForMaskedLM)
    name = "cls.predictions.decoder.weight"
    hugging_face.edit_weights(
        tmp_path, lambda weights: weights | {name: weights["bert.embeddings.word_embeddings.weight"] * 1}
    )
    assert import_model(tmp_path).lm_head
    hugging_face.edit_weights(tmp_path, lambda weights: weights | {name: weights[name] + 1})
    assert import_model(tmp_path).lm_head == {}


def test_half_a_masked_lm_head_is_refused(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertForMaskedLM)
    hugging_face.edit_weights(
        tmp_path, lambda ws: {n: w for n, w in ws.items() if n != "cls.predictions.transform.dense.bias"}
    )
    with pytest.raises(ImportWeightsError, match=r"lacks cls\.predictions\.transform\.dense\.bias"):
        import_model(tmp_path)


def test_a_head_is_taken_over_where_there_is_one_and_drawn_by_the_seed_elsewhere(tmp_path, hugging_face):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    source = hugging_face.write_source(tmp_path / "with", BertForQuestionAnswering)
    hugging_face.write_source(tmp_path / "without", BertModel)
    imported = import_model(tmp_path / "with")
    assert torch.equal(imported.model.head.weight, source.qa_outputs.weight)
    assert imported.checkpoint.provenance["head"] == "taken over"
    fresh = [import_model(tmp_path / "without", ImportOptions(seed=seed)) for seed in (1, 1, 2)]
    heads = [imported.model.head for imported in fresh]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert not heads[0].bias.any()
    assert fresh[2].checkpoint.provenance["head"] == "fresh, seed 2"


def test_weights_of_sentence_transformers_are_taken_over(tmp_path, hugging_face):
    """Those have no `bert.` prefix and hold a buffer of position ids."""
    hugging_face.write_source(tmp_path, BertModel)
    hugging_face.edit_weights(tmp_path, lambda weights: weights | {"embeddings.position_ids": torch.arange(400)[None]})
    assert "embeddings.position_ids" not in import_model(tmp_path).model.state_dict()


def test_the_first_names_of_layer_norms_are_understood(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertForQuestionAnswering)
    expected = import_model(tmp_path).model

    def old(weights):
        renamed = {}
        for name, tensor in weights.items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            renamed[name] = tensor
        return renamed

    hugging_face.edit_weights(tmp_path, old)
    model = import_model(tmp_path).model
    assert torch.equal(model.layers[1].attention_norm.bias, expected.layers[1].attention_norm.bias)


def test_a_head_of_another_task_is_refused(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertForQuestionAnswering)
    hugging_face.edit_weights(tmp_path, lambda weights: weights | {"qa_outputs.weight": torch.zeros(3, 24)})
    with pytest.raises(ImportWeightsError, match=r"head\.weight has shape \(3, 24\)"):
        import_model(tmp_path)
