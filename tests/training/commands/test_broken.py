"""Forty-odd kinds of broken data, specs, checkpoints and keys: each is one line that names the place and the mend."""

import gzip
import json
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.packed_network import save_packed_network
from spanqa_training.model import SpanModel

QUESTION = {"id": "q1", "question": "Where do cats live?", "answers": [{"text": "Paris", "answer_start": 13}]}
CONTEXT = "Cats live in Paris."


def squad(*questions, context=CONTEXT):
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def changed(**changes):
    """The question with some keys replaced, and without those that are None."""
    return {key: value for key, value in {**QUESTION, **changes}.items() if value is not None}


DATA = {
    "not JSON": ("{", "line 1 column 2", "not valid JSON"),
    "cut off": (json.dumps(squad(QUESTION))[:-40], "line 1 column", "not valid JSON"),
    "not UTF-8": (b'{"data": "\xff"}', "byte 10", "convert the file to UTF-8"),
    "empty": ("", "train.json", "not valid JSON"),
    "an empty list": ([], "train.json", "holds no question"),
    "a list of numbers": ([7], "[0]", "expected an object, got an integer (7)"),
    "no data": ({"version": "1.1"}, "data: missing", "keys here: 'version'"),
    "no question": ({"data": []}, "train.json", "holds no question: expected data[].paragraphs[].qas[]"),
    "data of another kind": ({"data": {}}, "data", "expected a list"),
    "no context": ({"data": [{"paragraphs": [{"qas": [QUESTION]}]}]}, "data[0].paragraphs[0].context", "missing"),
    "no id": (squad(changed(id=None)), "data[0].paragraphs[0].qas[0].id", "missing"),
    "a fraction for an id": (squad(changed(id=7.5)), "qas[0].id", "expected a string, got float (7.5)"),
    "an id twice": (squad(QUESTION, QUESTION), "qas[1].id", "is also the id of data[0].paragraphs[0].qas[0]"),
    "an empty question": (squad(changed(question=" ")), "qas[0].question", "is empty"),
    "no answers": (squad(changed(answers=None)), "qas[0].answers", "missing"),
    "an empty answer": (squad(changed(answers=[{"text": "", "answer_start": 0}])), "answers[0].text", "is empty"),
    "a wrong offset": (
        squad(changed(answers=[{"text": "Paris", "answer_start": 3}])),
        "answers[0].answer_start",
        "it stands at 13",
    ),
    "a foreign answer": (
        squad(changed(answers=[{"text": "Rome", "answer_start": 3}])),
        "answers[0].answer_start",
        "it stands nowhere in the context",
    ),
    "answered yet impossible": (squad(changed(is_impossible=True)), "is_impossible", "correct one of the two"),
    "a blank context": (squad(changed(answers=[]), context=" \n"), "qas[0]", "the context holds no word"),
    "half a surrogate pair": (
        '{"data": [{"paragraphs": [{"context": "\\ud800", "qas": [{"id": "1", "question": "q", "answers": []}]}]}]}',
        "data[0].paragraphs[0].context",
        "fix the escape",
    ),
    "a damaged gzip": (gzip.compress(b"{}" * 99)[:-9], "train.json", "cannot be read"),
    "unanswerable where all must be": (
        squad(changed(answers=[])),
        "qas[0].answers",
        "model.dataset.version_2_with_negative=true",
    ),
}


@pytest.fixture
def say(capsys):
    """Runs a command that must fail, and gives its one line."""

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        told = capsys.readouterr().err
        errors = [line for line in told.splitlines() if line.startswith("spanqa: error: ")]
        assert status == 2
        assert len(errors) == 1
        assert told.splitlines()[-1] == errors[0], "the error is the last thing said"
        return errors[0]

    return run


