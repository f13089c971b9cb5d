"""The configuration and the tokenizer of a Hugging Face folder hold unless the user says otherwise, or are refused."""

from __future__ import annotations

import json

import pytest
from transformers import BertForQuestionAnswering, BertModel, MegatronBertModel

from spanqa.errors import TokenizerError
from spanqa.windows import WindowSettings
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.recognition import ImportOptions, import_model

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?")


def test_what_the_user_says_replaces_what_the_configuration_says(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, MegatronBertModel)
    kept = import_model(tmp_path).checkpoint
    assert (kept.encoder.layer_norm_eps, kept.encoder.activation, kept.encoder.num_heads) == (1e-12, "gelu", 3)
    assert kept.windows == WindowSettings()
    windows = WindowSettings(max_seq_length=200, doc_stride=50)
    options = ImportOptions(
        layer_norm_eps=1e-5,
        activation="gelu_tanh",
        num_heads=6,
        windows=windows,
        config={"hidden_dropout_prob": 0.25, "num_attention_heads": 2},
    )
    imported = import_model(tmp_path, options)
    encoder, provenance = imported.checkpoint.encoder, imported.checkpoint.provenance
    assert (encoder.activation, encoder.num_heads, encoder.dropout) == ("gelu_tanh", 6, 0.25)
    assert encoder.layer_norm_eps == imported.model.final_norm.eps == provenance["layer_norm_eps"] == 1e-5
    assert provenance["layer_norm_eps_of_source"] == 1e-12
    assert imported.checkpoint.windows == windows


def test_an_activation_that_we_do_not_compute_cannot_be_asked_for():
    with pytest.raises(ImportWeightsError, match="activation is 'relu': give one of gelu, gelu_tanh"):
        ImportOptions(activation="relu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, r"config\.json: model_type is 'gpt2': only bert, megatron-bert, "),
        ({"hidden_act": "relu"}, "hidden_act is 'relu': supported are gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key': only 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True: only False"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_heads 5"),
        ({"num_hidden_layers": 1}, r"model\.safetensors: holds encoder\.layer\.1\..* and 15 more weights"),
        ({"num_hidden_layers": 3}, r"model\.safetensors: lacks encoder\.layer\.2\..*incomplete, or of another arch"),
        ({"intermediate_size": 41}, r"has shape \(40, 24\) and the configuration asks for \(41, 24\)"),
        ({"vocab_size": 17}, r"has shape \(16, 24\) and the configuration asks for \(17, 24\)"),
        ({"type_vocab_size": 1}, "question and context need one type each"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(tmp_path, changes, message, hugging_face):
    hugging_face.write_source(tmp_path, BertForQuestionAnswering)
    hugging_face.edit_config(tmp_path, **changes)
    with pytest.raises(ImportWeightsError, match=message) as caught:
        import_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_an_incomplete_configuration_names_the_key(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ImportWeightsError, match="lacks 'vocab_size': give a whole one"):
        import_model(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "\ud800"])
def test_a_damaged_configuration_is_named(tmp_path, content, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    (tmp_path / "config.json").write_text(content, encoding="utf-16" if content == "\ud800" else None, errors="replace")
    with pytest.raises(ImportWeightsError, match=r"config\.json: (holds no JSON object|cannot be read as JSON)"):
        import_model(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused_unless_one_is_given(tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vocab.txt").rename(tmp_path / "elsewhere" / "vocab.txt")
    with pytest.raises(ImportWeightsError, match=r"no tokenizer\.json or vocab\.txt there: .*\(--tokenizer\)"):
        import_model(tmp_path)
    for given in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "vocab.txt"):
        assert import_model(tmp_path, ImportOptions(tokenizer=given)).checkpoint.tokenizer().vocab_size == 9
    with pytest.raises(TokenizerError, match="cannot be read"):
        import_model(tmp_path, ImportOptions(tokenizer=tmp_path / "missing.txt"))


@pytest.mark.parametrize(("lower", "expected"), [(True, [7]), (False, [1])])
def test_the_tokenizer_of_a_vocabulary_follows_its_configuration_and_the_user(tmp_path, lower, expected, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    said = import_model(tmp_path, ImportOptions(do_lower_case=lower))
    assert said.checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    assert import_model(tmp_path).checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected


@pytest.mark.parametrize(("more", "expected"), [("Tower", [9]), ("##X", [1]), ("[unused1]", [7]), ("é", [7])])
def test_a_bare_vocabulary_with_capitals_keeps_case(tmp_path, more, expected, hugging_face):
    hugging_face.write_source(tmp_path, BertModel)
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, more]), encoding="utf-8")
    assert import_model(tmp_path).checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected


def test_the_real_vocabulary_of_lower_cased_text_has_no_capitals(root, tmp_path, hugging_face):
    hugging_face.write_source(tmp_path, BertModel, vocab_size=30522)
    tokenizer = json.loads((root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json").read_text())
    (tmp_path / "vocab.txt").write_text("\n".join(tokenizer["model"]["vocab"]), encoding="utf-8")
    pieces = import_model(tmp_path).checkpoint.tokenizer().pieces_of_many(["Tower", "tower"])
    assert pieces[0].ids.tolist() == pieces[1].ids.tolist()


@pytest.mark.parametrize(
    ("place", "name"),
    [("our-encoder", "our-encoder"), ("models--acme--encoder/snapshots/0a1b2c", "acme/encoder")],
)
def test_a_source_is_named_by_its_folder_and_not_by_its_parent(tmp_path, place, name, hugging_face):
    hugging_face.write_source(tmp_path / place, BertModel)
    hugging_face.edit_config(tmp_path / place, _name_or_path="the/parent")
    provenance = import_model(tmp_path / place, ImportOptions()).checkpoint.provenance
    assert (provenance["name"], provenance["name_in_config"]) == (name, "the/parent")
