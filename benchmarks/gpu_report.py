"""What build/gpu_check.sh needs beside perf_analyzer: its input for each bucket, and the report of all it measured.

python benchmarks/gpu_report.py inputs --repository REPOSITORY --data DATASET -o WORK
python benchmarks/gpu_report.py report --work WORK --results benchmarks/results [--failed ENGINE ...]
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from spanqa.contract import ENCODER_INPUTS, QUESTION_ANSWERING
from spanqa.datasets import read_dataset
from spanqa.manifest import load_served_tokenizer
from spanqa.startup import versions_in
from spanqa.windows import WindowMaker, Windows, batch_windows

N_WINDOWS = 64
PUBLISHED = {1: 125, 8: 208, 16: 224}
"""Inferences/s of BERT-large by batch: NVIDIA, DeepLearningExamples, PyTorch/BERT/triton/large, V100-32, length 384,
fp16, TensorRT in Triton 21.10."""


def inputs(args: argparse.Namespace) -> None:
    """Write WORK/inputs_<length>.json for perf_analyzer, and print the length, of every bucket that has windows."""
    folder = args.repository / QUESTION_ANSWERING
    manifest, tokenizer = load_served_tokenizer(folder / str(versions_in(folder)[-1]))
    pairs = [(example.question, example.context) for example in read_dataset(args.data)]
    windows = WindowMaker(tokenizer, manifest.windows).windows_of_many(pairs)
    shorter = 0
    for length in sorted(bucket.length for bucket in manifest.packing.buckets):
        rows = _rows(windows, shorter, length)
        if rows:
            (args.output / f"inputs_{length}.json").write_text(_perf_data(rows, length), encoding="utf-8")
            print(length)
        else:
            print(f"{args.data}: no window of {shorter + 1} to {length} tokens: not measured", file=sys.stderr)
        shorter = length


def _rows(windows: Sequence[Windows], shorter: int, length: int) -> list[tuple[Windows, int]]:
    """Give real windows that the bucket of `length` takes: longer than the bucket before it."""
    return [
        (one, index)
        for one in windows
        for index, n_tokens in enumerate(one.seq_lengths.tolist())
        if shorter < n_tokens <= length
    ][:N_WINDOWS]


def _perf_data(rows: Sequence[tuple[Windows, int]], length: int) -> str:
    batch = batch_windows(rows, length=length)
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    data = [
        {
            tensor.name: {"content": array[row].tolist(), "shape": [length]}
            for tensor, array in zip(ENCODER_INPUTS, arrays, strict=True)
        }
        for row in range(len(rows))
    ]
    return json.dumps({"data": data})


def report(args: argparse.Namespace) -> None:
    """Write WORK/<gpu>.md from the files that the script left, and copy it to RESULTS if that can be written."""
    name, capability, driver, memory = next(csv.reader((args.work / "gpu.csv").read_text().splitlines()))
    lines = [
        f"# {name.strip()}, {date.today().isoformat()}",
        "",
        f"Compute capability {capability.strip()}, driver {driver.strip()}, {memory.strip()}.",
        "Written by `build/gpu_check.sh`.",
        *(f"Failed, so that its figures are missing or incomplete: {engine}." for engine in args.failed),
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
        row = next(csv.DictReader(path.read_text().splitlines()), None)
        if row is None:  # perf_analyzer was stopped
            continue
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
    target = args.work / f"{re.sub(r'[^a-z0-9]+', '-', name.strip().lower())}.md"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(target)
    try:
        shutil.copyfile(target, args.results / target.name)
    except OSError as error:
        print(f"{args.results}: {error.strerror}: the report stays in {target}", file=sys.stderr)
    else:
        print(args.results / target.name)


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
    made.add_argument("-o", "--output", type=Path, required=True, metavar="WORK")
    made.set_defaults(run=inputs)
    told = commands.add_parser("report")
    told.add_argument("--work", type=Path, required=True)
    told.add_argument("--results", type=Path, required=True)
    told.add_argument("--failed", nargs="*", default=[], metavar="ENGINE")
    told.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
