"""A checkpoint that is damaged, incomplete or of another kind is refused in one sentence that names the file."""

from __future__ import annotations

import hashlib
import json

import pytest

from spanqa_training.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import CheckpointError, EncryptionError

pytestmark = pytest.mark.usefixtures("cheap_derivation")
KEY = Key(secret=b"correct horse battery")
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: missing"):
        load_checkpoint(saved)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: missing"):
        load_checkpoint(tmp_path / "nowhere")


@KEYS
def test_damaged_weights_are_noticed(checkpoint, model, tmp_path, key):
    save_checkpoint(checkpoint, model, tmp_path / "x", key=key)
    path = tmp_path / "x" / ("model.safetensors.sealed" if key else "model.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"\xff" * 64, b"", whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(
            (CheckpointError, EncryptionError), match=r"x/model\.safetensors[^ ]*: .*restore it"
        ) as caught:
            load_checkpoint(tmp_path / "x", key=key)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", [b"\xff" * 40, b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', b"{}"])
def test_weights_that_are_none_are_one_sentence(saved, header):
    content = len(header).to_bytes(8, "little") + header + b"\0"
    (saved / "model.safetensors").write_bytes(content)
    edit_config(saved, lambda c: c.update(weights_sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds no weights: .*: restore it"):
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
        (lambda c: c["decode"].update(word_boundaries="no"), "word_boundaries is 'no': give true or false"),
        (lambda c: c["decode"].update(word_boundaries=1), "word_boundaries is 1: give true or false"),
        (lambda c: c.pop("provenance"), "does not describe a model: 'provenance'"),
        (lambda c: c.update(format_version=3), "has format version 3 and this spanqa reads 1 and 2: use the spanqa"),
        (lambda c: c.pop("format"), 'is not of a spanqa-checkpoint; other weights are taken over by "spanqa import"'),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(saved, change, message):
    edit_config(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "", "\xff", "[]", "7"])
def test_a_config_that_is_none_is_one_sentence(saved, text):
    (saved / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        CheckpointError, match=r"config\.json: (is not JSON|is not of a spanqa-checkpoint|cannot be read)"
    ):
        load_checkpoint(saved)
