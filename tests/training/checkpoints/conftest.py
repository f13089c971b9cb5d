"""A small checkpoint and its model, and how to see what a saved one holds."""

from __future__ import annotations

import json
import sys
import zipfile

import pytest
import torch

from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints import encryption as sealed
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from spanqa_training.model import EncoderConfig, SpanModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?", "naïve")


@pytest.fixture
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


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file, which tests cannot import."""
    return sys.modules[__name__]


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
