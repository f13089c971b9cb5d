"""A run's state comes back whole, or says in one sentence why it cannot."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from spanqa_training.checkpoints import encryption as sealed
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import EncryptionError, RunError
from spanqa_training.run import state as state_module
from spanqa_training.run.state import RunState, load_state, restore_rng, rng_state, save_state, sole_run

KEY = Key(secret=b"correct horse battery")
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
SPEC = "trainer: {seed: 1}\n"
ORIGIN = {"training data": "12ab", "base model": "34cd"}


@pytest.fixture(autouse=True)
def cheap_derivation(monkeypatch):
    """scrypt with next to no work."""
    monkeypatch.setattr(sealed, "SCRYPT_LOG2_N", 2)


@pytest.fixture
def state():
    """Of a network after one step of Adam, as the second of two processes saw it too."""
    torch.manual_seed(1)
    network = torch.nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(3, 16)).sum().backward()
    optimizer.step()
    return RunState(
        spec=SPEC,
        origin=ORIGIN,
        world_size=2,
        epoch=1,
        batch=30,
        loss_sum=12.5,
        log=[{"step": 30, "val_loss": 0.5, "checkpoint": "best.ckpt", "threshold": None}],
        model=network.state_dict(),
        optimizer=optimizer.state_dict(),
        scaler={"scale": 1024.0},
        rng=[rng_state(), [torch.arange(8, dtype=torch.uint8)]],
    )


def weight_bytes(state):
    return state.model["weight"].numpy().tobytes()[:64]


@KEYS
def test_a_state_comes_back_as_it_was_saved(state, tmp_path, key):
    folder = tmp_path / "run" / "state"
    save_state(state, folder, key)
    loaded = load_state(folder, SPEC, world_size=2, key=key)
    assert loaded.spec == SPEC
    assert loaded.log == state.log
    for name in ("world_size", "epoch", "batch", "loss_sum", "scaler"):
        assert getattr(loaded, name) == getattr(state, name)
    for name in ("model", "optimizer", "rng"):
        torch.testing.assert_close(getattr(loaded, name), getattr(state, name), rtol=0, atol=0)
    assert os.listdir(folder) == ["state.pt"]
    assert (weight_bytes(state) in (folder / "state.pt").read_bytes()) == (key is None)


def test_where_there_is_no_state_there_is_none(tmp_path):
    assert load_state(tmp_path, SPEC) is None


def test_the_generators_go_on_where_they_were(state, tmp_path):
    save_state(replace(state, world_size=1, rng=[rng_state()]), tmp_path)
    expected = torch.rand(5)
    restore_rng(load_state(tmp_path, SPEC).rng[0])
    assert torch.equal(torch.rand(5), expected)


def test_numbers_of_numpy_in_the_log_do_no_harm(state, tmp_path):
    save_state(replace(state, log=[{"val_loss": np.float64(0.25)}]), tmp_path)
    assert load_state(tmp_path, SPEC, world_size=2).log == [{"val_loss": 0.25}]


def test_encrypted_weights_never_lie_on_the_disk_as_they_are(state, tmp_path, monkeypatch):
    looks = []

    def look(_):
        looks.append([path for path in tmp_path.rglob("*") if weight_bytes(state) in path.read_bytes()])

    monkeypatch.setattr(os, "fsync", look)
    save_state(state, tmp_path, KEY)
    save_state(state, tmp_path)
    assert [len(found) for found in looks] == [0, 1]


def test_a_key_that_is_not_needed_does_no_harm(state, tmp_path):
    save_state(state, tmp_path)
    assert load_state(tmp_path, SPEC, world_size=2, key=KEY).batch == 30


def test_an_encrypted_state_asks_for_its_key(state, tmp_path):
    save_state(state, tmp_path, KEY)
    with pytest.raises(EncryptionError, match=r"state\.pt: is encrypted: give its key with -k, or delete it to start"):
        load_state(tmp_path, SPEC, world_size=2)
    with pytest.raises(EncryptionError, match=r"state\.pt: was encrypted with another key: .*, or delete it") as caught:
        load_state(tmp_path, SPEC, world_size=2, key=Key(secret=b"incorrect horse"))
    assert "horse" not in str(caught.value)


@KEYS
def test_a_damaged_state_is_one_sentence(state, tmp_path, key):
    save_state(state, tmp_path, key)
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"not a state",
        whole[:10],
        whole[:-500],
        whole[:200] + bytes([whole[200] ^ 1]) + whole[201:] if key else b"PK\3\4",
    ):
        path.write_bytes(damaged)
        with pytest.raises((RunError, EncryptionError), match=r"state\.pt: .*delete it to start again$") as caught:
            load_state(tmp_path, SPEC, world_size=2, key=key)
        assert "\n" not in str(caught.value)


class Hostile:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_a_state_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Hostile()}, tmp_path / "state.pt")
    with pytest.raises(RunError, match=r"state\.pt: cannot be read \(.*\): delete it to start again$"):
        load_state(tmp_path, SPEC)
    assert not (tmp_path / "hacked").exists()


def test_a_state_of_an_older_layout_is_one_sentence(tmp_path):
    torch.save({"spec": SPEC, "epoch": 1}, tmp_path / "state.pt")
    with pytest.raises(RunError, match=r"state\.pt: cannot be read \(.*\): delete it to start again$"):
        load_state(tmp_path, SPEC)


def test_another_spec_or_number_of_processes_does_not_resume(state, tmp_path):
    save_state(state, tmp_path)
    with pytest.raises(RunError, match="is of a run with another spec: use another results folder, or delete it"):
        load_state(tmp_path, "trainer: {seed: 2}\n", world_size=2)
    with pytest.raises(RunError, match="is of a run with 2 processes, not 1: give -g 2, or delete it to start again"):
        load_state(tmp_path, SPEC)


@pytest.mark.parametrize("name", ORIGIN)
def test_a_state_of_other_data_or_another_base_does_not_resume(state, tmp_path, name):
    save_state(state, tmp_path)
    assert load_state(tmp_path, SPEC, origin=ORIGIN, world_size=2).batch == 30
    with pytest.raises(RunError, match=f"is of a run with another {name}: use another results folder, or delete it"):
        load_state(tmp_path, SPEC, origin={**ORIGIN, name: "56ef"}, world_size=2)


def test_a_folder_has_one_run_at_a_time_and_a_dead_one_locks_nothing(tmp_path):
    folder = tmp_path / "run" / "state"
    hold = (
        f"from spanqa_training.run.state import *\nwith sole_run(Path({str(folder)!r})):\n print(flush=True)\n input()"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(RunError, match="another run is at work there: wait for its end, or give"), sole_run(folder):
        pass
    other.kill()
    other.communicate()
    with sole_run(folder):
        assert os.listdir(folder) == [".lock"]


@KEYS
def test_an_interrupted_save_leaves_the_old_state(state, tmp_path, monkeypatch, key):
    save_state(state, tmp_path, key)

    def interrupt(*_):
        raise KeyboardInterrupt

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, interrupt)
            with pytest.raises(KeyboardInterrupt):
                save_state(replace(state, batch=31), tmp_path, key)
        assert load_state(tmp_path, SPEC, world_size=2, key=key).batch == 30
    save_state(replace(state, batch=31), tmp_path, key)
    assert load_state(tmp_path, SPEC, world_size=2, key=key).batch == 31
    assert os.listdir(tmp_path) == ["state.pt"]


class SmallDisk(io.FileIO):
    """A file on a device with room for some bytes."""

    room = 0

    def write(self, data):
        if self.tell() + len(data) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(data)


@KEYS
@pytest.mark.parametrize("room", [0, 100, 1000, 2500])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_state(state, tmp_path, monkeypatch, key, room):
    save_state(state, tmp_path, key)

    def small(path, mode):
        file = SmallDisk(path, mode)
        file.room = room
        return file

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "open", small, raising=False)
        with pytest.raises(RunError, match=r"state\.pt: cannot be written: .*No space left on device: free some space"):
            save_state(replace(state, batch=31), tmp_path, key)
    assert load_state(tmp_path, SPEC, world_size=2, key=key).batch == 30
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_folder_that_cannot_be_made_is_one_sentence(state, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match=r"file/state/state\.pt: cannot be written: .*: free some space, or give another -r"
    ):
        save_state(state, tmp_path / "file" / "state")
