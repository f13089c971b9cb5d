"""Short questions beside a document of 2 MB, and documents ten and a hundred times as long: nobody waits for a giant.

Short questions are asked one after another, first alone, then while another client waits for the answer about the
document. Documents of one, ten and a hundred times a length are asked about with nobody beside them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

from bench_setting import DATASET, add_repository, heldout_examples, parser_of, print_result
from tqdm import tqdm

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa_client.client import QAClient
from spanqa_server.server import Server

GIANT_BYTES = 2_000_000
TARGET_RATIO = 3.0
TIMES = (1, 10, 100)
TARGETS = {10: 10.5, 100: 105.0}
PATIENCE_S = 3600.0


def document_of(n_bytes: int) -> str:
    """Make a text of some bytes of all the paragraphs at hand, again and again: ASCII, so that bytes are characters."""
    paragraphs = dict.fromkeys(example.context for example in read_dataset(DATASET))
    text = "\n".join(paragraphs).encode("ascii", "ignore").decode()
    return (text * (n_bytes // len(text) + 1))[:n_bytes]


def _milliseconds(client: QAClient, examples: Iterator[Example], goes_on: Callable[[int], bool]) -> list[float]:
    took: list[float] = []
    while goes_on(len(took)):
        example = next(examples)
        began = time.perf_counter()
        client.ask(example.question, example.context, timeout_s=60)
        took.append((time.perf_counter() - began) * 1e3)
    return took


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def beside_a_giant(args: argparse.Namespace, server: Server) -> dict[str, Any]:
    """Ask short questions alone and beside the document; milliseconds."""
    examples = cycle(heldout_examples(args.questions))
    giant = document_of(GIANT_BYTES)
    with QAClient(server.url) as client, QAClient(server.url) as other:
        _milliseconds(client, examples, lambda n: n < 10)
        alone = _milliseconds(client, examples, lambda n: n < args.questions)
        done = threading.Event()
        began = time.perf_counter()
        seconds: list[float] = []

        def ask_giant() -> None:
            other.ask("Who built the old harbour?", giant, timeout_s=PATIENCE_S)
            seconds.append(time.perf_counter() - began)
            done.set()

        thread = threading.Thread(target=ask_giant)
        thread.start()
        beside = _milliseconds(client, examples, lambda n: n < args.questions and not done.is_set())
        thread.join()
    return {
        "giant_bytes": len(giant),
        "giant_seconds": seconds[0],
        "questions_alone": len(alone),
        "questions_beside": len(beside),
        **{f"alone_p{p}_ms": _percentile(alone, p) for p in (50, 99)},
        **{f"beside_p{p}_ms": _percentile(beside, p) for p in (50, 99)},
        "ratio_p99": _percentile(beside, 99) / _percentile(alone, 99),
        "target_ratio": TARGET_RATIO,
    }


def growth(args: argparse.Namespace, server: Server) -> list[dict[str, float]]:
    """Ask about ever longer documents; seconds, the best of some turns for all but the longest."""
    rows: list[dict[str, float]] = []
    with QAClient(server.url) as client:
        client.ask("Who built the old harbour?", document_of(args.document_bytes), timeout_s=PATIENCE_S)
        for times in tqdm(TIMES, unit="document", disable=True if args.quiet else None):
            document = document_of(times * args.document_bytes)
            took = []
            for _ in range(1 if times == max(TIMES) else 3):
                began = time.perf_counter()
                client.ask("Who built the old harbour?", document, timeout_s=PATIENCE_S)
                took.append(time.perf_counter() - began)
            rows.append({"times": times, "bytes": len(document), "seconds": min(took)})
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
    return rows


def _table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    one = result["beside"]
    table: list[tuple[str, ...]] = [("", "alone", "beside 2 MB", "ratio", "target")]
    for percent, target in ((50, ""), (99, f"<= {TARGET_RATIO:g}")):
        alone, beside = one[f"alone_p{percent}_ms"], one[f"beside_p{percent}_ms"]
        name = f"short questions, p{percent} ms"
        table.append((name, f"{alone:.1f}", f"{beside:.1f}", f"{beside / alone:.2f}", target))
    table.append(("", f"n = {one['questions_alone']}", f"n = {one['questions_beside']}", "", ""))
    table.append((f"the document of {one['giant_bytes']:,} bytes, s", "", f"{one['giant_seconds']:.1f}", "", ""))
    for row in result["growth"]:
        target = f"<= {TARGETS[row['times']]:g}" if row["times"] in TARGETS else ""
        name = f"a document of {row['bytes']:,} bytes, s"
        table.append((name, f"{row['seconds']:.2f}", "", f"{row['ratio']:.2f}", target))
    return table


def main() -> int:
    """Ask, print, and say by the exit status whether the targets hold."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--questions", type=int, default=300, metavar="N", help="short ones (default: %(default)s)")
    parser.add_argument(
        "--document-bytes", type=int, default=20_000, metavar="N", help="the shortest document (default: %(default)s)"
    )
    args = parser.parse_args()
    with Server(args.repository) as server:
        result: dict[str, Any] = {"beside": beside_a_giant(args, server), "growth": growth(args, server)}
    print_result(result, _table(result), as_json=args.json)
    holds = result["beside"]["ratio_p99"] <= TARGET_RATIO
    return 0 if holds and all(row["ratio"] <= TARGETS.get(row["times"], 1.0) for row in result["growth"]) else 1


if __name__ == "__main__":
    sys.exit(main())
