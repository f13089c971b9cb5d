"""Checkpoints become Hugging Face folders that compute the same in transformers, and come back as they were."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertModel

from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.errors import CheckpointError, ImportWeightsError
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights.hugging_face import OWN_FILES, write_hugging_face
from spanqa_training.weights.recognition import ImportOptions, import_model

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?")
WEIGHTS = "model.safetensors"


def real_checkpoint(root, layer_norm="post", **changes):
    """A random model with the real tokenizer."""
    config = EncoderConfig(
        vocab_size=30522,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        layer_norm=layer_norm,
        layer_norm_eps=1e-5,
        **changes,
    )
    torch.manual_seed(2)
    model = SpanModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = (root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json").read_text(encoding="utf-8")
    return Checkpoint(encoder=config, tokenizer_json=tokenizer, no_answer_threshold=1.5), model


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("layer_norm", ["pre", "post"])
def test_an_exported_folder_computes_the_same_in_transformers_and_when_it_comes_back(
    root,
    tmp_path,
    layer_norm,
    activation,
    hugging_face,
):
    checkpoint, model = real_checkpoint(root, layer_norm, activation=activation)
    folder = tmp_path / "deep" / "export"
    write_hugging_face(checkpoint, model, folder)
    assert {path.name for path in folder.iterdir()} == set(OWN_FILES)
    oracle, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert type(oracle).__name__ == json.loads((folder / "config.json").read_text())["architectures"][0]
    hugging_face.assert_same_logits(model, oracle.eval())
    back = import_model(folder)
    assert back.checkpoint.encoder == checkpoint.encoder
    for name, tensor in back.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_an_exported_model_comes_back_with_its_windows_and_decode_settings(root, tmp_path):
    checkpoint, model = real_checkpoint(root)
    checkpoint = replace(
        checkpoint,
        windows=WindowSettings(max_seq_length=200, doc_stride=50, max_query_length=40),
        max_answer_tokens=17,
        no_answer_threshold=-2.5,
        temperature=1.25,
        word_boundaries=True,
    )
    write_hugging_face(checkpoint, model, tmp_path / "export")
    back = import_model(tmp_path / "export").checkpoint
    assert replace(back, tokenizer_json=checkpoint.tokenizer_json, provenance={}) == checkpoint
    asked = WindowSettings(max_seq_length=100, doc_stride=20, max_query_length=30)
    assert import_model(tmp_path / "export", ImportOptions(windows=asked)).checkpoint.windows == asked


def test_an_export_from_before_word_boundaries_comes_back_with_parts_of_words(root, tmp_path, hugging_face):
    checkpoint, model = real_checkpoint(root)
    write_hugging_face(replace(checkpoint, word_boundaries=True), model, tmp_path / "export")
    own = json.loads((tmp_path / "export" / "config.json").read_text())["spanqa"]
    del own["word_boundaries"]
    hugging_face.edit_config(tmp_path / "export", spanqa=own)
    back = import_model(tmp_path / "export").checkpoint
    assert (back.word_boundaries, back.no_answer_threshold) == (False, 1.5)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"word_boundaries": "no"}, "spanqa.word_boundaries is 'no': give true or false"),
        ({"word_boundaries": 1}, "spanqa.word_boundaries is 1: give true or false"),
        ({"max_answer_tokens": True}, "spanqa.max_answer_tokens is True: give a whole number"),
        ({"doc_stride": "128"}, "spanqa.doc_stride is '128': give a whole number"),
        ({"temperature": None}, "spanqa.temperature is None: give a number"),
        ({"temperature": 0}, "temperature is 0: give a number above 0"),
        ({"max_seq_length": 4096}, "max_seq_length 4096 is more than the model's 512 positions"),
        ("yes", "spanqa is 'yes': it must hold settings"),
    ],
    ids=str,
)
def test_settings_of_ours_that_cannot_be_are_one_sentence(root, tmp_path, own, message, hugging_face):
    checkpoint, model = real_checkpoint(root)
    write_hugging_face(checkpoint, model, tmp_path / "export")
    hugging_face.edit_config(tmp_path / "export", spanqa=own)
    with pytest.raises(ImportWeightsError, match=message):
        import_model(tmp_path / "export")


def test_an_exported_tokenizer_cuts_real_questions_as_ours_does(root, tmp_path, real_questions):
    checkpoint, model = real_checkpoint(root)
    write_hugging_face(checkpoint, model, tmp_path / "export")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "export"), checkpoint.tokenizer()
    for example in real_questions[::5]:
        question, context = ours.pieces_of_many([example.question, example.context])
        pair = theirs(example.question, example.context)
        expected = [ours.cls_id, *question.ids, ours.sep_id, *context.ids, ours.sep_id]
        assert pair["input_ids"] == expected
        assert pair["token_type_ids"] == [0] * (len(question) + 2) + [1] * (len(context) + 1)
    assert theirs.model_max_length == checkpoint.encoder.max_positions
    assert (theirs.pad_token_id, theirs.mask_token) == (ours.pad_id, "[MASK]")


def test_an_export_of_a_vocabulary_without_a_mask_names_no_mask(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    config = EncoderConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    write_hugging_face(
        Checkpoint(encoder=config, tokenizer_json=tokenizer.serialized), SpanModel(config), tmp_path / "x"
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "x").mask_token is None


def test_an_export_replaces_an_earlier_one_and_nothing_else(root, tmp_path, hugging_face):
    checkpoint, model = real_checkpoint(root)
    folder = tmp_path / "export"
    write_hugging_face(checkpoint, model, folder)
    (folder / "README.md").write_text("a card")
    model.head.bias.data += 1
    write_hugging_face(checkpoint, model, folder)
    assert torch.equal(load_file(folder / WEIGHTS)["qa_outputs.bias"], model.head.bias)
    assert (folder / "README.md").read_text() == "a card"
    other = tmp_path / "other"
    other.mkdir()
    write_hugging_face(checkpoint, model, other)
    source = tmp_path / "source"
    source.mkdir()
    hugging_face.write_source(source, BertModel)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    (tmp_path / "file").write_text("mine")
    for target in (source, tmp_path / "file"):
        with pytest.raises(CheckpointError, match="holds something else than an earlier export and is left alone"):
            write_hugging_face(checkpoint, model, target)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_an_interrupted_export_leaves_the_earlier_one(root, tmp_path, monkeypatch):
    checkpoint, model = real_checkpoint(root)
    folder = tmp_path / "export"
    write_hugging_face(checkpoint, model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr("spanqa_training.weights.hugging_face.save_file", fail)
    with pytest.raises(CheckpointError, match=r"export: cannot be written: the disk is full"):
        write_hugging_face(checkpoint, model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
