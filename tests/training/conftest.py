"""A tiny untrained checkpoint with the real tokenizer, and real questions to train it on."""

import pytest
import torch

from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.model import EncoderConfig, SpanModel


@pytest.fixture(scope="session")
def fifty_questions(real_questions, tmp_path_factory):
    """A SQuAD file of 50 real questions about 13 passages."""
    path = tmp_path_factory.mktemp("questions") / "fifty.json"
    write_squad(real_questions[:50], path)
    return path


@pytest.fixture(scope="session")
def twenty_of_short_passages(real_questions):
    """A question with an answer and one without about each of the ten shortest passages that have both."""
    first = {}
    for example in real_questions:
        first.setdefault(example.context, {}).setdefault(bool(example.answers), example)
    both = sorted((context for context, found in first.items() if len(found) == 2), key=len)
    return [example for context in both[:10] for example in first[context].values()]


@pytest.fixture(scope="session")
def twenty_questions(twenty_of_short_passages, tmp_path_factory):
    """A SQuAD file of 20 real questions about 10 short passages: little to train on, and only who reads them knows."""
    path = tmp_path_factory.mktemp("questions") / "twenty.json"
    write_squad(twenty_of_short_passages, path)
    return path


@pytest.fixture(scope="session")
def answerable_questions(twenty_of_short_passages, tmp_path_factory):
    """A SQuAD file of 10 real questions that all have an answer."""
    path = tmp_path_factory.mktemp("questions") / "answerable.json"
    write_squad([example for example in twenty_of_short_passages if example.answers], path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(root, tmp_path_factory):
    """Two layers of 48, random weights: the vocabulary's rows are most of what a step costs."""
    return save_tiny(root, tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def still_checkpoint(root, tmp_path_factory):
    """The same without dropout: what is trained from it depends on the data alone."""
    return save_tiny(root, tmp_path_factory.mktemp("checkpoints") / "still", dropout=0.0, attention_dropout=0.0)


def save_tiny(root, folder, **changes):
    torch.manual_seed(0)
    tokenizer_json = (root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json").read_text(
        encoding="utf-8"
    )
    config = EncoderConfig(
        vocab_size=30522, hidden_size=48, num_layers=2, num_heads=4, intermediate_size=96, max_positions=256, **changes
    )
    checkpoint = Checkpoint(
        encoder=config, tokenizer_json=tokenizer_json, windows=WindowSettings(max_seq_length=256, doc_stride=128)
    )
    save_checkpoint(checkpoint, SpanModel(config), folder)
    return folder
