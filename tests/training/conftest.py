"""A tiny untrained checkpoint, and real questions to train it on."""

import json

import pytest
import torch

from spanqa.tokenization import load_tokenizer
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
def small_tokenizer(root, real_questions, twenty_of_short_passages, tmp_path_factory):
    """Cuts the texts of those questions as the shipped tokenizer does, and knows hardly a piece that they do not need.

    The rows of a vocabulary would be most of what a step and a saved state cost.
    """
    shipped = load_tokenizer(root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json")
    texts = {
        text
        for example in (*real_questions[:50], *twenty_of_short_passages)
        for text in (example.question, example.context)
    }
    vocabulary = json.loads(shipped.serialized)["model"]["vocab"]
    needed = {int(token) for text in texts for token in shipped.pieces(text).ids}
    letters = {piece for piece in vocabulary if len(piece.removeprefix("##")) == 1 and piece.isascii()}
    kept = [piece for piece, token in vocabulary.items() if token in needed or piece in letters]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *kept]) + "\n", encoding="utf-8")
    return load_tokenizer(path, do_lower_case=True)


@pytest.fixture(scope="session")
def tiny_checkpoint(small_tokenizer, tmp_path_factory):
    """Two layers of 48, random weights."""
    return save_tiny(small_tokenizer, tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def still_checkpoint(small_tokenizer, tmp_path_factory):
    """The same without dropout: what is trained from it depends on the data alone."""
    return save_tiny(
        small_tokenizer, tmp_path_factory.mktemp("checkpoints") / "still", dropout=0.0, attention_dropout=0.0
    )


def save_tiny(tokenizer, folder, **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "max_positions": 256}
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, **sizes, **changes)
    windows = WindowSettings(max_seq_length=256, doc_stride=128)
    checkpoint = Checkpoint(encoder=config, tokenizer_json=tokenizer.serialized, windows=windows)
    save_checkpoint(checkpoint, SpanModel(config), folder)
    return folder
