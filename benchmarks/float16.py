"""The float16 network against float32 torch: a checkpoint on a dataset, and Megatron-BERT 345M at full size.

    python benchmarks/float16.py checkpoint [--dataset FILE] [--model DIR]
    python benchmarks/float16.py full-size [--folder DIR]

Each network is measured twice: as ONNX Runtime runs it on a CPU (float16 weights, float32 between the nodes), and as
its rounded twin, where every float16 result is rounded as a GPU would round it. The second command needs 3 GB of disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from bench_setting import DATASET, ROOT, heldout_examples, parser_of, print_result
from full_size import MEGATRON_345M, peak_gib

from spanqa.datasets import read_dataset
from spanqa.spans import DecodeSettings
from spanqa.tokenization import load_tokenizer
from spanqa.windows import Batch, WindowMaker, WindowSettings, batch_windows
from spanqa_build.activation_scan import scan_activations
from spanqa_build.float16_export import float16_network_from_graph, float32_graph
from spanqa_build.network_file import write_network
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_build.precision import rounded_twin
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.inference.evaluation import Evaluation, Logits, Network, evaluate
from spanqa_training.model import SpanModel

MODEL = ROOT / "training" / "checkpoints" / "spanqa-minilm"
N_SCANNED = 64
"""Windows of the checkpoint's activation scan."""
N_FULL_SIZE = 50
"""Windows that the full-size network is compared on."""
N_FULL_SIZE_SCANNED = 10

Rows = list[dict[str, Any]]


@contextmanager
def stage(name: str, rows: Rows) -> Iterator[dict[str, Any]]:
    """Measure one stage, and say so when it is done."""
    row: dict[str, Any] = {"stage": name}
    began = time.monotonic()
    yield row
    row |= {"seconds": round(time.monotonic() - began, 1), "peak_gib": round(peak_gib(), 2)}
    rows.append(row)
    print(row, file=sys.stderr, flush=True)


def written_networks(model: SpanModel, batches: list[Batch], folder: Path, rows: Rows) -> dict[str, Network]:
    """Export a model; gives the network, and its rounded twin, as functions."""
    with stage("export float32 graph", rows):
        graph = float32_graph(model)
    with stage("scan activations", rows) as row:
        scan = scan_activations(graph, batches)
        row |= {"largest": round(max(scan.largest.values()), 1), "kept_in_float32": len(scan.float32_tensors)}
    with stage("write float16 network", rows) as row:
        facts = float16_network_from_graph(graph, folder / "network.onnx", float32_tensors=scan.float32_tensors)
        del graph
        network = onnx.load(facts.path)
        row |= {"megabytes": round(facts.n_bytes / 1e6), "nodes": facts.n_nodes, "casts": facts.n_casts}
    with stage("write rounded twin", rows):
        write_network(rounded_twin(network), folder / "twin.onnx")
    with stage("open in ONNX Runtime", rows):
        session = session_from_onnx(facts.path)
    return {
        "ONNX Runtime": partial(run_onnx, session),
        "rounded twin": partial(run_onnx, session_from_onnx(folder / "twin.onnx")),
    }


def differences(right: list[Logits], built: list[Logits]) -> dict[str, float]:
    """Largest logit difference of each window: median, 99 % and largest over windows."""
    largest = [
        max(float(abs(a - b).max()) for a, b in zip(*pair, strict=True)) for pair in zip(right, built, strict=True)
    ]
    median, most, maximum = np.quantile(largest, (0.5, 0.99, 1.0)).tolist()
    return {"median": round(median, 5), "q99": round(most, 5), "max": round(maximum, 5)}


def recorded(network: Network, logits: list[Logits]) -> Network:
    """Make a network that notes its logits; one window a call, in the same order in every evaluation."""

    def recording(batch: Batch) -> Logits:
        logits.append(network(batch))
        return logits[-1]

    return recording


def answers(evaluation: Evaluation, threshold: float) -> list[tuple[int, int] | None]:
    """Place of each answer at a threshold; None where there is none."""
    return [
        (found.spans[0].char_start, found.spans[0].char_end) if found.has_answer(threshold) else None
        for found in evaluation.decoded
    ]


