"""The model that training starts from is the one that the spec names, or one sentence says why there is none."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from spanqa.errors import TokenizerError
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.errors import CheckpointError, ImportWeightsError, SpecError
from spanqa_training.spec.files import load_spec
from spanqa_training.spec.schema import Spec
from spanqa_training.weights.hub import folder_of_name
from spanqa_training.weights.model_sources import base_model, open_model

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 512,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("SPANQA_MODELS", raising=False)


@pytest.fixture
def notes():
    return []


@pytest.fixture
def base(tmp_path, notes):
    """Makes the base model of a spec given as overrides."""

    def make(*overrides):
        loaded = load_spec(None, overrides, uses=set(Spec.__dataclass_fields__), warn=notes.append)
        return base_model(loaded.spec, key=None, results=tmp_path / "results", warn=notes.append)

    return make


@pytest.fixture
def vocabulary(root):
    return root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"


@pytest.fixture
def source(tmp_path, vocabulary):
    """A Hugging Face folder with the real tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path / "models" / "some-bert"
    BertModel(BertConfig(vocab_size=30522, **SHAPE)).save_pretrained(folder)
    shutil.copy(vocabulary, folder)
    return folder


def config_of(**changes):
    return f"model.language_model.config={json.dumps({**SHAPE, **changes})}"


def test_a_configuration_alone_starts_from_random_weights_that_the_seed_decides(base, vocabulary):
    spec = [config_of(), f"model.tokenizer.vocab_file={vocabulary}"]
    checkpoint, model = base(*spec)
    assert checkpoint.provenance["source"] == "random weights"
    assert (checkpoint.encoder.hidden_size, checkpoint.encoder.vocab_size) == (16, 30522)
    _, same = base(*spec)
    _, other = base(*spec, "trainer.seed=7")
    assert torch.equal(model.embeddings.word.weight, same.embeddings.word.weight)
    assert not torch.equal(model.embeddings.word.weight, other.embeddings.word.weight)


def test_a_configuration_may_be_of_any_family_and_its_positions_begin_after_the_tokenizers_padding(base, vocabulary):
    given = f"model.tokenizer.vocab_file={vocabulary}"
    checkpoint, model = base(config_of(model_type="roberta", type_vocab_size=1, max_position_embeddings=400), given)
    assert checkpoint.encoder.family == "roberta"
    assert checkpoint.encoder.position_offset == checkpoint.tokenizer().pad_id + 1
    assert model.embeddings.position.num_embeddings == 400 == checkpoint.encoder.max_positions + 1
    with pytest.raises(ImportWeightsError, match="pads with id 0, and the positions of the weights begin after id 1"):
        base(config_of(model_type="roberta", pad_token_id=1), given)


@pytest.mark.parametrize("named", ["sentencepiece.bpe.model", ""])
def test_a_model_from_scratch_may_have_a_sentencepiece_model(base, tokenizer_folders, tokenizers_of_families, named):
    given = f"model.tokenizer.vocab_file={tokenizer_folders['xlm-roberta'] / named}"
    checkpoint, _ = base(config_of(model_type="xlm-roberta", type_vocab_size=1, max_position_embeddings=400), given)
    assert checkpoint.tokenizer().sha256 == tokenizers_of_families["xlm-roberta"].sha256
    with pytest.raises(TokenizerError, match=r"how a SentencePiece model is used is known of .*, not of 'bert'"):
        base(config_of(), given)


def test_a_configuration_file_has_precedence_over_one_written_out(base, vocabulary, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "hidden_size": 32}))
    checkpoint, _ = base(
        config_of(),
        f"model.language_model.config_file={tmp_path / 'config.json'}",
        f"model.tokenizer.vocab_file={vocabulary}",
    )
    assert checkpoint.encoder.hidden_size == 32


def test_a_bare_vocabulary_has_the_case_that_the_spec_gives_it(base, tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "A", "b"]), encoding="utf-8"
    )
    vocabulary = f"model.tokenizer.vocab_file={tmp_path / 'vocab.txt'}"
    for lower, same in (("true", True), ("false", False)):
        checkpoint, _ = base(config_of(), vocabulary, f"model.dataset.do_lower_case={lower}")
        upper, small = checkpoint.tokenizer().pieces_of_many(["A", "a"])
        assert (upper.ids.tolist() == small.ids.tolist()) == same


