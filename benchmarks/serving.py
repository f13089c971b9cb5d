"""What serving costs: latency and throughput through Triton against the same network bare in ONNX Runtime, in one run.

Latency: each question is asked through gRPC, one at a time, and its windows are run through the bare network right
after, so that noise hits both. Throughput: perf_analyzer keeps 16 requests in flight; the bare network gets the same
questions' windows sorted by length, in its best batch size, on all cores in its best way; the two take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from bare_network import BareNetwork, Way, run_batch, session_of, ways
from bench_setting import add_repository, answering_folder, heldout_examples, network_file, parser_of, print_result
from tqdm import tqdm

from spanqa import contract
from spanqa.manifest import load_served_tokenizer
from spanqa.squad import Example
from spanqa.windows import WindowMaker, Windows, batch_windows
from spanqa_client.bench.load import Load
from spanqa_client.bench.perf_analyzer import input_data_from_examples, measure
from spanqa_client.client import QAClient
from spanqa_client.options import Options
from spanqa_server.server import Server

CONCURRENCY = 16
ROWS = (1, 2, 4, 8, 16)
TARGET_MS = 2.5
TARGET_RATIO = 0.95


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def latency(
    args: argparse.Namespace, server: Server, examples: Sequence[Example], all_windows: Sequence[Windows]
) -> dict[str, float]:
    """Ask and run bare in turn; milliseconds."""
    # As the server's own session: all cores for a window that comes alone, no spinning beside other work.
    session = session_of(network_file(args.repository), n_threads=len(os.sched_getaffinity(0)), is_spinning=False)
    served: list[float] = []
    bare: list[float] = []
    with QAClient(server.url) as client:
        for example in examples[:10]:
            client.ask(example.question, example.context)
        pairs = list(zip(examples, all_windows, strict=True))[: args.latency_questions]
        for example, windows in tqdm(pairs, unit="question", disable=True if args.quiet else None):
            batches = [batch_windows([(windows, index)]) for index in range(len(windows))]
            began = time.perf_counter()
            client.ask(example.question, example.context)
            served.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            for batch in batches:
                run_batch(session, batch)
            bare.append((time.perf_counter() - began) * 1e3)
    more = [one - other for one, other in zip(served, bare, strict=True)]
    return {
        "questions": len(served),
        "served_p50_ms": statistics.median(served),
        "served_p95_ms": _percentile(served, 95),
        "bare_p50_ms": statistics.median(bare),
        "bare_p95_ms": _percentile(bare, 95),
        "more_p50_ms": statistics.median(served) - statistics.median(bare),
        "more_of_one_question_p50_ms": statistics.median(more),
        "target_ms": TARGET_MS,
    }


def best_way(bare: BareNetwork, n_cores: int, *, quiet: bool) -> tuple[Way, dict[str, float]]:
    """Time every way twice, and give the fastest with the best seconds of each."""
    seconds = {}
    for way in tqdm(ways(n_cores, ROWS), unit="way", disable=True if quiet else None):
        seconds[way] = min(bare.seconds(way) for _ in range(2))
    return min(seconds, key=lambda way: seconds[way]), {str(way): took for way, took in seconds.items()}


def throughput(
    args: argparse.Namespace, server: Server, examples: Sequence[Example], all_windows: Sequence[Windows]
) -> dict[str, Any]:
    """Measure both in turn; questions a second."""
    bare = BareNetwork(network_file(args.repository), all_windows)
    n_cores = len(os.sched_getaffinity(0))
    way, seconds = best_way(bare, n_cores, quiet=args.quiet)
    input_data = input_data_from_examples(examples, Options())
    load = Load(url=server.url, model_name=contract.QUESTION_ANSWERING, window_s=args.window_s)
    rounds = []
    for _ in tqdm(range(args.rounds), unit="round", disable=True if args.quiet else None):
        before = len(examples) / bare.seconds(way)
        measured = measure(load, input_data, CONCURRENCY)
        after = len(examples) / bare.seconds(way)
        rounds.append({"served": measured.questions_per_s, "bare": (before + after) / 2, "p50_ms": measured.p50_ms})
    served, alone = (statistics.median(one[name] for one in rounds) for name in ("served", "bare"))
    return {
        "concurrency": CONCURRENCY,
        "questions": len(examples),
        "served_questions_per_s": served,
        "bare_questions_per_s": alone,
        "bare_way": str(way),
        "bare_seconds": seconds,
        "ratio": served / alone,
        "target_ratio": TARGET_RATIO,
        "rounds": rounds,
    }


def _table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    one, many = result["latency"], result["throughput"]
    return [
        ("", "served", "bare network", "", "target"),
        *(
            (
                f"latency, one at a time, p{percent} ms",
                f"{one[f'served_p{percent}_ms']:.2f}",
                f"{one[f'bare_p{percent}_ms']:.2f}",
                f"+{one[f'served_p{percent}_ms'] - one[f'bare_p{percent}_ms']:.2f}",
                f"<= +{TARGET_MS:g}" if percent == 50 else "",
            )
            for percent in (50, 95)
        ),
        (
            f"questions/s, {CONCURRENCY} at a time",
            f"{many['served_questions_per_s']:.1f}",
            f"{many['bare_questions_per_s']:.1f}",
            f"{many['ratio']:.3f}",
            f">= {TARGET_RATIO:.2f}",
        ),
        ("", "", many["bare_way"], "", ""),
    ]


def main() -> int:
    """Start a server with the repository, measure and print."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--questions", type=int, default=300, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument(
        "--latency-questions", type=int, default=200, metavar="N", help="of them one at a time (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument(
        "--window-s", type=float, default=5.0, metavar="S", help="perf_analyzer's interval (default: %(default)s)"
    )
    args = parser.parse_args()
    manifest, tokenizer = load_served_tokenizer(answering_folder(args.repository))
    examples = heldout_examples(args.questions)
    maker = WindowMaker(tokenizer, manifest.windows)
    all_windows = maker.windows_of_many([(example.question, example.context) for example in examples])
    with Server(args.repository) as server:
        result = {
            "encoder": {key: manifest.encoder.get(key) for key in ("precision", "sha256")},
            "latency": latency(args, server, examples, all_windows),
            "throughput": throughput(args, server, examples, all_windows),
        }
    print_result(result, _table(result), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
