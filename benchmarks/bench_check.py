"""Whether `spanqa bench` can be believed: against perf_analyzer called by hand, and against itself.

The command and perf_analyzer take turns at every level, so that noise hits both; their ratio is of geometric means.
Then the command measures the same server twice and compares the runs: whatever it calls a difference would be wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, stdev
from typing import Any

from bench_setting import add_repository, heldout_examples, parser_of, print_result
from tqdm import tqdm

from spanqa import contract
from spanqa.cli import main as spanqa
from spanqa.squad import Example
from spanqa_client.bench.binary import environment_with_libraries, perf_analyzer_path
from spanqa_client.bench.comparison import Change, compare, t_quantile
from spanqa_client.bench.load import Load, served_version
from spanqa_client.bench.perf_analyzer import input_data_from_examples, measure
from spanqa_client.bench.report import comparison_table, run_from_file
from spanqa_client.client import QAClient
from spanqa_client.options import Options
from spanqa_server.server import Server

N_QUESTIONS = 1000
N_WARMING = 100
TARGET_RATIO = 0.03
FIGURES = {"questions_per_s": "Inferences/Second", "p50_ms": "p50 latency", "p95_ms": "p95 latency"}
"""Our figures, and perf_analyzer's columns."""


def by_hand(load: Load, data: Path, concurrency: int, folder: Path) -> dict[str, float]:
    """Call perf_analyzer as its manual does, and give what its report says; latencies in milliseconds."""
    report = folder / "by_hand.csv"
    command = [
        *[perf_analyzer_path(), "-m", load.model_name, "-x", served_version(load), "-u", load.url, "-i", "grpc"],
        *["--async", "--input-data", str(data), "--concurrency-range", f"{concurrency}"],
        *["-p", f"{round(1000 * load.window_s)}", "-s", "1000", "-f", str(report)],
    ]
    environment = environment_with_libraries(folder / "lib")
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=folder)
    row = next(csv.DictReader(report.read_text().splitlines()))
    return {ours: float(row[theirs]) / (1 if ours == "questions_per_s" else 1e3) for ours, theirs in FIGURES.items()}


def against_perf_analyzer(
    args: argparse.Namespace, url: str, examples: Sequence[Example], folder: Path
) -> list[dict[str, Any]]:
    """Take turns with perf_analyzer at every level."""
    load = Load(url=url, model_name=contract.QUESTION_ANSWERING, window_s=args.window_s)
    text = input_data_from_examples(examples, Options())
    data = folder / "input.json"
    data.write_text(text, encoding="utf-8")
    rows = []
    with tqdm(total=len(args.concurrency) * args.turns, unit="turn", disable=True if args.quiet else None) as bar:
        for concurrency in args.concurrency:
            ours, theirs = [], []
            for turn in range(args.turns):
                # Who goes first changes, too.
                for is_ours in (True, False) if turn % 2 else (False, True):
                    if is_ours:
                        ours.append(measure(load, text, concurrency))
                    else:
                        theirs.append(by_hand(load, data, concurrency, folder))
                bar.update()
            for name in FIGURES:
                pairs = [(getattr(one, name), other[name]) for one, other in zip(ours, theirs, strict=True)]
                mine, other = (geometric_mean(side) for side in zip(*pairs, strict=True))
                rows.append(
                    {"concurrency": concurrency, "figure": name, "bench": mine, "perf_analyzer": other}
                    | {"ratio": mine / other, "spread": ratio_spread(pairs)}
                )
    return rows


def ratio_spread(pairs: Sequence[tuple[float, float]]) -> float:
    """Give how far the mean ratio of the pairs may be off by chance, as a share: Student's interval of 95 %."""
    gaps = [math.log(mine / other) for mine, other in pairs]
    return math.expm1(t_quantile(0.95, len(gaps) - 1) * stdev(gaps) / math.sqrt(len(gaps)))


def against_itself(args: argparse.Namespace, url: str, examples: Sequence[Example], folder: Path) -> list[Change]:
    """Let the command measure twice, and compare."""
    data = folder / "dataset.json"
    paragraphs = [
        {"context": one.context, "qas": [{"id": one.id, "question": one.question, "answers": []}]} for one in examples
    ]
    data.write_text(json.dumps({"data": [{"title": "heldout", "paragraphs": paragraphs}]}), encoding="utf-8")
    runs = []
    for name in ("first", "second"):
        command = [
            *["bench", "--dataset", str(data), "--url", url, "--quiet", "-o", str(folder / name)],
            *["--concurrency", ",".join(map(str, args.concurrency)), "--rates", f"{args.rate:g}"],
            *["--rounds", str(args.rounds), "--window-s", str(args.window_s)],
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            if spanqa(command):
                raise SystemExit("the command failed")
        runs.append(run_from_file(folder / name / "bench.json"))
    return compare(runs[0].measurements, runs[1].measurements)


def main() -> int:
    """Serve, take turns, measure twice and print."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="closed loops")
    parser.add_argument("--rate", type=float, default=20.0, metavar="R", help="of the open loop (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=4, metavar="N", help="of each side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of both runs (default: %(default)s)")
    parser.add_argument("--window-s", type=float, default=1.0, metavar="S", help="(default: %(default)s)")
    args = parser.parse_args()
    examples = heldout_examples(N_QUESTIONS)
    with tempfile.TemporaryDirectory() as name, Server(args.repository) as server:
        folder = Path(name)
        with QAClient(server.url) as client:
            list(client.ask_many([(one.question, one.context) for one in examples[:N_WARMING]], timeout_s=600))
        rows = against_perf_analyzer(args, server.url, examples, folder)
        changes = against_itself(args, server.url, examples, folder)
    farthest = max(abs(row["ratio"] - 1) for row in rows)
    differing = sum(change.differs for change in changes)
    table = [("in flight", "", "bench", "perf_analyzer", "ratio")]
    table += [
        (
            f"{row['concurrency']}",
            row["figure"],
            f"{row['bench']:.2f}",
            f"{row['perf_analyzer']:.2f}",
            f"{row['ratio']:.3f} +- {row['spread']:.3f}",
        )
        for row in rows
    ]
    result = {"rows": rows, "farthest": farthest, "differing": differing}
    print_result(result, table, as_json=args.json)
    if not args.json:
        print(f"farthest from 1: {100 * farthest:.1f} % (at most {100 * TARGET_RATIO:g} %)")
        print(comparison_table(changes))
    return int(farthest > TARGET_RATIO or differing > 0)


if __name__ == "__main__":
    sys.exit(main())
