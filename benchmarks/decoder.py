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

WAYS: dict[str, tuple[dict[str, Any], float | None]] = {
    "best": ({"n_best": 1}, 0.06),
    "best, whole words": ({"n_best": 1, "word_boundaries": True}, None),
    "20 best": ({"n_best": 20}, 0.15),
    "20 best, whole words": ({"n_best": 20, "word_boundaries": True}, None),
    "20 distinct, whole words": ({"n_best": 20, "word_boundaries": True, "distinct": True}, None),
}
"""What is asked of the decoder, and the target in milliseconds a window, where there is one."""
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


def _ms_per_window(case: Sequence[Any], options: dict[str, Any]) -> float:
    began = time.perf_counter()
    for windows, context, start, end in case:
        decode(windows, context, start, end, **options)
    return (time.perf_counter() - began) * 1e3 / sum(len(windows) for windows, *_ in case)


def main() -> int:
    """Measure and print; each round measures every case once, so that noise hits all of them."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--questions", type=int, default=1000, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds (default: %(default)s)")
    args = parser.parse_args()
    inputs = _inputs(args)
    times: dict[tuple[str, str], list[float]] = {(name, way): [] for name in inputs for way in WAYS}
    for _ in range(args.rounds):
        for (name, way), measured in times.items():
            measured.append(_ms_per_window(inputs[name], WAYS[way][0]))
    rows = [
        {
            "texts": name,
            "windows": sum(len(windows) for windows, *_ in inputs[name]),
            "way": way,
            "ms_per_window": statistics.median(measured),
            "best_round_ms": min(measured),
            "target_ms": WAYS[way][1],
        }
        for (name, way), measured in times.items()
    ]
    table = [("texts", "windows", "asked", "ms a window", "best round", "target")]
    table += [
        (
            str(row["texts"]),
            f"{row['windows']:,}",
            str(row["way"]),
            f"{row['ms_per_window']:.4f}",
            f"{row['best_round_ms']:.4f}",
            f"<= {row['target_ms']}" if row["target_ms"] else "",
        )
        for row in rows
    ]
    print_result({"decoder": rows}, table, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
