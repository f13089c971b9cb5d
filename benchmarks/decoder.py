"""Time of the span decoder: milliseconds a window on real windows with random logits."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from bench_setting import add_repository, answering_folder, heldout_examples, parser_of, print_result

from spanqa.manifest import load_served_tokenizer
from spanqa.spans import decode
from spanqa.windows import WindowMaker

N_BEST = (1, 20)
TARGETS_MS = {1: 0.06, 20: 0.15}
LONG_DOCUMENT_WORDS = 40_000


def _inputs(args: Any) -> dict[str, list[Any]]:
    """Windows, context and random logits of each case: questions on paragraphs, and one on a long document."""
    manifest, tokenizer = load_served_tokenizer(answering_folder(args.repository))
    maker = WindowMaker(tokenizer, manifest.windows)
    examples = heldout_examples(args.questions)
    words = " ".join(dict.fromkeys(example.context for example in heldout_examples())).split(" ")
    long_document = " ".join(words[:LONG_DOCUMENT_WORDS])
    pairs = {
        "paragraphs": [(example.question, example.context) for example in examples],
        f"{LONG_DOCUMENT_WORDS:,} words": [(examples[0].question, long_document)],
    }
    random = np.random.default_rng(0)
    inputs: dict[str, list[Any]] = {}
    for name, case in pairs.items():
        inputs[name] = []
        for windows, (_, context) in zip(maker.windows_of_many(case), case, strict=True):
            shape = (len(windows), int(windows.seq_lengths.max()))
            # Spread as the logits of trained networks are, about.
            start, end = (random.normal(scale=4, size=shape).astype(np.float32) for _ in range(2))
            inputs[name].append((windows, context, start, end))
    return inputs


def _ms_per_window(case: Sequence[Any], n_best: int) -> float:
    began = time.perf_counter()
    for windows, context, start, end in case:
        decode(windows, context, start, end, n_best=n_best)
    return (time.perf_counter() - began) * 1e3 / sum(len(windows) for windows, *_ in case)


def main() -> int:
    """Measure and print; each round measures every case once, so that noise hits all of them."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--questions", type=int, default=1000, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds (default: %(default)s)")
    args = parser.parse_args()
    inputs = _inputs(args)
    times: dict[tuple[str, int], list[float]] = {(name, n_best): [] for name in inputs for n_best in N_BEST}
    for _ in range(args.rounds):
        for (name, n_best), measured in times.items():
            measured.append(_ms_per_window(inputs[name], n_best))
    rows = [
        {
            "texts": name,
            "windows": sum(len(windows) for windows, *_ in inputs[name]),
            "n_best": n_best,
            "ms_per_window": statistics.median(measured),
            "best_round_ms": min(measured),
            "target_ms": TARGETS_MS[n_best],
        }
        for (name, n_best), measured in times.items()
    ]
    table = [("texts", "windows", "n-best", "ms a window", "best round", "target")]
    table += [
        (
            str(row["texts"]),
            f"{row['windows']:,}",
            str(row["n_best"]),
            f"{row['ms_per_window']:.4f}",
            f"{row['best_round_ms']:.4f}",
            f"<= {row['target_ms']}",
        )
        for row in rows
    ]
    print_result({"decoder": rows}, table, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
