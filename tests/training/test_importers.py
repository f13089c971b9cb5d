"""Hugging Face folders become checkpoints that compute the same."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    MegatronBertForQuestionAnswering,
    MegatronBertModel,
)

from spanqa.cli import main
from spanqa.errors import TokenizerError
from spanqa_training.checkpoint import load_checkpoint
from spanqa_training.errors import ImportWeightsError
from spanqa_training.importers import (
    checkpoint_from_hugging_face,
    hugging_face_keys,
    hugging_face_weights_from_model,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?")
BERT = (BertModel, BertForQuestionAnswering, BertForMaskedLM, BertForSequenceClassification)
MEGATRON = (MegatronBertModel, MegatronBertForQuestionAnswering, MegatronBertForMaskedLM)


def write_source(folder, model_class):
    """Save a small random model with transformers; returns it."""
    config_class = MegatronBertConfig if model_class in MEGATRON else BertConfig
    config = config_class(
        vocab_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=400,
    )
    torch.manual_seed(5)
    source = model_class(config).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return source


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change({name: tensor.clone() for name, tensor in weights.items()}), folder / "model.safetensors")


@pytest.mark.parametrize("model_class", [*BERT, *MEGATRON])
def test_every_kind_of_model_is_taken_over_and_renamed_back(tmp_path, model_class):
    """The round trip gives transformers' own names and values again."""
    source = write_source(tmp_path, model_class)
    _, model = checkpoint_from_hugging_face(tmp_path)
    back = hugging_face_weights_from_model(model)
    wanted = {name if "." in name and name.startswith(("bert.", "qa_outputs.")) else f"bert.{name}": tensor
              for name, tensor in source.state_dict().items()}  # fmt: skip
    shared = [name for name in back if name in wanted]
    assert len(shared) == len(back) - (0 if "QuestionAnswering" in model_class.__name__ else 2)
    for name in shared:
        assert torch.equal(back[name], wanted[name]), name


@pytest.mark.parametrize("model_class", [BertForQuestionAnswering, MegatronBertForQuestionAnswering])
def test_our_names_load_into_transformers_without_a_key_over_or_missing(tmp_path, model_class):
    write_source(tmp_path, model_class)
    _, model = checkpoint_from_hugging_face(tmp_path)
    target = model_class(model_class.config_class.from_pretrained(tmp_path)).eval()
    target.load_state_dict(hugging_face_weights_from_model(model), strict=True)
    ids = torch.tensor([[2, 4, 5, 3, 6, 7, 3]])
    ones, types = torch.ones_like(ids), torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        start, _ = model(ids, ones, types)
        expected = target(input_ids=ids, attention_mask=ones, token_type_ids=types).start_logits
    torch.testing.assert_close(start, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "megatron-bert"])
def test_the_renaming_table_is_one_to_one(family):
    keys = hugging_face_keys(family, 24)
    assert len(set(keys.values())) == len(keys)


