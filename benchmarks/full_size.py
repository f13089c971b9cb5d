"""Megatron-BERT 345M at full size on this machine: build, save, load, train one step, save encrypted, export.

    python benchmarks/full_size.py [--folder DIR]

starts from random weights of NVIDIA's shape, with the padded vocabulary of 30,592, and prints seconds, bytes and the
peak resident memory after each stage. The folder needs 10 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from bench_setting import ROOT, machine
from lightning.fabric import Fabric

from spanqa.windows import Batch
from spanqa_build.onnx_export import onnx_from_model
from spanqa_build.parity import run_onnx, session_from_onnx
from spanqa_training.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spanqa_training.checkpoints.keys import key_from_argument
from spanqa_training.data.feed import Share, span_loss
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.optimization.optimizers import make_optimizer
from spanqa_training.weights.hugging_face import write_hugging_face

PUBLISHED_PARAMETERS = 334_166_018
"""Of the published encoder with a span head: 30,592 rows of vocabulary, no pooler."""
LENGTH, BATCH = 384, 2
MEGATRON_345M = EncoderConfig(
    vocab_size=30_592,
    hidden_size=1024,
    num_layers=24,
    num_heads=16,
    intermediate_size=4096,
    max_positions=512,
    layer_norm_eps=1e-5,
    layer_norm="pre",
)


def peak_gib() -> float:
    """Peak resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def stage(name: str, rows: list[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Measure one stage."""
    row: dict[str, object] = {"stage": name}
    started = time.monotonic()
    yield row
    rows.append({**row, "seconds": round(time.monotonic() - started, 1), "peak_gib": round(peak_gib(), 2)})
    print(json.dumps(rows[-1]), flush=True)


def batch_of_ids() -> Batch:
    """Two windows of the longest length, one of them padded."""
    ids = np.random.default_rng(0).integers(1000, 30_000, (BATCH, LENGTH)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[1, 300:] = 0
    types = np.zeros_like(ids)
    types[:, 20:] = 1
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=types)


def train_one_step(model: SpanModel, precision: str) -> float:
    """One step of AdamW at length 384, batch 2; gives the loss."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    optimizer = make_optimizer(model, "adamw", lr=3e-5, betas=(0.9, 0.999), weight_decay=0.0)
    wrapped, optimizer = fabric.setup(model.train(), optimizer)
    batch = batch_of_ids()
    ids, mask, types = map(torch.from_numpy, (batch.input_ids, batch.attention_mask, batch.token_type_ids))
    share = Share(inputs=(ids, mask, types), starts=torch.tensor([30, 0]), ends=torch.tensor([33, 0]), weight=1.0)
    loss = span_loss(*wrapped(ids, mask, types), share)
    fabric.backward(loss)
    optimizer.step()
    model.eval()
    return float(loss.detach())


def largest_difference(network: Path, model: SpanModel) -> float:
    """Largest difference of the ONNX's logits from torch's."""
    batch = batch_of_ids()
    with torch.inference_mode():
        right = model(*map(torch.from_numpy, (batch.input_ids, batch.attention_mask, batch.token_type_ids)))
    built = run_onnx(session_from_onnx(network), batch)
    tokens = batch.attention_mask == 1
    return max(float(abs(a.numpy() - b)[tokens].max()) for a, b in zip(right, built, strict=True))


def main() -> None:
    """Go through the stages."""
    parser = argparse.ArgumentParser(description="Megatron-BERT 345M at full size.")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"), help="of the step")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        tokenizer = (ROOT / "training/checkpoints/spanqa-minilm/tokenizer.json").read_text(encoding="utf-8")
        checkpoint = Checkpoint(encoder=MEGATRON_345M, tokenizer_json=tokenizer, provenance={"source": "random"})
        with stage("build", rows) as row:
            torch.manual_seed(0)
            model = SpanModel(MEGATRON_345M)
            row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
            row["as_published"] = row["parameters"] == PUBLISHED_PARAMETERS
        with stage("train one step", rows) as row:
            row["loss"] = round(train_one_step(model, args.precision), 4)
        with stage("save packed", rows) as row:
            save_checkpoint(checkpoint, model, folder / "model.tlt")
            row["bytes"] = (folder / "model.tlt").stat().st_size
        with stage("load packed", rows) as row:
            _, loaded = load_checkpoint(folder / "model.tlt")
            weights = model.state_dict()
            row["same_weights"] = all(torch.equal(weights[n], t) for n, t in loaded.state_dict().items())
            del loaded
        key = key_from_argument("benchmark", warn=lambda _: None)
        with stage("save and load encrypted", rows) as row:
            save_checkpoint(checkpoint, model, folder / "secret.tlt", key=key)
            _, loaded = load_checkpoint(folder / "secret.tlt", key=key)
            row["same_weights"] = all(torch.equal(weights[n], t) for n, t in loaded.state_dict().items())
            del loaded
        with stage("export Hugging Face", rows):
            write_hugging_face(checkpoint, model, folder / "hugging-face")
        with stage("export ONNX float32", rows) as row:
            onnx_from_model(model, folder / "network.onnx")
            row["bytes"] = (folder / "network.onnx").stat().st_size
        with stage("compare ONNX with torch", rows) as row:
            row["largest_difference"] = largest_difference(folder / "network.onnx", model)


if __name__ == "__main__":
    main()
