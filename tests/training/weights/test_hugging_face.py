"""Hugging Face folders become checkpoints that compute the same, whatever files hold the weights."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
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
from spanqa_training.weights.recognition import import_model

BERT = (BertModel, BertForQuestionAnswering, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification)
MEGATRON = (MegatronBertModel, MegatronBertForQuestionAnswering, MegatronBertForMaskedLM, MegatronBertForPreTraining)
WEIGHTS = "model.safetensors"


def oracle_of(source, model):
    """transformers' question answering model with the source's encoder and the imported head."""
    oracle_class = MegatronBertForQuestionAnswering if type(source) in MEGATRON else BertForQuestionAnswering
    oracle = oracle_class(source.config).eval()
    encoder = getattr(source, "bert", source).state_dict()
    oracle.bert.load_state_dict({name: t for name, t in encoder.items() if not name.startswith("pooler")})
    oracle.qa_outputs.load_state_dict(getattr(source, "qa_outputs", model.head).state_dict())
    return oracle


def as_safetensors(folder):
    """What save_pretrained wrote."""


def as_safetensors_shards(folder):
    split(folder, WEIGHTS, save_file)


def as_bin(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def as_legacy_bin(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / WEIGHTS).unlink()


def as_bin_shards(folder):
    split(folder, "pytorch_model.bin", torch.save)


def split(folder, name, save):
    """Deal the weights out to three shards."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    stem, _, suffix = name.partition(".")
    shards = [f"{stem}-{number:05d}-of-00003.{suffix}" for number in (1, 2, 3)]
    for number, shard in enumerate(shards):
        save({key: weights[key] for key in list(weights)[number::3]}, folder / shard)
    shard_of_weight = {key: shards[number % 3] for number, key in enumerate(weights)}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of_weight}))


STORAGES = (as_safetensors, as_safetensors_shards, as_bin, as_legacy_bin, as_bin_shards)


@pytest.mark.parametrize(
    ("model_class", "store"),
    [
        *((model_class, as_safetensors) for model_class in (*BERT, *MEGATRON)),
        *itertools.product((BertForQuestionAnswering, MegatronBertForPreTraining), STORAGES[1:]),
    ],
)
def test_logits_equal_those_of_transformers(tmp_path, model_class, store, hugging_face):
    source = hugging_face.write_source(tmp_path, model_class)
    store(tmp_path)
    imported = import_model(tmp_path)
    hugging_face.assert_same_logits(imported.model, oracle_of(source, imported.model))
    assert not imported.model.training
    assert all(parameter.requires_grad for parameter in imported.model.parameters())


def test_half_precision_weights_become_float32(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertForMaskedLM)
    hugging_face.edit_weights(tmp_path, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    imported = import_model(tmp_path)
    tensors = [*imported.model.parameters(), *imported.lm_head.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_the_models_weights_outlive_the_files(tmp_path, hugging_face):
    """They are copies: overwriting the file changes no weight."""
    hugging_face.write_source(tmp_path, BertForQuestionAnswering)
    as_bin(tmp_path)
    model = import_model(tmp_path).model
    before = model.head.weight.clone()
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(model.head.weight, before)


def test_missing_and_damaged_weights_are_named(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImportWeightsError, match=r"model\.safetensors: is damaged or incomplete"):
        import_model(tmp_path)
    path.unlink()
    with pytest.raises(ImportWeightsError, match=r"holds no weights: .*model\.safetensors or pytorch_model\.bin"):
        import_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ImportWeightsError, match=r"pytorch_model\.bin: is damaged") as raised:
        import_model(tmp_path)
    assert str(raised.value).count("pytorch_model.bin") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [([torch.ones(1)], "holds a list instead"), ({"bert": {"a": 1}}, "holds under 'bert' a dict instead of a weight")],
)
def test_a_bin_of_something_else_than_weights_is_refused(tmp_path, content, message, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    (tmp_path / WEIGHTS).unlink()
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ImportWeightsError, match=rf"pytorch_model\.bin: {message}"):
        import_model(tmp_path)


def test_shards_are_read_from_the_folder_only(tmp_path, hugging_face):
    folder = tmp_path / "source"
    folder.mkdir()
    hugging_face.write_source(folder, BertModel)
    as_safetensors_shards(folder)
    shard = folder / "model-00002-of-00003.safetensors"
    index = folder / f"{WEIGHTS}.index.json"
    whole = json.loads(index.read_text())
    shard.rename(tmp_path / shard.name)
    with pytest.raises(ImportWeightsError, match=rf"{shard.name}: is missing: fetch it"):
        import_model(folder)
    for name in (f"../{shard.name}", str(tmp_path / shard.name), 7, ""):
        moved = {key: name if value == shard.name else value for key, value in whole["weight_map"].items()}
        index.write_text(json.dumps({"weight_map": moved}))
        with pytest.raises(ImportWeightsError, match="only files beside it are read"):
            import_model(folder)


def test_an_index_that_promises_too_much_is_refused(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    as_safetensors_shards(tmp_path)
    index = tmp_path / f"{WEIGHTS}.index.json"
    whole = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": whole | {"pooler.more": next(iter(whole.values()))}}))
    with pytest.raises(ImportWeightsError, match=r"names pooler\.more, which no shard holds"):
        import_model(tmp_path)
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(ImportWeightsError, match=r"index\.json: has no weight_map"):
        import_model(tmp_path)