def test_a_head_is_taken_over_where_there_is_one_and_drawn_by_the_seed_elsewhere(tmp_path):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    source = write_source(tmp_path / "with", BertForQuestionAnswering)
    write_source(tmp_path / "without", BertModel)
    checkpoint, model = checkpoint_from_hugging_face(tmp_path / "with")
    assert torch.equal(model.head.weight, source.qa_outputs.weight)
    assert checkpoint.provenance["head"] == "taken over"
    heads = [checkpoint_from_hugging_face(tmp_path / "without", seed=seed)[1].head for seed in (1, 1, 2)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert not heads[0].bias.any()


def test_weights_of_sentence_transformers_are_taken_over(tmp_path):
    """Those have no `bert.` prefix and hold a buffer of position ids."""
    write_source(tmp_path, BertModel)
    edit_weights(tmp_path, lambda weights: weights | {"embeddings.position_ids": torch.arange(400)[None]})
    checkpoint_from_hugging_face(tmp_path)


def test_the_first_names_of_layer_norms_are_understood(tmp_path):
    write_source(tmp_path, BertForQuestionAnswering)
    _, expected = checkpoint_from_hugging_face(tmp_path)

    def old(weights):
        renamed = {}
        for name, tensor in weights.items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            renamed[name] = tensor
        return renamed

    edit_weights(tmp_path, old)
    _, model = checkpoint_from_hugging_face(tmp_path)
    assert torch.equal(model.layers[1].attention_norm.bias, expected.layers[1].attention_norm.bias)


def test_half_precision_weights_become_float32(tmp_path):
    write_source(tmp_path, BertModel)
    edit_weights(tmp_path, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    _, model = checkpoint_from_hugging_face(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_configurations_eps_is_kept_unless_another_is_given(tmp_path):
    write_source(tmp_path, MegatronBertModel)
    kept, _ = checkpoint_from_hugging_face(tmp_path)
    given, model = checkpoint_from_hugging_face(tmp_path, layer_norm_eps=1e-5)
    assert kept.encoder.layer_norm_eps == 1e-12
    assert given.encoder.layer_norm_eps == model.final_norm.eps == given.provenance["layer_norm_eps"] == 1e-5
    assert given.provenance["layer_norm_eps_of_source"] == 1e-12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, r"config\.json: model_type is 'roberta': only bert and megatron-bert"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu': supported are gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key': only 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True: only False"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_heads 5"),
        ({"num_hidden_layers": 1}, r"holds .*encoder\.layer\.1\..* and 15 other weights that a bert of 1 layers"),
        ({"num_hidden_layers": 3}, r"lacks bert\.encoder\.layer\.2\..*not a complete bert encoder"),
        ({"intermediate_size": 41}, r"has shape \(40, 24\) and config.json asks for \(41, 24\)"),
        ({"type_vocab_size": 1}, "question and context need one type each"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(tmp_path, changes, message):
    write_source(tmp_path, BertForQuestionAnswering)
    edit_config(tmp_path, **changes)
    with pytest.raises(ImportWeightsError, match=message):
        checkpoint_from_hugging_face(tmp_path)


def test_an_incomplete_configuration_names_the_key(tmp_path):
    write_source(tmp_path, BertModel)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ImportWeightsError, match="lacks 'vocab_size'"):
        checkpoint_from_hugging_face(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_bin_files_and_shards_are_refused_with_the_way_out(tmp_path, name):
    write_source(tmp_path, BertModel)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(ImportWeightsError, match=r"are not read yet: load it with transformers and save_pretrained"):
        checkpoint_from_hugging_face(tmp_path)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(ImportWeightsError, match=r"holds no config\.json: give a Hugging Face model folder"):
        checkpoint_from_hugging_face(tmp_path)
    write_source(tmp_path, BertModel)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImportWeightsError, match=r"model\.safetensors: is damaged or incomplete"):
        checkpoint_from_hugging_face(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ImportWeightsError, match=r"config\.json: is not a model's configuration"):
        checkpoint_from_hugging_face(tmp_path)


def test_a_head_of_another_task_is_refused(tmp_path):
    write_source(tmp_path, BertForQuestionAnswering)
    edit_weights(tmp_path, lambda weights: weights | {"qa_outputs.weight": torch.zeros(3, 24)})
    with pytest.raises(ImportWeightsError, match="a start and an end are expected"):
        checkpoint_from_hugging_face(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    write_source(tmp_path, BertModel)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(TokenizerError, match=r"holds neither tokenizer\.json nor vocab\.txt"):
        checkpoint_from_hugging_face(tmp_path)


@pytest.mark.parametrize(("lower", "expected"), [(True, [7]), (False, [1])])
def test_the_tokenizer_of_a_vocabulary_follows_its_configuration(tmp_path, lower, expected):
    write_source(tmp_path, BertModel)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    checkpoint, _ = checkpoint_from_hugging_face(tmp_path)
    assert checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected


def test_the_command_writes_a_checkpoint_and_says_what_it_took_over(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    write_source(tmp_path / "source", MegatronBertModel)
    arguments = ["import", str(tmp_path / "source"), "-o", str(tmp_path / "checkpoint"), "--layer-norm-eps", "1e-5"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "megatron-bert, 2 layers of 24" in said
    assert "layer norm eps 1e-05, head fresh, seed 0" in said
    checkpoint, model = load_checkpoint(tmp_path / "checkpoint")
    expected = checkpoint_from_hugging_face(tmp_path / "source", layer_norm_eps=1e-5)
    assert checkpoint == expected[0]
    for name, tensor in expected[1].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_the_command_says_one_sentence_about_what_is_no_model(tmp_path, capsys):
    assert main(["import", str(tmp_path), "-o", str(tmp_path / "checkpoint")]) == 2
    assert capsys.readouterr().err.startswith("spanqa: error: ")
