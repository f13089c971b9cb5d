"""The weights of an encrypted checkpoint lie nowhere as they are, and open with their key alone."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head, save_checkpoint
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import CheckpointError, EncryptionError

pytestmark = pytest.mark.usefixtures("cheap_derivation")
KEY = Key(secret=b"correct horse battery")
KINDS = pytest.mark.parametrize("name", ["trained", "trained.tlt", "trained.ckpt"])


def found_on_disk(folder, needle):
    """Files below a folder that hold some bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


@KINDS
def test_encrypted_weights_never_lie_on_the_disk_as_they_are(checkpoint, model, tmp_path, monkeypatch, name, tools):
    """Looked for at the end, and before every renaming and deleting on the way there."""
    lm_head = tools.lm_head_of(model)
    needles = [tensor.numpy().tobytes()[:32] for tensor in (model.head.weight.detach(), *lm_head.values())]
    looks = []

    def look():
        looks.append([found for needle in needles for found in found_on_disk(tmp_path, needle)])

    for owner, function in ((Path, "rename"), (os, "replace"), (os, "fsync")):
        real = getattr(owner, function)
        monkeypatch.setattr(owner, function, lambda *given, real=real: (look(), real(*given))[1])
    save_checkpoint(checkpoint, model, tmp_path / name, key=KEY, lm_head=lm_head)
    look()
    assert len(looks) > 2
    assert not any(looks)
    save_checkpoint(checkpoint, model, tmp_path / f"plain-{name}", lm_head=lm_head)
    assert {len(found_on_disk(tmp_path, needle)) for needle in needles} == {1}


@KINDS
def test_the_key_is_nowhere_in_what_is_saved_or_said(checkpoint, model, tmp_path, name):
    save_checkpoint(checkpoint, model, tmp_path / name, key=KEY, card="# Trained")
    assert not found_on_disk(tmp_path, KEY.secret)
    loaded, _ = load_checkpoint(tmp_path / name, key=KEY)
    assert KEY.secret not in pickle.dumps(loaded)
    with pytest.raises(EncryptionError) as caught:
        load_checkpoint(tmp_path / name, key=Key(secret=b"incorrect horse"))
    assert "horse" not in str(caught.value)


@KINDS
def test_encrypted_weights_ask_for_their_key(checkpoint, model, tmp_path, name, tools):
    save_checkpoint(checkpoint, model, tmp_path / name, key=KEY, lm_head=tools.lm_head_of(model))
    for load, part in ((load_checkpoint, "model"), (load_lm_head, "lm_head")):
        with pytest.raises(
            EncryptionError, match=rf"{name}/{part}\.safetensors\.sealed: is encrypted: give its key with -k$"
        ):
            load(tmp_path / name)
        with pytest.raises(EncryptionError, match=rf"{part}\.safetensors\.sealed: was encrypted with another key"):
            load(tmp_path / name, key=Key(secret=b"another"))


@KINDS
def test_a_key_that_is_not_needed_does_no_harm(checkpoint, model, tmp_path, name, tools):
    save_checkpoint(checkpoint, model, tmp_path / name)
    tools.assert_same_weights(load_checkpoint(tmp_path / name, key=KEY)[1], model)


@KINDS
def test_saving_without_a_key_leaves_nothing_encrypted_behind(checkpoint, model, tmp_path, name, tools):
    for key, weights in (
        (KEY, "model.safetensors.sealed"),
        (None, "model.safetensors"),
        (KEY, "model.safetensors.sealed"),
    ):
        save_checkpoint(checkpoint, model, tmp_path / name, key=key)
        assert [name for name in tools.names(tmp_path / name) if name.startswith("model")] == [weights]
        assert tools.config_of(tmp_path / name)["encrypted"] == (key is not None)


def test_encrypted_weights_of_another_checkpoint_are_noticed(checkpoint, model, tmp_path):
    for name in ("one", "other"):
        save_checkpoint(checkpoint, model, tmp_path / name, key=KEY)
        torch.nn.init.normal_(model.head.weight)
    os.replace(tmp_path / "other" / "model.safetensors.sealed", tmp_path / "one" / "model.safetensors.sealed")
    with pytest.raises(CheckpointError, match=r"is damaged, or not the file that config\.json was saved with"):
        load_checkpoint(tmp_path / "one", key=KEY)
