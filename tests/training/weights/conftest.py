"""Models to take over, and what makes them: modules beside this one, which tests cannot import."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from spanqa.tokenization import load_tokenizer


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def megatron():
    """Makes what Megatron-LM saves."""
    return loaded("megatron_checkpoints")


@pytest.fixture(scope="session")
def hugging_face():
    """Makes what transformers saves."""
    return loaded("hugging_face_folders")


@pytest.fixture(scope="session")
def nemo():
    """Makes what NeMo saves."""
    return loaded("nemo_archives")


@pytest.fixture(scope="module")
def oracle(megatron, vocabulary_file):
    """A random model of transformers, for Megatron-LM's files."""
    return megatron.random_model(load_tokenizer(vocabulary_file).vocab_size)


@pytest.fixture
def folder(tmp_path, vocabulary_file):
    """A folder with the vocabulary, for a file beside it."""
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def vocabulary(vocabulary_file):
    """The content of that vocabulary's file, for NeMo's archives."""
    return vocabulary_file.read_bytes()


@pytest.fixture(scope="module")
def models(nemo, vocabulary_file):
    """Random models of transformers by family, for NeMo's archives."""
    vocab_size = load_tokenizer(vocabulary_file).vocab_size
    return {family: nemo.oracle(family, vocab_size) for family in ("bert", "megatron")}
