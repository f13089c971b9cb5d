"""The engine torch, from a checkpoint to served answers: built, served by the pip Triton, asked, held against torch.

Every question's answer (text, offsets, whether there is one) is compared with the checkpoint's own in float32. Then
perf_analyzer keeps requests in flight, and the bare network runs the same questions' windows, sorted by length, in its
largest batches, in one process. On a GPU it does all of it with CUDA graphs in float16; without one, on the CPU in
float32, where the rates say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_setting import ROOT, parser_of, print_result

from spanqa import contract
from spanqa.datasets import read_dataset
from spanqa.manifest import Manifest
from spanqa.squad import Example
from spanqa.windows import WindowMaker, Windows, batch_windows
from spanqa_build.gpu_build import GpuBuild
from spanqa_build.parity import Answers, answers_from_logits, run_torch
from spanqa_build.targets import target_from_name
from spanqa_client.answer import Answer
from spanqa_client.bench.load import Load
from spanqa_client.bench.perf_analyzer import input_data_from_examples, measure
from spanqa_client.client import QAClient
from spanqa_client.options import Options
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint, load_checkpoint
from spanqa_training.inference.evaluation import window_logits
from spanqa_training.inference.fixed_length import WEIGHTS_FILE, NetworkOfLengths, network_from_file

CONCURRENCIES = {"cuda": (1, 16, 64), "cpu": (1, 16)}
MODEL = ROOT / "training" / "checkpoints" / "spanqa-minilm"
DATASET = ROOT / "data" / "heldout200.json"


def chosen_questions(path: Path, n_questions: int) -> list[Example]:
    """Take questions evenly from a dataset; all of them where it has no more."""
    examples = list(read_dataset(path))
    n_questions = min(n_questions, len(examples))
    return [examples[number * len(examples) // n_questions] for number in range(n_questions)]


def compared(checkpoint: Checkpoint, examples: Sequence[Example], right: Answers, served: Sequence[Answer]) -> dict:
    """Count the answers that differ from the checkpoint's own, and how far their logits are from it."""
    n_other_spans = n_other_answers = 0
    logits, margins = [0.0], [0.0]
    for answer, decoded in zip(served, right.decoded, strict=True):
        got, wanted = answer.spans[0], decoded.spans[0]
        same = (got.text, got.char_start, got.char_end) == (wanted.text, wanted.char_start, wanted.char_end)
        has_answer = decoded.has_answer(checkpoint.no_answer_threshold)
        n_other_spans += not same
        n_other_answers += answer.has_answer != has_answer or (has_answer and not same)
        margins.append(abs(answer.no_answer_margin - decoded.no_answer_margin))
        if same:
            logits.append(abs(got.logit - wanted.logit))
    return {
        "questions": len(examples),
        "other_spans": n_other_spans,
        "other_answers": n_other_answers,
        "largest_logit_difference": max(logits),
        "largest_margin_difference": max(margins),
    }


def bare_questions_per_s(repository: Path, manifest: Manifest, all_windows: Sequence[Windows]) -> float:
    """Run the network that is served, alone in this process, over all windows; loading is not counted."""
    engine = manifest.engine
    assert engine is not None
    network = NetworkOfLengths(
        network_from_file(
            repository / bucket.model / "1" / WEIGHTS_FILE,
            manifest.encoder["architecture"],
            device=engine.device,
            dtype=engine.dtype,
            length=bucket.length,
            sizes=engine.graph_rows,
        )
        for bucket in manifest.packing.buckets
    )
    rows = sorted(
        ((windows, index) for windows in all_windows for index in range(len(windows))),
        key=lambda row: int(row[0].seq_lengths[row[1]]),
    )
    # A batch of one bucket's windows alone: a shorter one would be padded to a longer one's length.
    batches = []
    for low, bucket in zip(
        (0, *(one.length for one in manifest.packing.buckets)), manifest.packing.buckets, strict=False
    ):
        fitting = [row for row in rows if low < int(row[0].seq_lengths[row[1]]) <= bucket.length]
        batches += [
            batch_windows(fitting[first : first + bucket.max_rows]) for first in range(0, len(fitting), bucket.max_rows)
        ]
    network(batches[0])
    began = time.perf_counter()
    for batch in batches:
        network(batch)
    return len(all_windows) / (time.perf_counter() - began)


