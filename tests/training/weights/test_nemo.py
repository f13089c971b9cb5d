"""NeMo's question answering models become checkpoints that compute the same, cut contexts the same and answer so."""

from __future__ import annotations

import json

import pytest

from spanqa.errors import TokenizerError
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.recognition import ImportOptions, import_model

TARGETS = {
    "QAModel": "nemo.collections.nlp.models.question_answering.qa_model.QAModel",
    "BERTQAModel": "nemo.collections.nlp.models.question_answering.qa_bert_model.BERTQAModel",
}
HASH = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
FAMILIES = ["bert", "megatron"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("family", "version"), [("bert", 0), ("megatron", 0), ("megatron", 3.0)])
def test_logits_equal_those_of_transformers(tmp_path, models, vocabulary, family, version, target, mode, nemo):
    contents = nemo.members(models[family], family, vocabulary, target=target, version=version)
    imported = import_model(nemo.write(tmp_path / "qa.nemo", contents, mode=mode))
    nemo.assert_same_logits(imported, models[family])
    provenance = imported.checkpoint.provenance
    assert (provenance["source"], provenance["architectures"]) == ("NeMo archive", [target])
    assert provenance["head"] == "taken over"


def test_windows_and_answer_settings_are_carried_over(tmp_path, models, vocabulary, nemo):
    path = nemo.write(tmp_path / "qa.nemo", nemo.members(models["bert"], "bert", vocabulary))
    checkpoint = import_model(path).checkpoint
    assert checkpoint.windows == WindowSettings(max_seq_length=300, doc_stride=100, max_query_length=48)
    assert (checkpoint.max_answer_tokens, checkpoint.no_answer_threshold) == (25, -1.5)
    windows = WindowSettings(max_seq_length=200)
    assert import_model(path, ImportOptions(windows=windows)).checkpoint.windows == windows


def test_an_archive_that_says_nothing_of_windows_gets_berts(tmp_path, models, vocabulary, nemo):
    contents = nemo.changed_config(nemo.members(models["bert"], "bert", vocabulary), dataset={"max_seq_length": None})
    checkpoint = import_model(nemo.write(tmp_path / "qa.nemo", contents)).checkpoint
    assert (checkpoint.windows, checkpoint.max_answer_tokens) == (WindowSettings(), 30)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_configuration_of_the_encoder_its_shapes_tell(tmp_path, models, vocabulary, family, nemo):
    contents = nemo.members(models[family], family, vocabulary)
    del contents[f"{HASH}_x_encoder_config.json"]
    contents = nemo.changed_config(contents, language_model={"config_file": None, "config": None})
    eps = models[family].config.layer_norm_eps
    nemo.assert_same_logits(
        import_model(nemo.write(tmp_path / "qa.nemo", contents), ImportOptions(layer_norm_eps=eps)), models[family]
    )


def test_the_encoder_may_be_described_in_the_models_own_configuration(tmp_path, models, vocabulary, nemo):
    contents = nemo.members(models["bert"], "bert", vocabulary)
    described = json.loads(contents.pop(f"{HASH}_x_encoder_config.json"))
    contents = nemo.changed_config(contents, language_model={"config_file": None, "config": described})
    nemo.assert_same_logits(import_model(nemo.write(tmp_path / "qa.nemo", contents)), models["bert"])


def test_the_version_of_fused_weights_is_the_archives_or_nemos_default(tmp_path, models, vocabulary, nemo):
    """The first without a word; the newest where NeMo's own encoder says that it is no legacy."""
    for version, encoder_config in ((0, {}), (3.0, {"megatron_legacy": False}), (0, {"megatron_legacy": True})):
        contents = nemo.members(models["megatron"], "megatron", vocabulary, version=version)
        del contents["megatron_checkpoint_version.json"]
        contents[f"{HASH}_x_encoder_config.json"] = json.dumps({"num_layers": 2, **encoder_config}).encode()
        imported = import_model(nemo.write(tmp_path / "qa.nemo", contents))
        nemo.assert_same_logits(imported, models["megatron"])
        assert imported.checkpoint.provenance["checkpoint_version"] == version


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.vocab_file", f"{HASH}_tokenizer.vocab_file"])
def test_the_vocabulary_is_found_under_every_name_that_nemo_gave_it(tmp_path, models, vocabulary, name, nemo):
    contents = nemo.members(models["bert"], "bert", vocabulary)
    contents[name] = contents.pop(f"{HASH}_vocab.txt")
    contents = nemo.changed_config(contents, tokenizer={"vocab_file": "/workspace/vocab.txt"})
    nemo.assert_same_logits(import_model(nemo.write(tmp_path / "qa.nemo", contents)), models["bert"])


def test_a_tokenizer_json_or_a_vocabulary_beside_the_archive_serves_as_well(
    tmp_path,
    models,
    vocabulary_file,
    vocabulary,
    nemo,
):
    contents = nemo.members(models["bert"], "bert", vocabulary)
    del contents[f"{HASH}_vocab.txt"]
    path = nemo.write(tmp_path / "qa.nemo", contents)
    with pytest.raises(ImportWeightsError, match=rf"{tmp_path}: no tokenizer\.json or vocab\.txt there"):
        import_model(path)
    nemo.assert_same_logits(import_model(path, ImportOptions(tokenizer=vocabulary_file)), models["bert"])
    contents[f"{HASH}_tokenizer.json"] = load_tokenizer(vocabulary_file).serialized.encode()
    nemo.assert_same_logits(import_model(nemo.write(path, contents)), models["bert"])
    del contents[f"{HASH}_tokenizer.json"]
    (tmp_path / "vocab.txt").write_bytes(vocabulary)
    nemo.assert_same_logits(import_model(nemo.write(path, contents)), models["bert"])


@pytest.mark.parametrize(
    ("said", "more", "user", "lowers"),
    [
        (True, "tower", None, True),
        (False, "tower", None, False),
        (None, "tower", None, True),
        (True, "Tower", None, False),
        (True, "Tower", True, True),
        (True, "tower", False, False),
    ],
)
def test_case_is_the_datasets_unless_the_vocabulary_has_capitals_or_the_user_speaks(
    tmp_path, said, more, user, lowers, nemo
):
    """The old toolkit let do_lower_case: true stand beside a cased model, and its tokenizer did not heed it."""
    model = nemo.oracle("bert", 6)
    contents = nemo.members(model, "bert", "\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "city", more)).encode())
    contents = nemo.changed_config(contents, dataset={"do_lower_case": said})
    imported = import_model(nemo.write(tmp_path / "qa.nemo", contents), ImportOptions(do_lower_case=user))
    assert imported.checkpoint.tokenizer().pieces("City").ids.tolist() == ([4] if lowers else [1])


def test_a_damaged_vocabulary_is_named_within_its_archive(tmp_path, models, vocabulary, nemo):
    contents = {**nemo.members(models["bert"], "bert", vocabulary), f"{HASH}_vocab.txt": b"no vocabulary"}
    with pytest.raises(TokenizerError, match=rf"^{tmp_path}/qa\.nemo/vocab\.txt: .*\[UNK\] is missing"):
        import_model(nemo.write(tmp_path / "qa.nemo", contents))


def test_an_archive_may_bear_any_name(tmp_path, models, vocabulary, nemo):
    path = nemo.write(tmp_path / "renamed.tlt", nemo.members(models["megatron"], "megatron", vocabulary))
    nemo.assert_same_logits(import_model(path), models["megatron"])
