"""A tiny checkpoint with the real tokenizer: small enough to export in seconds."""

import pytest
import torch

from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from spanqa_training.model import EncoderConfig, SpanModel


@pytest.fixture(scope="session")
def tiny_model_folder(root, tmp_path_factory):
    torch.manual_seed(0)
    tokenizer_file = root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"
    config = EncoderConfig(
        vocab_size=30522, hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128, max_positions=256
    )
    checkpoint = Checkpoint(
        encoder=config,
        tokenizer_json=tokenizer_file.read_text(encoding="utf-8"),
        windows=WindowSettings(max_seq_length=256, doc_stride=128),
        no_answer_threshold=0.25,
        provenance={"source": "random"},
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(checkpoint, SpanModel(config), folder)
    return folder


@pytest.fixture(scope="session")
def thirty_questions(root, tmp_path_factory):
    from spanqa.datasets import read_dataset
    from spanqa_training.commands.negatives import write_squad

    path = tmp_path_factory.mktemp("questions") / "thirty.json"
    write_squad(read_dataset(root / "data" / "heldout200.json")[:30], path)
    return path
