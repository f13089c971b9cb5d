"""`spanqa bench`: throughput and latency of a server, measured by perf_analyzer with a dataset's questions."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.errors import InputError
from spanqa.files import write_atomically
from spanqa_client.client import QAClient
from spanqa_client.commands.arguments import add_answering, add_server, add_timeout, answering
from spanqa_client.options import Options
from spanqa_client.perf_analyzer import Load, Measurement, input_data_from_examples, measure
from spanqa_client.plot import svg_from_measurements


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_server(parser)
    add_answering(parser)
    add_timeout(parser)
    parser.add_argument(
        "--dataset", metavar="FILE", required=True, help=f"whose questions are asked: {DATASET_FORMATS}"
    )
    parser.add_argument(
        "--concurrency",
        metavar="N,N",
        default="1,4,16",
        help="requests in flight, one run for each (default: %(default)s)",
    )
    parser.add_argument(
        "--questions",
        metavar="N",
        type=int,
        default=1000,
        help="most questions, drawn at random (default: %(default)s)",
    )
    parser.add_argument(
        "--window-s", metavar="S", type=float, default=5.0, help="length of one measurement (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write bench.json and bench.svg there")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print one line for each concurrency."""
    from tqdm import tqdm

    levels = _levels(args.concurrency)
    if args.questions < 1 or not args.window_s > 0:
        raise InputError(f"got --questions {args.questions} and --window-s {args.window_s}: both must be above 0")
    examples = read_dataset(args.dataset, require_answers=False)
    # Drawn at random so that every measurement sees the same mix of lengths; seeded so that every run does.
    examples = random.Random(0).sample(examples, min(args.questions, len(examples)))  # noqa: S311 - no secrets
    with QAClient(args.url, model_name=args.model) as client:
        # A server that cannot answer says why, here.
        client.ask(examples[0].question, examples[0].context, timeout_s=args.timeout_s, **answering(args))
    input_data = input_data_from_examples(examples, Options(**answering(args)))
    load = Load(url=args.url, model_name=args.model, window_s=args.window_s)
    bar = tqdm(levels, unit="run", disable=True if args.quiet else None)
    measurements = [measure(load, input_data, concurrency) for concurrency in bar]
    text = json.dumps([asdict(measurement) for measurement in measurements], indent=2)
    if args.output:
        title = f"{args.model}: {len(examples):,} questions of {Path(args.dataset).name}"
        _write(Path(args.output), text, svg_from_measurements(measurements, title=title))
    print(text if args.json else bench_table(measurements))
    return 0


def bench_table(measurements: Sequence[Measurement]) -> str:
    """Lay measurements out to read, one line for each concurrency."""
    lines = ["concurrency  questions/s    p50 ms    p95 ms    p99 ms"]
    for m in measurements:
        line = f"{m.concurrency:11d}  {m.questions_per_s:11.1f}  {m.p50_ms:8.2f}  {m.p95_ms:8.2f}  {m.p99_ms:8.2f}"
        lines.append(line if m.stable else f"{line}  (not stable)")
    return "\n".join(lines)


def _write(folder: Path, measurements_json: str, svg: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o {folder}: cannot be made a folder: {error.strerror}") from error
    write_atomically(folder / "bench.json", measurements_json + "\n")
    write_atomically(folder / "bench.svg", svg)


def _levels(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) >= 1 for part in parts):
        raise InputError(
            f"--concurrency is {text!r}: give whole numbers of at least 1 with commas between, such as 1,4,16"
        )
    return sorted({int(part) for part in parts})
