"""A checkpoint comes back as it was saved, and what is none is told apart."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from spanqa_training.checkpoints import storage
from spanqa_training.checkpoints.checkpoint import (
    is_checkpoint,
    load_checkpoint,
    load_lm_head,
    read_checkpoint,
    save_checkpoint,
)
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.weights_file import safetensors_from_weights

pytestmark = pytest.mark.usefixtures("cheap_derivation")
FILES = ("config.json", "model.safetensors", "tokenizer.json", "spec.yaml", "metrics.json")
KEY = Key(secret=b"correct horse battery")
KINDS = pytest.mark.parametrize("name", ["trained", "trained.tlt", "trained.ckpt"])
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


@KINDS
@KEYS
def test_a_checkpoint_comes_back_as_it_was_saved(checkpoint, model, tmp_path, name, key, tools):
    path = tmp_path / "run" / name
    save_checkpoint(checkpoint, model, path, key=key)
    loaded, loaded_model = load_checkpoint(path, key=key)
    assert loaded == checkpoint == read_checkpoint(path)
    tools.assert_same_weights(loaded_model, model)
    assert not loaded_model.training
    assert all(parameter.requires_grad for parameter in loaded_model.parameters())
    assert loaded.tokenizer().pieces("the naïve tower?").ids.tolist() == [6, 1, 7, 8]
    weights = "model.safetensors.sealed" if key else "model.safetensors"
    assert tools.names(path) == sorted([weights, *(name for name in FILES if name != "model.safetensors")])
    assert path.is_dir() == (name == "trained")
    assert is_checkpoint(path)
    assert load_lm_head(path, key) == {}
    assert [path.name for path in path.parent.iterdir()] == [name]


def test_the_stored_weights_are_a_safetensors_file(checkpoint, model, saved, tmp_path, tools):
    content = (saved / "model.safetensors").read_bytes()
    assert content == safetensors.torch.save(dict(model.state_dict()), metadata={"format": "pt"})
    assert tools.config_of(saved)["weights_sha256"] == hashlib.sha256(content).hexdigest()
    save_checkpoint(checkpoint, model, tmp_path / "locked", key=KEY)
    assert tools.config_of(tmp_path / "locked")["weights_sha256"] == hashlib.sha256(content).hexdigest()


def test_empty_scalar_and_transposed_tensors_are_stored_as_safetensors_does():
    weights = {"é": torch.zeros(0, 3), "scalar": torch.tensor(2.0), "turned": torch.arange(6.0).reshape(2, 3).T}
    ours = b"".join(safetensors_from_weights(weights, torch.float16))
    whole = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    assert ours == safetensors.torch.save(whole, metadata={"format": "pt"})


def test_a_plain_checkpoint_is_of_the_version_that_the_first_release_reads(checkpoint, model, tmp_path, tools):
    for name, options, version in (
        ("plain", {}, 1),
        ("plain.tlt", {}, 1),
        ("locked", {"key": KEY}, 2),
        ("adaptable", {"lm_head": tools.lm_head_of(model)}, 2),
    ):
        save_checkpoint(checkpoint, model, tmp_path / name, **options)
        config = tools.config_of(tmp_path / name)
        assert (config["format_version"], config["encrypted"]) == (version, "key" in options)


@KINDS
@KEYS
def test_the_head_of_the_language_model_is_kept_bit_by_bit(checkpoint, model, tmp_path, name, key, tools):
    lm_head = tools.lm_head_of(model)
    save_checkpoint(checkpoint, model, tmp_path / name, key=key, lm_head=lm_head)
    kept = load_lm_head(tmp_path / name, key)
    assert kept.keys() == lm_head.keys()
    assert all(torch.equal(kept[name], lm_head[name]) for name in kept)
    save_checkpoint(checkpoint, model, tmp_path / name, key=key)
    assert load_lm_head(tmp_path / name, key) == {}
    assert not any(name.startswith("lm_head") for name in tools.names(tmp_path / name))


@KINDS
def test_a_model_card_stays_until_there_is_a_new_one(checkpoint, model, tmp_path, name):
    cards = []
    for card in (None, "# One – ü\n", None, "# Two", None):
        save_checkpoint(checkpoint, model, tmp_path / name, card=card)
        with storage.opened(tmp_path / name) as root:
            path = root / "README.md"
            cards.append(storage.read_text(path) if path.exists() else None)
    assert cards == [None, "# One – ü\n", "# One – ü\n", "# Two", "# Two"]


@KINDS
def test_float16_weights_come_back_as_float32(checkpoint, model, tmp_path, name, tools):
    for dtype in ("float16", "float32"):
        save_checkpoint(checkpoint, model, tmp_path / dtype / name, dtype=dtype)
    sizes = [
        sum(
            path.stat().st_size
            for path in (tmp_path / dtype).rglob("*")
            if path.suffix in (".safetensors", ".tlt", ".ckpt")
        )
        for dtype in ("float16", "float32")
    ]
    _, loaded = load_checkpoint(tmp_path / "float16" / name)
    tools.assert_same_weights(loaded, model.half().float())
    assert sizes[0] < 0.8 * sizes[1]


def test_an_untrained_checkpoint_needs_neither_spec_nor_metrics(checkpoint, model, tmp_path):
    folder = tmp_path / "bare"
    save_checkpoint(replace(checkpoint, spec=None, metrics={}), model, folder)
    (folder / "metrics.json").unlink()
    assert read_checkpoint(folder) == replace(checkpoint, spec=None, metrics={})


def test_what_is_no_checkpoint_is_none(checkpoint, model, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    torch.save({"a": torch.zeros(3)}, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as file:
        file.write(tmp_path / "config.json", "config.json")
    for path in (
        tmp_path,
        tmp_path / "config.json",
        tmp_path / "model.pt",
        tmp_path / "folder.zip",
        tmp_path / "nowhere",
    ):
        assert not is_checkpoint(path)


def test_an_empty_folder_is_filled_and_a_relative_path_works(checkpoint, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    save_checkpoint(checkpoint, model, "empty")
    assert load_checkpoint("empty")[0] == checkpoint
