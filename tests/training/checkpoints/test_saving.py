"""A checkpoint that is saved over another replaces it whole or leaves it, and leaves alone what is none."""

from __future__ import annotations

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spanqa import folder_swap
from spanqa_training.checkpoints import archive, storage
from spanqa_training.checkpoints.checkpoint import (
    check_target,
    is_checkpoint,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel

pytestmark = pytest.mark.usefixtures("cheap_derivation")
KEY = Key(secret=b"correct horse battery")
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


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


@KEYS
def test_an_interrupted_save_of_a_packed_file_leaves_the_old_one(checkpoint, model, tmp_path, monkeypatch, key, tools):
    path = tmp_path / "trained.tlt"
    save_checkpoint(checkpoint, model, path, key=key)
    before = path.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    for owner, function in ((os, "replace"), (os, "fsync"), (archive, "_create")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, interrupt)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(replace(checkpoint, no_answer_threshold=9.0), model, path, key=key)
        assert path.read_bytes() == before
        assert tools.names(tmp_path) == ["trained.tlt"]


@pytest.mark.parametrize(("name", "module"), [("trained", storage), ("trained.tlt", archive)])
@KEYS
def test_a_full_disk_is_one_sentence_and_leaves_the_old(
    checkpoint, model, tmp_path, monkeypatch, name, module, key, tools
):
    save_checkpoint(checkpoint, model, tmp_path / name, key=key)

    def full(path, mode):
        """A file on a device of which every byte is taken."""
        path.touch()
        return Path("/dev/full").open(mode)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open", full, raising=False)
        with pytest.raises(
            CheckpointError, match=rf"/{name}: the checkpoint cannot be written: .*No space left on device"
        ):
            save_checkpoint(replace(checkpoint, no_answer_threshold=9.0), model, tmp_path / name, key=key)
    assert load_checkpoint(tmp_path / name, key=key)[0] == checkpoint
    assert tools.names(tmp_path) == [name]


def test_many_can_read_a_packed_file_while_it_is_replaced(checkpoint, model, tmp_path, tools):
    path = tmp_path / "trained.tlt"
    versions = [replace(checkpoint, no_answer_threshold=float(number)) for number in range(12)]
    save_checkpoint(versions[0], model, path, key=KEY)

    def read():
        found = []
        while not found or found[-1] != versions[-1]:
            loaded, weights = load_checkpoint(path, key=KEY)
            tools.assert_same_weights(weights, model)
            found.append(loaded)
        return found

    with ThreadPoolExecutor(3) as pool:
        readings = [pool.submit(read) for _ in range(3)]
        for version in versions[1:]:
            save_checkpoint(version, model, path, key=KEY)
        for reading in readings:
            assert all(loaded in versions for loaded in reading.result(timeout=30))


@pytest.mark.parametrize("name", ["trained", "trained.tlt"])
@KEYS
def test_saving_holds_one_tensor_in_memory_and_not_the_file(checkpoint, tmp_path, name, key):
    encoder = EncoderConfig(vocab_size=12, hidden_size=256, num_layers=12, num_heads=2, intermediate_size=1024)
    model = SpanModel(encoder)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    tracemalloc.start()
    try:
        save_checkpoint(replace(checkpoint, encoder=encoder), model, tmp_path / name, key=key)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * size


@pytest.mark.parametrize("fatal_rename", [1, 2])
def test_a_save_interrupted_in_the_swap_leaves_the_old_or_the_new(checkpoint, model, saved, monkeypatch, fatal_rename):
    """Where names cannot change places, the first rename sets the old folder aside, the second moves the new one in."""
    monkeypatch.setattr(folder_swap, "_exchange", lambda *_: False)
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
    with pytest.raises(CheckpointError, match=r"metrics\.json: would hold what JSON cannot"):
        save_checkpoint(replace(checkpoint, metrics={"loss": float("nan")}), model, saved)
    with torch.no_grad():
        model.head.bias[0] = 1e6
    with pytest.raises(CheckpointError, match=r"1 weights, first head\.bias, are not finite as torch\.float16"):
        save_checkpoint(checkpoint, model, saved, dtype="float16")
    assert load_checkpoint(saved)[0] == checkpoint
    assert [path.name for path in saved.parent.iterdir()] == ["trained"]


def test_something_else_is_left_alone(checkpoint, model, tmp_path):
    home, letter, packed = tmp_path / "home", tmp_path / "home" / "letter.txt", tmp_path / "home" / "model.tlt"
    home.mkdir()
    letter.write_text("dear")
    packed.write_bytes(b"from another toolkit")
    (tmp_path / "folder.tlt").mkdir()
    for target, message in (
        (home, "holds something else than a checkpoint and is left alone"),
        (packed, "holds something else than a checkpoint and is left alone"),
        (letter, "is a file, and a checkpoint of that name is a folder"),
        (tmp_path / "folder.tlt", r"is a folder, and \.tlt names one packed file"),
        (tmp_path / "new.nemo", r"is another toolkit's format, which is only read: write \.tlt"),
    ):
        for refused in (
            lambda target=target: save_checkpoint(checkpoint, model, target),
            lambda target=target: check_target(target),
        ):
            with pytest.raises(CheckpointError, match=message):
                refused()
    assert letter.read_text() == "dear"
    assert packed.read_bytes() == b"from another toolkit"
    assert not (tmp_path / "new.nemo").exists()


def test_a_packed_file_that_was_cut_off_may_be_replaced(checkpoint, model, tmp_path):
    path = tmp_path / "trained.tlt"
    path.touch()
    save_checkpoint(checkpoint, model, path)
    path.write_bytes(path.read_bytes()[:-200])
    assert is_checkpoint(path)
    with pytest.raises(CheckpointError, match="is damaged or cut off"):
        load_checkpoint(path)
    save_checkpoint(checkpoint, model, path)
    assert read_checkpoint(path) == checkpoint


def test_a_model_of_another_architecture_is_not_saved(checkpoint, tmp_path):
    other = SpanModel(replace(checkpoint.encoder, num_layers=1))
    with pytest.raises(CheckpointError, match="the model's architecture is not the checkpoint's"):
        save_checkpoint(checkpoint, other, tmp_path / "x")
    with pytest.raises(CheckpointError, match="dtype is 'int8': give one of float32, float16"):
        save_checkpoint(checkpoint, SpanModel(checkpoint.encoder), tmp_path / "x", dtype="int8")