@pytest.fixture
def data_file(tmp_path):
    def write(content):
        path = tmp_path / "train.json"
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("kind", DATA)
def test_broken_data_are_named_by_their_place(say, data_file, tiny_checkpoint, tmp_path, kind):
    content, place, mend = DATA[kind]
    path = data_file(content)
    must_answer = ["model.dataset.version_2_with_negative=false"] if "must be" in kind else []
    message = say("train", "-m", tiny_checkpoint, "-r", tmp_path / "r", f"training_ds.file={path}", *must_answer)
    assert str(path) in message
    assert place in message
    assert mend in message
    assert not (tmp_path / "r" / "checkpoints").exists()


def test_a_missing_file_and_a_folder_in_its_place_are_named(say, tiny_checkpoint, tmp_path):
    start = ["train", "-m", tiny_checkpoint, "-r", tmp_path / "r"]
    assert "nowhere.json: no such file" in say(*start, "training_ds.file=nowhere.json")
    assert f"{tmp_path}: cannot be read" in say(*start, f"training_ds.file={tmp_path}")
    assert "training_ds.file: must be a file or a list of files, got []" in say(*start)


SPECS = {
    "not YAML": ("trainer: [", "line 1 column", "not valid YAML"),
    "tabs": ("trainer:\n\tmax_epochs: 1\n", "line 2", "indent with spaces, not tabs"),
    "an open value between braces": ("training_ds: {file: ???}\n", "line 1", 'write "???" in quotes'),
    "an open value": ("training_ds:\n  file: ???\n", "training_ds.file is ???", "add training_ds.file="),
    "a mistyped key": ("trainer:\n  max_epoch: 1\n", "trainer.max_epoch", "did you mean max_epochs?"),
    "a key in the wrong section": ("trainer:\n  lr: 1e-3\n", "trainer.lr", "did you mean optim.lr?"),
    "a key of the experiment manager": ("exp_manager:\n  exp_dir: x\n", "exp_manager", "-r names the folder"),
    "several machines": ("trainer:\n  num_nodes: 2\n", "trainer.num_nodes is 2", "torchrun --nnodes 2"),
    "a word for a number": ("trainer:\n  max_epochs: two\n", "trainer.max_epochs", "expected int, got 'two'"),
    "another schedule": ("optim:\n  sched:\n    name: StepLR\n", "optim.sched.name", "must be one of SquareRoot"),
    "no as a name": ("optim:\n  name: no\n", "optim.name", "must be one of adamw"),
    "a lost reference": ("optim:\n  lr: ${nowhere.lr}\n", "optim.lr", "nowhere"),
    "a stride beyond the window": (
        "model:\n  dataset:\n    doc_stride: 300\n",
        "model.dataset",
        "raise it, or lower one",
    ),
    "a key twice": ("optim:\n  lr: 1\n  lr: 2\n", "line 3 column 3", "'lr' is given twice"),
    "another head": ("model:\n  token_classifier:\n    num_layers: 2\n", "token_classifier.num_layers", "must be 1"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_broken_specs_are_named_by_their_key(say, tiny_checkpoint, fifty_questions, tmp_path, kind):
    text, place, mend = SPECS[kind]
    spec = tmp_path / "spec.yaml"
    spec.write_text(text, encoding="utf-8")
    data = [] if "open value" in kind else [f"training_ds.file={fifty_questions}"]
    message = say("train", "-e", spec, "-m", tiny_checkpoint, "-r", tmp_path / "r", *data)
    assert place in message
    assert mend in message


KEY = Key(secret=b"right")


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])
    return path


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))
    return path


