"""A checkpoint comes back as it was saved, or says in one sentence why it cannot."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from spanqa import folder_swap
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints import archive, storage
from spanqa_training.checkpoints import encryption as sealed
from spanqa_training.checkpoints.checkpoint import (
    Checkpoint,
    check_target,
    is_checkpoint,
    load_checkpoint,
    load_lm_head,
    read_checkpoint,
    save_checkpoint,
)
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.weights_file import safetensors_from_weights
from spanqa_training.errors import CheckpointError, EncryptionError
from spanqa_training.model import EncoderConfig, SpanModel

FILES = ("config.json", "model.safetensors", "tokenizer.json", "spec.yaml", "metrics.json")
KEY = Key(secret=b"correct horse battery")
KINDS = pytest.mark.parametrize("name", ["trained", "trained.tlt", "trained.ckpt"])
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?", "naïve")


@pytest.fixture(autouse=True)
def cheap_derivation(monkeypatch):
    """scrypt with next to no work."""
    monkeypatch.setattr(sealed, "SCRYPT_LOG2_N", 2)


@pytest.fixture
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return Checkpoint(
        encoder=EncoderConfig(vocab_size=12, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16),
        tokenizer_json=load_tokenizer(folder / "vocab.txt").serialized,
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


def lm_head_of(model):
    return {"lm_head.dense.weight": torch.randn(8, 8), "lm_head.bias": torch.randn(12)}


def names(path):
    """What a checkpoint holds, folder or packed."""
    return sorted(p.name for p in path.iterdir()) if path.is_dir() else sorted(zipfile.ZipFile(path).namelist())


def config_of(path):
    root = path if path.is_dir() else zipfile.Path(zipfile.ZipFile(path))
    return json.loads((root / "config.json").read_text(encoding="utf-8"))


def found_on_disk(folder, needle):
    """Files below a folder that hold some bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


@KINDS
@KEYS
def test_a_checkpoint_comes_back_as_it_was_saved(checkpoint, model, tmp_path, name, key):
    path = tmp_path / "run" / name
    save_checkpoint(checkpoint, model, path, key=key)
    loaded, loaded_model = load_checkpoint(path, key=key)
    assert loaded == checkpoint == read_checkpoint(path)
    assert_same_weights(loaded_model, model)
    assert not loaded_model.training
    assert all(parameter.requires_grad for parameter in loaded_model.parameters())
    assert loaded.tokenizer().pieces("the naïve tower?").ids.tolist() == [6, 1, 7, 8]
    weights = "model.safetensors.sealed" if key else "model.safetensors"
    assert names(path) == sorted([weights, *(name for name in FILES if name != "model.safetensors")])
    assert path.is_dir() == (name == "trained")
    assert is_checkpoint(path)
    assert load_lm_head(path, key) == {}
    assert [path.name for path in path.parent.iterdir()] == [name]


def test_the_stored_weights_are_a_safetensors_file(checkpoint, model, saved, tmp_path):
    content = (saved / "model.safetensors").read_bytes()
    assert content == safetensors.torch.save(dict(model.state_dict()), metadata={"format": "pt"})
    assert config_of(saved)["weights_sha256"] == hashlib.sha256(content).hexdigest()
    save_checkpoint(checkpoint, model, tmp_path / "locked", key=KEY)
    assert config_of(tmp_path / "locked")["weights_sha256"] == hashlib.sha256(content).hexdigest()


def test_empty_scalar_and_transposed_tensors_are_stored_as_safetensors_does():
    weights = {"é": torch.zeros(0, 3), "scalar": torch.tensor(2.0), "turned": torch.arange(6.0).reshape(2, 3).T}
    ours = b"".join(safetensors_from_weights(weights, torch.float16))
    whole = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    assert ours == safetensors.torch.save(whole, metadata={"format": "pt"})


def test_a_plain_checkpoint_is_of_the_version_that_the_first_release_reads(checkpoint, model, tmp_path):
    for name, options, version in (
        ("plain", {}, 1),
        ("plain.tlt", {}, 1),
        ("locked", {"key": KEY}, 2),
        ("adaptable", {"lm_head": lm_head_of(model)}, 2),
    ):
        save_checkpoint(checkpoint, model, tmp_path / name, **options)
        config = config_of(tmp_path / name)
        assert (config["format_version"], config["encrypted"]) == (version, "key" in options)


