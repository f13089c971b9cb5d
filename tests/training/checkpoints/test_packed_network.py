"""Packed files: any unzip opens ours, and what is none of ours is told apart and does no harm."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spanqa.errors import SpanqaError
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints import archive
from spanqa_training.checkpoints import encryption as sealed
from spanqa_training.checkpoints.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.packed_network import PackedNetwork, read_packed_network, save_packed_network
from spanqa_training.errors import CheckpointError, EncryptionError
from spanqa_training.model import EncoderConfig, SpanModel

KEY = Key(secret=b"correct horse battery")
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
NETWORK = bytes(range(256)) * 5000
FACTS = {"float32_parity": {"max_difference": 1e-6}, "checked_on": "heldout200.json"}


@pytest.fixture(autouse=True)
def cheap_derivation(monkeypatch):
    """scrypt with next to no work."""
    monkeypatch.setattr(sealed, "SCRYPT_LOG2_N", 2)


@pytest.fixture
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nwho\ntower\n", encoding="utf-8")
    return Checkpoint(
        encoder=EncoderConfig(vocab_size=8, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=16),
        tokenizer_json=load_tokenizer(folder / "vocab.txt").serialized,
        windows=WindowSettings(max_seq_length=100, doc_stride=30, max_query_length=20),
        no_answer_threshold=-0.1,
        provenance={"base": "日本"},
        spec="seed: 1\n",
        metrics={"f1": 55.5},
    )


@pytest.fixture
def model(checkpoint):
    torch.manual_seed(1)
    return SpanModel(checkpoint.encoder)


@pytest.fixture
def packed(checkpoint, model, tmp_path):
    path = tmp_path / "trained.tlt"
    save_checkpoint(checkpoint, model, path, card="# Trained")
    return path


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(NETWORK)
    return path


def refusal(path, read=read_checkpoint):
    """The one sentence that a file is refused with."""
    with pytest.raises(SpanqaError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_any_unzip_opens_a_packed_checkpoint_as_its_folder(packed, checkpoint, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", str(packed), str(tmp_path / "folder")], check=True, timeout=60
    )
    loaded, model = load_checkpoint(tmp_path / "folder")
    assert loaded == checkpoint
    torch.testing.assert_close(model.state_dict(), load_checkpoint(packed)[1].state_dict(), rtol=0, atol=0)


def test_the_same_checkpoint_gives_the_same_bytes(packed, checkpoint, model, tmp_path):
    save_checkpoint(checkpoint, model, tmp_path / "again.tlt", card="# Trained")
    assert (tmp_path / "again.tlt").read_bytes() == packed.read_bytes()


def test_a_file_packed_again_by_another_program_is_read(packed, checkpoint, tmp_path):
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(tmp_path / "again.tlt", "w") as target:
        for name in reversed(source.namelist()):
            target.writestr(name, source.read(name))
    assert is_checkpoint(tmp_path / "again.tlt")
    assert load_checkpoint(tmp_path / "again.tlt")[0] == checkpoint


def test_members_beyond_the_limits_of_the_old_format_are_read(checkpoint, model, tmp_path, monkeypatch):
    """With a limit of 2 kB in place of 2 GiB: sizes and places are then stored as ZIP64 stores them."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 2000)
        save_checkpoint(checkpoint, model, tmp_path / "large.tlt")
    assert b"PK\x06\x06" in (tmp_path / "large.tlt").read_bytes()
    assert load_checkpoint(tmp_path / "large.tlt")[0] == checkpoint


def test_a_packed_file_has_the_permissions_of_any_new_file(packed, tmp_path):
    (tmp_path / "any").touch()
    assert packed.stat().st_mode == (tmp_path / "any").stat().st_mode


