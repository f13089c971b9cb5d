"""A checkpoint comes back as it was saved, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoint import FILES, Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?", "naïve")


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return Checkpoint(
        encoder=EncoderConfig(vocab_size=12, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16),
        tokenizer_json=load_tokenizer(tmp_path / "vocab.txt").serialized,
        windows=WindowSettings(max_seq_length=100, doc_stride=30, max_query_length=20),
        no_answer_threshold=-0.1,
        max_answer_tokens=17,
        temperature=1.25,
        provenance={"base": "日本", "steps": 3},
        spec="seed: 1\n",
        metrics={"f1": 55.5},
    )


@pytest.fixture
def model(checkpoint):
    torch.manual_seed(1)
    return SpanModel(checkpoint.encoder)


@pytest.fixture
def saved(checkpoint, model, tmp_path):
    folder = tmp_path / "run" / "trained"
    save_checkpoint(checkpoint, model, folder)
    return folder


def assert_same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_checkpoint_comes_back_as_it_was_saved(checkpoint, model, saved):
    loaded, loaded_model = load_checkpoint(saved)
    assert loaded == checkpoint == read_checkpoint(saved)
    assert_same_weights(loaded_model, model)
    assert not loaded_model.training
    assert all(parameter.requires_grad for parameter in loaded_model.parameters())
    assert {path.name for path in saved.iterdir()} == set(FILES)
    assert loaded.tokenizer().pieces("the naïve tower?").ids.tolist() == [6, 1, 7, 8]


def test_float16_weights_come_back_as_float32(checkpoint, model, tmp_path):
    save_checkpoint(checkpoint, model, tmp_path / "half", dtype="float16")
    save_checkpoint(checkpoint, model, tmp_path / "full")
    _, loaded = load_checkpoint(tmp_path / "half")
    assert_same_weights(loaded, model.half().float())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]


def test_an_untrained_checkpoint_needs_neither_spec_nor_metrics(checkpoint, model, tmp_path):
    folder = tmp_path / "bare"
    save_checkpoint(replace(checkpoint, spec=None, metrics={}), model, folder)
    (folder / "metrics.json").unlink()
    assert read_checkpoint(folder) == replace(checkpoint, spec=None, metrics={})


def test_saving_again_replaces_everything_but_the_files_of_others(checkpoint, model, saved):
    (saved / "README.md").write_text("a model card")
    (saved / "plots").mkdir()
    (saved / "plots" / "loss.svg").write_text("<svg/>")
    save_checkpoint(replace(checkpoint, spec=None, no_answer_threshold=2.0), model, saved)
    assert read_checkpoint(saved).no_answer_threshold == 2.0
    assert not (saved / "spec.yaml").exists()
    assert (saved / "README.md").read_text() == "a model card"
    assert (saved / "plots" / "loss.svg").read_text() == "<svg/>"
    assert [path.name for path in saved.parent.iterdir()] == ["trained"]


@pytest.mark.parametrize("fatal_rename", [1, 2])
def test_a_save_interrupted_in_the_swap_leaves_the_old_or_the_new(checkpoint, model, saved, monkeypatch, fatal_rename):
    """The first rename sets the old folder aside, the second moves the new one in."""
    real_rename, n_renames = Path.rename, 0

    def rename(self, target):
        nonlocal n_renames
        n_renames += 1
        if n_renames == fatal_rename:
            raise KeyboardInterrupt
        return real_rename(self, target)

    newer = replace(checkpoint, no_answer_threshold=9.0)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(newer, model, saved)
    monkeypatch.undo()
    assert n_renames == fatal_rename
    assert load_checkpoint(saved)[0] == checkpoint
    save_checkpoint(newer, model, saved)
    assert load_checkpoint(saved)[0] == newer
    assert [path.name for path in saved.parent.iterdir()] == ["trained"]


def test_a_save_that_fails_while_writing_leaves_the_old_and_no_debris(checkpoint, model, saved):
    with pytest.raises(CheckpointError, match="provenance or metrics hold what JSON cannot"):
        save_checkpoint(replace(checkpoint, metrics={"loss": float("nan")}), model, saved)
    with torch.no_grad():
        model.head.bias[0] = 1e6
    with pytest.raises(CheckpointError, match=r"1 weights, first head\.bias, are not finite as torch\.float16"):
        save_checkpoint(checkpoint, model, saved, dtype="float16")
    assert load_checkpoint(saved)[0] == checkpoint
    assert [path.name for path in saved.parent.iterdir()] == ["trained"]


def test_a_folder_of_something_else_is_left_alone(checkpoint, model, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="holds something else than a checkpoint and is left alone"):
        save_checkpoint(checkpoint, model, tmp_path / "home")
    with pytest.raises(CheckpointError, match="is a file, and a checkpoint is a folder"):
        save_checkpoint(checkpoint, model, tmp_path / "home" / "letter.txt")
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_an_empty_folder_is_filled_and_a_relative_path_works(checkpoint, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    save_checkpoint(checkpoint, model, "empty")
    assert load_checkpoint("empty")[0] == checkpoint


@pytest.mark.parametrize("name", FILES[:3])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        load_checkpoint(saved)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: missing"):
        load_checkpoint(tmp_path / "nowhere")


def test_damaged_weights_are_noticed(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged or incomplete"):
        load_checkpoint(saved)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged or incomplete"):
        load_checkpoint(saved)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="are not the weights that the checkpoint was saved with"):
        load_checkpoint(saved)


def test_another_tokenizer_is_noticed(saved):
    path = saved / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("tower", "power"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not the tokenizer that the checkpoint was saved with"):
        read_checkpoint(saved)


def edit_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["encoder"].update(num_layers=3), r"lacks weight layers\.2\.attention"),
        (lambda c: c["encoder"].update(num_layers=1), r"holds the unknown weight layers\.1\."),
        (
            lambda c: c["encoder"].update(intermediate_size=20),
            r"has shape \(16, 8\) and config.json asks for \(20, 8\)",
        ),
        (lambda c: c["encoder"].update(num_heads=3), "does not describe a model: hidden_size 8 is not a multiple"),
        (lambda c: c["encoder"].update(colour="red"), "does not describe a model: .*colour"),
        (lambda c: c["encoder"].update(max_positions=99), "max_seq_length 100 is more than the model's 99 positions"),
        (
            lambda c: c["encoder"].update(vocab_size=9),
            "the tokenizer has 10 tokens and the model's word embedding only 9",
        ),
        (lambda c: c["windows"].update(doc_stride=0), r"does not describe a model: doc_stride \(0\)"),
        (lambda c: c["decode"].update(temperature=0), "temperature is 0: give a number above 0"),
        (lambda c: c["decode"].update(no_answer_threshold=float("nan")), "no_answer_threshold is nan"),
        (lambda c: c["decode"].update(max_answer_tokens=0), "max_answer_tokens is 0"),
        (lambda c: c.pop("provenance"), "does not describe a model: 'provenance'"),
        (lambda c: c.update(format_version=2), "has format version 2 and this spanqa reads 1"),
        (lambda c: c.pop("format"), 'is not of a spanqa checkpoint; other weights are taken over by "spanqa import"'),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(saved, change, message):
    edit_config(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_a_config_that_is_not_json_is_one_sentence(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: is not JSON"):
        load_checkpoint(saved)


def test_a_model_of_another_architecture_is_not_saved(checkpoint, tmp_path):
    other = SpanModel(replace(checkpoint.encoder, num_layers=1))
    with pytest.raises(CheckpointError, match="the model's architecture is not the checkpoint's"):
        save_checkpoint(checkpoint, other, tmp_path / "x")
    with pytest.raises(CheckpointError, match="dtype is 'int8': give one of float32, float16"):
        save_checkpoint(checkpoint, SpanModel(checkpoint.encoder), tmp_path / "x", dtype="int8")
