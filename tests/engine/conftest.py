"""A tiny checkpoint with the real tokenizer: small enough to export in seconds."""

import dataclasses
import hashlib

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
def exported_once(tmp_path_factory):
    """The real export in explicit float16, done once for the same weights and layer norm: it takes seconds."""
    from spanqa_build.float16_export import float16_network_from_windows

    folder, done = tmp_path_factory.mktemp("exported"), {}

    def export(model, path, batches, *, layer_norm):
        weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        key = layer_norm, hashlib.sha256(weights).hexdigest()
        if key not in done:
            kept = folder / f"{len(done)}.onnx"
            done[key] = float16_network_from_windows(model, kept, batches, layer_norm=layer_norm)
        facts, scan = done[key]
        path.write_bytes(facts.path.read_bytes())
        return dataclasses.replace(facts, path=path), scan

    return export


@pytest.fixture(scope="session")
def thirty_questions(root, tmp_path_factory):
    from spanqa.datasets import read_dataset
    from spanqa_training.commands.negatives import write_squad

    path = tmp_path_factory.mktemp("questions") / "thirty.json"
    write_squad(read_dataset(root / "data" / "heldout200.json")[:30], path)
    return path