@KINDS
def test_encrypted_weights_never_lie_on_the_disk_as_they_are(checkpoint, model, tmp_path, monkeypatch, name):
    """Looked for at the end, and before every renaming and deleting on the way there."""
    lm_head = lm_head_of(model)
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
def test_encrypted_weights_ask_for_their_key(checkpoint, model, tmp_path, name):
    save_checkpoint(checkpoint, model, tmp_path / name, key=KEY, lm_head=lm_head_of(model))
    for load, part in ((load_checkpoint, "model"), (load_lm_head, "lm_head")):
        with pytest.raises(
            EncryptionError, match=rf"{name}/{part}\.safetensors\.sealed: is encrypted: give its key with -k$"
        ):
            load(tmp_path / name)
        with pytest.raises(EncryptionError, match=rf"{part}\.safetensors\.sealed: was encrypted with another key"):
            load(tmp_path / name, key=Key(secret=b"another"))


@KINDS
def test_a_key_that_is_not_needed_does_no_harm(checkpoint, model, tmp_path, name):
    save_checkpoint(checkpoint, model, tmp_path / name)
    assert_same_weights(load_checkpoint(tmp_path / name, key=KEY)[1], model)


@KINDS
@KEYS
def test_the_head_of_the_language_model_is_kept_bit_by_bit(checkpoint, model, tmp_path, name, key):
    lm_head = lm_head_of(model)
    save_checkpoint(checkpoint, model, tmp_path / name, key=key, lm_head=lm_head)
    kept = load_lm_head(tmp_path / name, key)
    assert kept.keys() == lm_head.keys()
    assert all(torch.equal(kept[name], lm_head[name]) for name in kept)
    save_checkpoint(checkpoint, model, tmp_path / name, key=key)
    assert load_lm_head(tmp_path / name, key) == {}
    assert not any(name.startswith("lm_head") for name in names(tmp_path / name))


@KINDS
def test_saving_without_a_key_leaves_nothing_encrypted_behind(checkpoint, model, tmp_path, name):
    for key, weights in (
        (KEY, "model.safetensors.sealed"),
        (None, "model.safetensors"),
        (KEY, "model.safetensors.sealed"),
    ):
        save_checkpoint(checkpoint, model, tmp_path / name, key=key)
        assert [name for name in names(tmp_path / name) if name.startswith("model")] == [weights]
        assert config_of(tmp_path / name)["encrypted"] == (key is not None)


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
def test_float16_weights_come_back_as_float32(checkpoint, model, tmp_path, name):
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
    assert_same_weights(loaded, model.half().float())
    assert sizes[0] < 0.8 * sizes[1]


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


@KEYS
def test_an_interrupted_save_of_a_packed_file_leaves_the_old_one(checkpoint, model, tmp_path, monkeypatch, key):
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
        assert names(tmp_path) == ["trained.tlt"]


@pytest.mark.parametrize(("name", "module"), [("trained", storage), ("trained.tlt", archive)])
@KEYS
def test_a_full_disk_is_one_sentence_and_leaves_the_old(checkpoint, model, tmp_path, monkeypatch, name, module, key):
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
    assert names(tmp_path) == [name]


def test_many_can_read_a_packed_file_while_it_is_replaced(checkpoint, model, tmp_path):
    path = tmp_path / "trained.tlt"
    versions = [replace(checkpoint, no_answer_threshold=float(number)) for number in range(12)]
    save_checkpoint(versions[0], model, path, key=KEY)

    def read():
        found = []
        while not found or found[-1] != versions[-1]:
            loaded, weights = load_checkpoint(path, key=KEY)
            assert_same_weights(weights, model)
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


def test_encrypted_weights_of_another_checkpoint_are_noticed(checkpoint, model, tmp_path):
    for name in ("one", "other"):
        save_checkpoint(checkpoint, model, tmp_path / name, key=KEY)
        torch.nn.init.normal_(model.head.weight)
    os.replace(tmp_path / "other" / "model.safetensors.sealed", tmp_path / "one" / "model.safetensors.sealed")
    with pytest.raises(CheckpointError, match=r"is damaged, or not the file that config\.json was saved with"):
        load_checkpoint(tmp_path / "one", key=KEY)


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


def test_a_model_of_another_architecture_is_not_saved(checkpoint, tmp_path):
    other = SpanModel(replace(checkpoint.encoder, num_layers=1))
    with pytest.raises(CheckpointError, match="the model's architecture is not the checkpoint's"):
        save_checkpoint(checkpoint, other, tmp_path / "x")
    with pytest.raises(CheckpointError, match="dtype is 'int8': give one of float32, float16"):
        save_checkpoint(checkpoint, SpanModel(checkpoint.encoder), tmp_path / "x", dtype="int8")