def zip_of(*members, **options):
    """A ZIP in memory of (name, content) pairs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as target:
        for name, content in members:
            target.writestr(name, content)
    return file.getvalue()


def patched(data, signature, offset, value):
    """A ZIP with some bytes of its first record of a kind replaced."""
    at = data.index(signature) + offset
    return data[:at] + value + data[at + len(value) :]


def tar_of(mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as target:
        target.addfile(tarfile.TarInfo("model_config.yaml"))
    return file.getvalue()


def torch_file(legacy):
    file = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


CENTRAL = b"PK\x01\x02"
CONFIG = ("config.json", "{}" * 20)
HUGE = struct.pack("<I", 0xFFFF0000)
STRANGERS = {
    "an empty file": (b"", "is no file that spanqa wrote"),
    "a text": (b"dear", "is no file that spanqa wrote"),
    "a torch file": (torch_file(legacy=False), "is a torch file: take it over with spanqa import"),
    "a torch file of old": (torch_file(legacy=True), "is a torch file: take it over with spanqa import"),
    "a tar": (tar_of("w"), r"is a tar archive, as \.nemo files are: take it over with spanqa import"),
    "a compressed tar": (tar_of("w:gz"), r"is a tar archive, as \.nemo files are: take it over with spanqa import"),
    "an empty zip": (zip_of(), "is no file that spanqa wrote"),
    "some zip": (zip_of(("letter.txt", "dear")), r"holds 'letter\.txt', which spanqa does not write"),
    "a path upwards": (zip_of(CONFIG, ("../config.json", "x")), r"holds '\.\./config\.json', which"),
    "an absolute path": (zip_of(CONFIG, ("/etc/passwd", "x")), "holds '/etc/passwd', which"),
    "a folder": (zip_of(CONFIG, ("config.json/", "")), "holds 'config.json/', which"),
    "a name twice": (
        zip_of(CONFIG, ("spec.yaml", "x"), ("spec.yamm", "x")).replace(b"spec.yamm", b"spec.yaml"),
        r"holds spec\.yaml twice",
    ),
    "a compressed member": (zip_of(CONFIG, compression=zipfile.ZIP_DEFLATED), "config.json is compressed"),
    "a bomb": (zip_of(("spec.yaml", "0" * 10_000_000), compression=zipfile.ZIP_DEFLATED), "spec.yaml is compressed"),
    "a ZIP password": (patched(zip_of(CONFIG), CENTRAL, 8, b"\1"), "is compressed or has a ZIP password"),
    "a huge size": (patched(zip_of(CONFIG), CENTRAL, 24, HUGE), "claims more content than it has"),
    "a place beyond the end": (patched(zip_of(CONFIG), CENTRAL, 42, HUGE), "is damaged or cut off"),
    "a directory beyond the end": (patched(zip_of(CONFIG), b"PK\5\6", 16, HUGE), "is damaged or cut off"),
    "a name of its own inside": (
        zip_of(CONFIG).replace(b"config.json", b"\xff\xffnfig.json", 1),
        "is damaged or cut off",
    ),
    "another format": (
        zip_of(("config.json", '{"model_type": "bert"}')),
        "is not of a spanqa-checkpoint; other weights",
    ),
    "no config": (zip_of(("spec.yaml", "")), r"config\.json: missing"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_none_of_ours_is_one_sentence(tmp_path, name):
    content, message = STRANGERS[name]
    path = tmp_path / "model.tlt"
    path.write_bytes(content)
    for read in (read_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError, match=f"model\\.tlt.*{message}"):
            read(path)
    refusal(path)
    refusal(path, read_packed_network)
    assert not is_checkpoint(path)
    assert os.listdir(tmp_path) == ["model.tlt"]


def test_every_length_that_a_file_is_cut_to_is_one_sentence(packed):
    whole = packed.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        packed.write_bytes(whole[:length])
        refusal(packed)


@KEYS
def test_an_altered_byte_is_one_sentence_or_changes_nothing(checkpoint, model, tmp_path, key):
    """What a ZIP says of times and permissions is not read."""
    path = tmp_path / "trained.tlt"
    save_checkpoint(checkpoint, model, path, key=key)
    whole, state = path.read_bytes(), model.state_dict()
    refusals, places = [], range(3, len(whole), 61)
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            loaded, weights = load_checkpoint(path, key=key)
        except SpanqaError as error:
            refusals.append(str(error))
        else:
            assert loaded == checkpoint
            assert all(torch.equal(tensor, state[name]) for name, tensor in weights.state_dict().items())
    assert not [message for message in refusals if "\n" in message]
    assert len(refusals) > 0.9 * len(places)


@KEYS
def test_a_network_comes_back_as_it_was_packed(checkpoint, network_file, tmp_path, key):
    path = tmp_path / "exported" / "model.eonnx"
    save_packed_network(path, checkpoint, network_file, precision="float32", key=key, facts=FACTS)
    assert read_packed_network(str(path), key) == PackedNetwork(
        checkpoint=replace(checkpoint, spec=None, metrics={}), network=NETWORK, precision="float32", facts=FACTS
    )
    names = zipfile.ZipFile(path).namelist()
    assert names == ["network.onnx.sealed" if key else "network.onnx", "config.json", "tokenizer.json"]
    assert (NETWORK[:300] in path.read_bytes()) == (key is None)
    assert os.listdir(path.parent) == ["model.eonnx"]


def test_an_encrypted_network_asks_for_its_key(checkpoint, network_file, tmp_path):
    path = tmp_path / "model.eonnx"
    save_packed_network(path, checkpoint, network_file, precision="float32", key=KEY)
    with pytest.raises(
        EncryptionError, match=r"model\.eonnx/network\.onnx\.sealed: is encrypted: give its key with -k"
    ):
        read_packed_network(path)
    with pytest.raises(EncryptionError, match="was encrypted with another key") as caught:
        read_packed_network(path, Key(secret=b"incorrect horse"))
    assert "horse" not in str(caught.value)


def test_a_key_that_a_network_does_not_need_does_no_harm(checkpoint, network_file, tmp_path):
    save_packed_network(tmp_path / "model.eonnx", checkpoint, network_file, precision="int8")
    assert read_packed_network(tmp_path / "model.eonnx", KEY).network == NETWORK


def test_a_network_in_anothers_place_is_noticed(checkpoint, network_file, tmp_path):
    path = tmp_path / "model.eonnx"
    save_packed_network(path, checkpoint, network_file, precision="float32")
    with zipfile.ZipFile(path) as source:
        members = [(name, source.read(name)) for name in source.namelist()]
    path.write_bytes(zip_of(("network.onnx", NETWORK[1:]), *members[1:]))
    assert "network.onnx: is damaged, or not the file that config.json" in refusal(path, read_packed_network)


def test_checkpoints_and_networks_are_told_apart(packed, checkpoint, network_file, tmp_path):
    path = tmp_path / "model.eonnx"
    save_packed_network(path, checkpoint, network_file, precision="float32")
    assert not is_checkpoint(path)
    assert "is not of a spanqa-checkpoint; other weights" in refusal(path)
    assert "is not of a spanqa-network; a checkpoint is exported" in refusal(packed, read_packed_network)
    with pytest.raises(CheckpointError, match="holds something else than a packed network and is left alone"):
        save_packed_network(packed, checkpoint, network_file, precision="float32")
    with pytest.raises(CheckpointError, match="is a folder, and a packed network is a file"):
        save_packed_network(tmp_path, checkpoint, network_file, precision="float32")
    assert read_checkpoint(packed) == checkpoint


def test_packing_a_network_that_fails_leaves_the_old_one(checkpoint, network_file, tmp_path, monkeypatch):
    path = tmp_path / "model.eonnx"
    save_packed_network(path, checkpoint, network_file, precision="float32")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"config\.json: would hold what JSON cannot: .*: give JSON values"):
        save_packed_network(path, checkpoint, network_file, precision="float32", facts={"loss": float("nan")})
    with pytest.raises(CheckpointError, match=r"the network cannot be written: .*nowhere\.onnx"):
        save_packed_network(path, checkpoint, tmp_path / "nowhere.onnx", precision="float32")

    def full(_, mode):
        return Path("/dev/full").open(mode)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "open", full, raising=False)
        with pytest.raises(CheckpointError, match=r"the network cannot be written: .*No space left on device"):
            save_packed_network(path, checkpoint, network_file, precision="float32")
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["model.eonnx", "network.onnx"]