class Copies:
    """Copies of a checkpoint, whole and with a fault."""

    def __init__(self, source, place):
        self.source, self.place, self.file = source, place, place / "model.tlt"

    def packed(self, **options):
        save_checkpoint(*load_checkpoint(self.source), self.file, **options)
        return self.file

    def packed_in_chunks(self):
        """One whose encrypted weights are more than a chunk: what is read is not all, and is checked all the same."""
        small = read_checkpoint(self.source)
        encoder = replace(small.encoder, hidden_size=256, intermediate_size=1024)
        save_checkpoint(replace(small, encoder=encoder), SpanModel(encoder), self.file, key=KEY)
        return self.file

    def folder(self):
        return shutil.copytree(self.source, self.place / "model")

    def without(self, name):
        made = self.folder()
        (made / name).unlink()
        return made

    def edited(self, name, old, new):
        made = self.folder()
        text = (made / name).read_text(encoding="utf-8")
        assert old in text
        (made / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        return made

    def other(self, content):
        self.file.write_bytes(content)
        return self.file

    def torch_file(self):
        torch.save({"weight": torch.ones(3)}, self.file)
        return self.file

    def other_zip(self):
        with zipfile.ZipFile(self.file, "w") as archive:
            archive.writestr("../evil.json", "{}")
        return self.file

    def exported(self):
        network = self.place / "network.onnx"
        network.write_bytes(b"network")
        save_packed_network(self.file, read_checkpoint(self.source), network, precision="float32", key=KEY)
        return self.file


BROKEN = {
    "no weights": lambda copies: copies.without("model.safetensors"),
    "no tokenizer": lambda copies: copies.without("tokenizer.json"),
    "no config": lambda copies: copies.without("config.json"),
    "another architecture": lambda copies: copies.edited("config.json", '"num_layers": 2', '"num_layers": 3'),
    "another tokenizer": lambda copies: copies.edited("tokenizer.json", "##s", "##x"),
    "a later version": lambda copies: copies.edited("config.json", '"format_version": 1', '"format_version": 9'),
    "broken JSON": lambda copies: copies.edited("config.json", "{", "["),
    "cut weights": lambda copies: cut(copies.folder() / "model.safetensors", 1000).parent,
    "a flipped bit": lambda copies: flipped(copies.folder() / "model.safetensors", 200_000).parent,
    "a cut file": lambda copies: cut(copies.packed(), 100_000),
    "a flipped bit in a file": lambda copies: flipped(copies.packed(), 200_000),
    "an encrypted file with a flipped bit": lambda copies: flipped(copies.packed_in_chunks(), 500_000),
    "a small encrypted file with a flipped bit": lambda copies: flipped(copies.packed(key=KEY), 200_000),
    "an encrypted file that is cut": lambda copies: cut(copies.packed(key=KEY), 200_000),
    "a file of the old toolkit": lambda copies: copies.other(
        bytes((i * i * 7919 + i * 104729) % 65521 % 256 for i in range(20000))
    ),
    "an empty file": lambda copies: copies.other(b""),
    "text": lambda copies: copies.other(b"hello" * 100),
    "a torch file": Copies.torch_file,
    "another zip": Copies.other_zip,
    "an exported network": Copies.exported,
    "nothing": lambda copies: copies.place / "nowhere",
}
CHECKPOINTS = {
    "no weights": ("model.safetensors", "missing: restore it"),
    "no tokenizer": ("tokenizer.json", "missing: restore it"),
    "no config": ("model", "give"),
    "another architecture": ("model.safetensors", "config.json"),
    "another tokenizer": ("tokenizer.json", "restore it"),
    "a later version": ("config.json: has format version 9", "use the spanqa that wrote it"),
    "broken JSON": ("config.json", "restore it"),
    "cut weights": ("model.safetensors", "restore it"),
    "a flipped bit": ("model.safetensors", "restore it"),
    "a cut file": ("model.tlt", "copy it again"),
    "a flipped bit in a file": ("model.tlt", "copy it again"),
    "an encrypted file with a flipped bit": ("model.tlt", "restore it from a copy"),
    "a small encrypted file with a flipped bit": ("model.tlt", "copy it again"),
    "an encrypted file that is cut": ("model.tlt", "copy it again"),
    "a file of the old toolkit": ("model.tlt", "decrypt it there"),
    "an empty file": ("model.tlt", "fetch or save it again"),
    "text": ("model.tlt", "give one that torch, Megatron-LM or NeMo wrote"),
    "a torch file": ("model.tlt", "give"),
    "another zip": ("model.tlt", "give"),
    "an exported network": ("model.tlt: is an exported network", "answer with it by spanqa infer_onnx"),
    "nothing": ("nowhere: no such checkpoint", "give a checkpoint"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_broken_checkpoints_are_named_by_their_file(say, tiny_checkpoint, fifty_questions, kind, tmp_path):
    place, mend = CHECKPOINTS[kind]
    path = BROKEN[kind](Copies(tiny_checkpoint, tmp_path))
    message = say("evaluate", "-m", path, fifty_questions, "-k", "right", "--quiet")
    assert place in message
    assert mend in message
    assert "right" not in message.replace("right one", "")


NETWORKS = {
    "a file of the old toolkit": ("model.tlt: is no packed network", "what the old toolkit encrypted only that"),
    "a checkpoint": ("model/config.json: is not of a spanqa-network", 'exported by "spanqa export"'),
    "nothing": ("nowhere: no such packed network", "`spanqa export export_format=ONNX` writes one"),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_no_network_is_named_by_its_file(say, tiny_checkpoint, fifty_questions, tmp_path, kind):
    place, mend = NETWORKS[kind]
    checkpoint = tmp_path / "a" / "model"
    shutil.copytree(tiny_checkpoint, checkpoint)
    path = checkpoint if kind == "a checkpoint" else BROKEN[kind](Copies(tiny_checkpoint, tmp_path))
    message = say("infer_onnx", "-m", path, "-g", "1", "-r", tmp_path / "r", f"infer_ds.file={fifty_questions}")
    assert place in message
    assert mend in message


def test_a_key_to_take_out_is_no_dataset(say, tiny_checkpoint):
    assert "optim.lr: the override cannot be applied: the spec holds no such key to take out" in say(
        "evaluate", "-m", tiny_checkpoint, "~optim.lr"
    )


KEYS = {
    "no variable": ("env:SPANQA_NO_SUCH", "SPANQA_NO_SUCH"),
    "an empty variable": ("env:SPANQA_EMPTY", "SPANQA_EMPTY"),
    "no file": ("@nowhere.key", "nowhere.key"),
    "an empty file": ("@{}/empty.key", "empty.key"),
    "a file that is no text": ("@{}/binary.key", "binary.key"),
    "a folder": ("@{}", "cannot be read"),
    "nothing": ("", "empty"),
    "another key": ("wrong", "was encrypted with another key: give that one with -k"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_broken_keys_are_named_and_never_shown(say, tiny_checkpoint, fifty_questions, tmp_path, monkeypatch, kind):
    text, place = KEYS[kind]
    monkeypatch.setenv("SPANQA_EMPTY", "")
    (tmp_path / "empty.key").write_bytes(b"")
    (tmp_path / "binary.key").write_bytes(b"\xff\xfe")
    for name in ("empty.key", "binary.key"):
        (tmp_path / name).chmod(0o600)
    save_checkpoint(*load_checkpoint(tiny_checkpoint), tmp_path / "model.tlt", key=Key(secret=b"secret-of-this-test"))
    message = say("evaluate", "-m", tmp_path / "model.tlt", fifty_questions, "-k", text.format(tmp_path))
    assert place in message
    assert "secret-of-this-test" not in message


def test_an_encrypted_checkpoint_without_a_key_says_what_to_give(say, tiny_checkpoint, fifty_questions, tmp_path):
    save_checkpoint(*load_checkpoint(tiny_checkpoint), tmp_path / "model.tlt", key=Key(secret=b"x"))
    assert "is encrypted: give its key with -k" in say("evaluate", "-m", tmp_path / "model.tlt", fifty_questions)


def test_there_are_more_than_forty_kinds():
    assert len(DATA) + len(SPECS) + len(CHECKPOINTS) + len(KEYS) >= 60