def served_rates(args: argparse.Namespace, server: Server, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Keep so many requests in flight, one level after the other."""
    load = Load(url=server.url, model_name=contract.QUESTION_ANSWERING, window_s=args.window_s)
    data = input_data_from_examples(examples, Options())
    rates = []
    for concurrency in CONCURRENCIES[args.device]:
        one = measure(load, data, concurrency)
        rates.append(
            {"concurrency": concurrency, "questions_per_s": one.questions_per_s, "p50_ms": one.p50_ms}
            | {"p99_ms": one.p99_ms, "stable": one.stable}
        )
    return rates


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Build, serve, ask, compare and measure."""
    checkpoint, model = load_checkpoint(args.model)
    examples = chosen_questions(args.dataset, args.questions)
    pairs = [(example.question, example.context) for example in examples]
    all_windows = WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows_of_many(pairs)
    logits = window_logits(partial(run_torch, model.eval()), all_windows, quiet=args.quiet)
    right = answers_from_logits(checkpoint, all_windows, [example.context for example in examples], logits)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        build = {"checkpoint": checkpoint, "model": model, "name": args.model.stem, "quiet": args.quiet}
        target = target_from_name(args.target or ("auto" if args.device == "cuda" else "t4"))
        began = time.perf_counter()
        manifest = GpuBuild(**build, target=target, engine="torch", device=args.device).write(repository)
        build_s = time.perf_counter() - began
        began = time.perf_counter()
        with Server(repository) as server:
            start_s = time.perf_counter() - began
            with QAClient(server.url) as client:
                served = list(client.ask_many(pairs, concurrency=16))
            rates = served_rates(args, server, examples)
        bare = bare_questions_per_s(repository, manifest, all_windows)
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "target": manifest.target,
        "precision": manifest.encoder["precision"],
        "torch": torch.__version__,
        "windows": sum(map(len, all_windows)),
        "build_s": build_s,
        "start_s": start_s,
        "answers": compared(checkpoint, examples, right, served),
        "served": rates,
        "bare_questions_per_s": bare,
    }


def _table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    answers, bare = result["answers"], result["bare_questions_per_s"]
    rows = [
        (f"torch {result['torch']} in {result['precision']} on {result['device']}", f"target {result['target']}"),
        (f"questions ({result['windows']} windows)", f"{answers['questions']}"),
        ("best spans that differ from torch in float32", f"{answers['other_spans']}"),
        ("answers that differ, at the model's threshold", f"{answers['other_answers']}"),
        ("largest difference of a logit", f"{answers['largest_logit_difference']:.2g}"),
        ("largest difference of a margin", f"{answers['largest_margin_difference']:.2g}"),
        ("built and held against torch, s", f"{result['build_s']:.1f}"),
        ("started, s", f"{result['start_s']:.1f}"),
        ("bare network, questions/s", f"{bare:.1f}"),
    ]
    for one in result["served"]:
        unstable = "" if one["stable"] else " (not stable)"
        rate = f"{one['questions_per_s']:.1f}{unstable}, {one['questions_per_s'] / bare:.2f} of the bare network's"
        rows += [
            (f"served, {one['concurrency']} in flight, questions/s", rate),
            ("  p50, p99 ms", f"{one['p50_ms']:.1f}, {one['p99_ms']:.1f}"),
        ]
    return rows


def main() -> int:
    """Measure and print; fails where more answers differ than the build allows of its own network."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint (default: the shipped)")
    parser.add_argument("--dataset", type=Path, default=DATASET, help="SQuAD file (default: data/heldout200.json)")
    parser.add_argument("--questions", type=int, default=500, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument("--device", choices=tuple(CONCURRENCIES), help="default: cuda where torch sees a GPU")
    parser.add_argument("--target", help="default: auto on a GPU, t4 on a CPU")
    parser.add_argument("--window-s", type=float, default=5.0, metavar="S", help="perf_analyzer's interval")
    args = parser.parse_args()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    result = measured(args)
    print_result(result, _table(result), as_json=args.json)
    allowed = 0.01 * result["answers"]["questions"] if args.device == "cuda" else 0
    return int(result["answers"]["other_answers"] > allowed)


if __name__ == "__main__":
    sys.exit(main())