@pytest.mark.parametrize("place", ["path", "models", "hub"])
def test_a_name_is_a_path_a_folder_of_models_or_in_the_hubs_cache(base, source, monkeypatch, tmp_path, place):
    if place == "models":
        monkeypatch.setenv("SPANQA_MODELS", str(source.parent))
    if place == "hub":
        snapshot = tmp_path / "hub" / "models--some-bert" / "snapshots" / ("0" * 40)
        shutil.copytree(source, snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    name = source if place == "path" else "some-bert"
    checkpoint, model = base(f"model.language_model.pretrained_model_name={name}")
    assert checkpoint.provenance["head"].startswith("fresh")
    theirs = BertModel.from_pretrained(source)
    assert torch.equal(model.embeddings.word.weight, theirs.embeddings.word_embeddings.weight)


def test_weights_may_be_given_apart_from_the_vocabulary(base, source, tmp_path):
    vocabulary = tmp_path / "tokenizer.json"
    (source / "tokenizer.json").rename(vocabulary)
    checkpoint, _ = base(f"model.language_model.lm_checkpoint={source}", f"model.tokenizer.vocab_file={vocabulary}")
    assert checkpoint.tokenizer_json == vocabulary.read_text(encoding="utf-8")


def test_the_head_is_drawn_as_the_spec_asks_and_only_where_it_is_fresh(base, source, tiny_checkpoint):
    name = f"model.language_model.pretrained_model_name={source}"
    _, as_encoder = base(name)
    _, as_torch = base(name, "model.token_classifier.use_transformer_init=false")
    assert as_encoder.head.bias.count_nonzero() == 0
    assert float(as_encoder.head.weight.detach().std()) == pytest.approx(0.02, rel=0.5)
    assert as_torch.head.bias.count_nonzero() == 2
    _, trained = load_checkpoint(tiny_checkpoint)
    _, restored = base(f"restore_from={tiny_checkpoint}", "model.token_classifier.use_transformer_init=false")
    assert torch.equal(trained.head.weight, restored.head.weight)


def test_dropout_is_the_specs(base, tiny_checkpoint):
    checkpoint, model = base(
        f"restore_from={tiny_checkpoint}",
        "model.token_classifier.dropout=0.3",
        "model.language_model.dropout=0.2",
        "model.language_model.attention_dropout=0",
    )
    assert (model.head_dropout.p, model.embeddings.dropout.p) == (0.3, 0.2)
    assert {(layer.dropout.p, layer.attention.dropout) for layer in model.layers} == {(0.2, 0)}
    # What is stored: the head's, and the model's own beside it.
    encoder = checkpoint.encoder
    assert (encoder.head_dropout, encoder.dropout, encoder.attention_dropout) == (0.3, 0.1, 0.1)
    assert model.config == encoder


def test_dropout_is_the_models_where_the_spec_says_nothing(base, still_checkpoint):
    checkpoint, model = base(f"restore_from={still_checkpoint}")
    assert checkpoint.encoder == load_checkpoint(still_checkpoint)[0].encoder
    assert {(layer.dropout.p, layer.attention.dropout) for layer in model.layers} == {(0, 0)}


@pytest.mark.parametrize("key", ["model.language_model.dropout", "model.language_model.attention_dropout"])
def test_a_dropout_that_drops_all_is_refused(base, tiny_checkpoint, key):
    with pytest.raises(SpecError, match=rf"{key}: must be from 0 up to, not including, 1, got 1"):
        base(f"restore_from={tiny_checkpoint}", f"{key}=1")


def test_a_checkpoint_opens_under_any_name(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "renamed.nemo")
    assert open_model(tmp_path / "renamed.nemo")[0] == open_model(tiny_checkpoint)[0]


@pytest.mark.parametrize("suffix", [".tlt", ".nemo"])
def test_a_name_without_its_suffix_is_answered_with_the_one_that_is_there(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"model: no such checkpoint: did you mean .*model{suffix}\?"):
        open_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.language_model.pretrained_model_name=null"], "model.language_model names no model: give pretrained_"),
        ([config_of()], "a model from scratch needs a vocabulary: give model.tokenizer.vocab_file"),
        (["model.language_model.config_file=nowhere.json"], "config_file: nowhere.json: cannot be read as JSON"),
        (["model.language_model.lm_checkpoint=nowhere.pt"], "lm_checkpoint: nowhere.pt: no such file or folder"),
        (
            ["model.language_model.pretrained_model_name=megatron-bert-345m-uncased"],
            "has no weights of it: put NVIDIA's model_optim_rng.pt and its vocab.txt into "
            "$SPANQA_MODELS/megatron-bert-345m-uncased",
        ),
        ([], "bert-base-uncased: not below $SPANQA_MODELS, not in the Hub's cache, and it cannot be fetched"),
        (["model.language_model.pretrained_model_name=a b//c"], "a b//c: neither a path nor a model's name"),
        (["model.tokenizer.tokenizer_name=megatron-x"], "model.tokenizer.tokenizer_name: megatron-x: the Hugging"),
    ],
)
def test_what_names_no_model_is_one_sentence(base, overrides, message):
    with pytest.raises(SpecError) as caught:
        base(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_hubs_name_is_never_fetched_twice(source, monkeypatch):
    monkeypatch.setenv("SPANQA_MODELS", str(source.parent))
    assert folder_of_name("some-bert", "x") == source


def cached(tmp_path, *files):
    """The Hub's cache with a snapshot of a model, of some files alone."""
    snapshot = tmp_path / "hub" / "models--some-bert" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    for file in files:
        shutil.copy(file, snapshot)
    return snapshot


def test_a_cached_folder_without_weights_is_not_taken_for_the_model(source, tmp_path):
    cached(tmp_path, source / "config.json", source / "tokenizer.json")
    with pytest.raises(SpecError, match="neither the Hub nor its cache holds weights of it: give a path"):
        folder_of_name("some-bert", "x")


def test_a_cached_vocabulary_is_enough_for_a_tokenizer(base, source, tmp_path):
    cached(tmp_path, source / "tokenizer.json")
    checkpoint, _ = base(config_of(), "model.tokenizer.tokenizer_name=some-bert")
    assert checkpoint.tokenizer_json == (source / "tokenizer.json").read_text(encoding="utf-8")


def test_a_model_with_few_positions_is_trained_in_the_windows_that_the_spec_gives(base, source, vocabulary):
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30522, **{**SHAPE, "max_position_embeddings": 128})).save_pretrained(source)
    windows = [f"model.dataset.{name}" for name in ("max_seq_length=100", "doc_stride=40", "max_query_length=20")]
    for spec in (
        [f"model.language_model.pretrained_model_name={source}"],
        [config_of(max_position_embeddings=128), f"model.tokenizer.vocab_file={vocabulary}"],
    ):
        assert base(*spec)[0].windows == WindowSettings(max_seq_length=128, doc_stride=63, max_query_length=62)
        given = WindowSettings(max_seq_length=100, doc_stride=40, max_query_length=20)
        assert base(*spec, *windows)[0].windows == given