def measure_checkpoint(args: argparse.Namespace) -> Rows:
    """Compare a checkpoint's networks on every question of a file."""
    rows: Rows = []
    checkpoint, model = load_checkpoint(args.model)
    model.eval()
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    examples = read_dataset(args.dataset) if args.dataset else heldout_examples()
    settings = DecodeSettings(max_answer_tokens=checkpoint.max_answer_tokens)
    ask: Callable[[Network], Evaluation] = partial(
        evaluate, maker=maker, examples=examples, settings=settings, quiet=args.quiet, rows_per_batch=1
    )
    threshold = checkpoint.no_answer_threshold
    right_logits: list[Logits] = []
    with tempfile.TemporaryDirectory() as folder:
        networks = written_networks(model, real_batches(maker, args.dataset, N_SCANNED), Path(folder), rows)
        with stage("torch float32", rows) as row:
            right = ask(recorded(partial(run_torch, model), right_logits))
            row |= {"questions": len(examples), "f1": round(right.scores(threshold)["f1"], 3)}
        for name, network in networks.items():
            logits: list[Logits] = []
            with stage(f"float16, {name}", rows) as row:
                built = ask(recorded(network, logits))
                pairs = list(zip(answers(right, threshold), answers(built, threshold), strict=True))
                row |= differences(right_logits, logits)
                row["f1"] = round(built.scores(threshold)["f1"], 3)
                row["same_answers_percent"] = round(100 * sum(a == b for a, b in pairs) / len(pairs), 3)
    return rows


def realistic(model: SpanModel) -> SpanModel:
    """Scale random weights, in place, until the activations are like those of a trained pre-LN network.

    Attention is peaked, blocks add more than the embeddings hold, four channels of the residual stream grow to
    hundreds, as in trained BERT networks (Kovaleva et al. 2021, https://arxiv.org/abs/2105.06990), and logits reach 10.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                parameter.mul_(2)
            elif name.endswith("contract.weight"):
                parameter.mul_(4)
            elif name.endswith("contract.bias"):
                parameter[:4] = 20.0
        model.head.weight.mul_(8)
    return model


def real_batches(maker: WindowMaker, dataset: Path | None, n_windows: int) -> list[Batch]:
    """Windows of real questions, one a batch."""
    examples = heldout_examples(n_windows) if dataset is None else read_dataset(dataset)[:n_windows]
    every = maker.windows_of_many([(example.question, example.context) for example in examples])
    return [batch_windows([(windows, index)]) for windows in every for index in range(len(windows))][:n_windows]


def measure_full_size(args: argparse.Namespace) -> Rows:
    """Export Megatron-BERT 345M and compare its logits on real windows."""
    rows: Rows = []
    torch.manual_seed(0)
    model = realistic(SpanModel(MEGATRON_345M).eval())
    batches = real_batches(WindowMaker(load_tokenizer(MODEL), WindowSettings()), args.dataset, N_FULL_SIZE)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        networks = written_networks(model, batches[:N_FULL_SIZE_SCANNED], Path(folder), rows)
        with stage("torch float32", rows) as row:
            right = [run_torch(model, batch) for batch in batches]
            row |= {
                "windows": len(batches),
                "largest": round(max(float(abs(a).max()) for pair in right for a in pair), 2),
            }
        for name, network in networks.items():
            with stage(f"float16, {name}", rows) as row:
                row |= differences(right, [network(batch) for batch in batches])
    return rows


def main() -> None:
    """Measure one of the two and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("checkpoint", "full-size"))
    parser.add_argument("--dataset", type=Path, metavar="FILE", help=f"dataset (default: held out of {DATASET.name})")
    parser.add_argument("--model", type=Path, metavar="DIR", default=MODEL, help="checkpoint (default: the shipped)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    rows = measure_checkpoint(args) if args.what == "checkpoint" else measure_full_size(args)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [tuple(columns), *(tuple(str(row.get(column, "")) for column in columns) for row in rows)]
    print_result({"float16": rows}, table, as_json=args.json)


if __name__ == "__main__":
    main()
