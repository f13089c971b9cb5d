"""What build/gpu_check.sh needs beside perf_analyzer: its input for one bucket, and the report of all it measured.

python benchmarks/gpu_report.py inputs --repository REPOSITORY --data DATASET --length 384 -o inputs_384.json
python benchmarks/gpu_report.py report --work WORK --results benchmarks/results
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from datetime import date
from pathlib import Path

from spanqa.contract import ENCODER_INPUTS, QUESTION_ANSWERING
from spanqa.manifest import load_served_tokenizer
from spanqa.squad import read_squad
from spanqa.startup import versions_in
from spanqa.windows import WindowMaker, batch_windows

N_WINDOWS = 64
PUBLISHED = {1: 125, 8: 208, 16: 224}
"""Inferences/s of BERT-large by batch: NVIDIA, DeepLearningExamples, PyTorch/BERT/triton/large, V100-32, length 384,
fp16, TensorRT in Triton 21.10."""


def inputs(args: argparse.Namespace) -> None:
    """Write real windows of one bucket, padded to its length, as perf_analyzer reads them."""
    folder = args.repository / QUESTION_ANSWERING
    manifest, tokenizer = load_served_tokenizer(folder / str(versions_in(folder)[-1]))
    maker = WindowMaker(tokenizer, manifest.windows)
    lengths = sorted(bucket.length for bucket in manifest.packing.buckets)
    shorter = max((length for length in lengths if length < args.length), default=0)
    pairs = [(example.question, example.context) for example in read_squad(args.data)]
    rows = [
        (windows, index)
        for windows in maker.windows_of_many(pairs)
        for index, length in enumerate(windows.seq_lengths.tolist())
        if shorter < length <= args.length
    ][:N_WINDOWS]
    if not rows:
        raise SystemExit(f"{args.data}: holds no window of {shorter + 1} to {args.length} tokens: give more questions")
    batch = batch_windows(rows, length=args.length)
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    data = [
        {
            tensor.name: {"content": array[row].tolist(), "shape": [args.length]}
            for tensor, array in zip(ENCODER_INPUTS, arrays, strict=True)
        }
        for row in range(len(rows))
    ]
    args.output.write_text(json.dumps({"data": data}), encoding="utf-8")


def report(args: argparse.Namespace) -> None:
    """Write RESULTS/<gpu>.md from the files that the script left."""
    name, capability, driver, memory = next(csv.reader((args.work / "gpu.csv").read_text().splitlines()))
    lines = [
        f"# {name.strip()}, {date.today().isoformat()}",
        "",
        f"Compute capability {capability.strip()}, driver {driver.strip()}, {memory.strip()}.",
        "Written by `build/gpu_check.sh`.",
        "",
        "## One bucket at a time (perf_analyzer, gRPC, one request in flight, real windows)",
        "",
        "Published: BERT-large, length 384, V100-32, fp16, TensorRT in Triton 21.10 (NVIDIA, DeepLearningExamples), on",
        "another machine and with another model of the same size.",
        "",
        "| engine | tokens | batch | inferences/s | p50 ms | p99 ms | published, V100-32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(args.work.glob("*-*-*.csv"), key=_order):
        engine, length, batch = _parts(path)
        row = next(csv.DictReader(path.read_text().splitlines()))
        published = PUBLISHED.get(batch, "") if length == 384 else ""
        p50, p99 = (f"{float(row[f'{p} latency']) / 1000:.2f}" for p in ("p50", "p99"))
        lines.append(
            f"| {engine} | {length} | {batch} | {float(row['Inferences/Second']):.1f} | {p50} | {p99} | {published} |"
        )
    for engine in ("tensorrt", "onnxruntime"):
        path = args.work / f"{engine}-service" / "bench.json"
        if path.is_file():
            lines += ["", f"## The service, {engine} (`spanqa bench`)", "", "```json", path.read_text().strip(), "```"]
        manifest = args.work / engine / QUESTION_ANSWERING
        if manifest.is_dir():
            built = json.loads((manifest / str(versions_in(manifest)[-1]) / "manifest.json").read_text())
            facts = {"versions": built["versions"], "encoder": built["encoder"]}
            lines += ["", f"## What was built, {engine}", "", "```json", json.dumps(facts, indent=2), "```"]
    target = args.results / f"{re.sub(r'[^a-z0-9]+', '-', name.strip().lower())}.md"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(target)


def _parts(path: Path) -> tuple[str, int, int]:
    engine, length, batch = path.stem.split("-")
    return engine, int(length), int(batch)


def _order(path: Path) -> tuple[str, int, int]:
    return _parts(path)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description="Inputs and report of build/gpu_check.sh.")
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser("inputs")
    made.add_argument("--repository", type=Path, required=True)
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--length", type=int, required=True)
    made.add_argument("-o", "--output", type=Path, required=True)
    made.set_defaults(run=inputs)
    told = commands.add_parser("report")
    told.add_argument("--work", type=Path, required=True)
    told.add_argument("--results", type=Path, required=True)
    told.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
