"""Whether `spanqa plan-capacity` foretells what a mix of short and long texts saturates at, and its latencies.

Short and long texts are measured apart. From those two runs the saturation of their mix is foretold, and its latency
at some loads; then the mix itself is measured. Fails where the saturation foretold is farther off than the target.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_setting import add_repository, heldout_examples, parser_of, print_result

from spanqa.cli import main as spanqa
from spanqa.squad import Example
from spanqa_client.bench.capacity import Mix, class_from_measurements
from spanqa_client.bench.measurement import Measurement
from spanqa_client.bench.report import run_from_file
from spanqa_client.client import QAClient
from spanqa_server.server import Server

N_QUESTIONS = 400
N_JOINED = 5
"""Paragraphs of a long text."""
LONG_SHARE = 0.15
LOADS = (0.5, 0.7, 0.85)
"""Parts of the saturation foretold at which latencies are compared."""
TARGET = 0.15
N_WARMING = 60
FIGURES = ("p50_ms", "p95_ms", "p99_ms")

Item = tuple[str, str]


def short_items(examples: Sequence[Example]) -> list[Item]:
    """Give questions about their paragraphs."""
    return [(one.question, one.context) for one in examples]


def long_items(examples: Sequence[Example]) -> list[Item]:
    """Give questions about their paragraph and those after it, as one text."""
    contexts = [one.context for one in examples]
    doubled = contexts + contexts
    return [
        (one.question, "\n".join(dict.fromkeys(doubled[place : place + N_JOINED])))
        for place, one in enumerate(examples)
    ]


def mixed_items(short: Sequence[Item], long: Sequence[Item]) -> list[Item]:
    """Give both, long ones in their share, in random order."""
    n_long = round(LONG_SHARE * len(short))
    items = [*short[n_long:], *long[:n_long]]
    random.Random(0).shuffle(items)  # noqa: S311 (an order, no secret)
    return items


class Bench:
    """Runs `spanqa bench` against a server.

    Args:
        url: The server.
        folder: For its files.
        window_s: A third of a measurement.
        rounds: How often each level is measured.
    """

    def __init__(self, url: str, folder: Path, *, window_s: float, rounds: int) -> None:
        self._url, self._folder = url, folder
        self._window_s, self._rounds = window_s, rounds

    def __call__(self, name: str, items: Sequence[Item], *levels: str) -> tuple[Measurement, ...]:
        """Measure some questions at some levels; leaves its bench.json in a folder of that name."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        paragraphs = [
            {"context": context, "qas": [{"id": f"{place}", "question": question, "answers": []}]}
            for place, (question, context) in enumerate(items)
        ]
        data = folder / "dataset.json"
        data.write_text(json.dumps({"data": [{"title": name, "paragraphs": paragraphs}]}), encoding="utf-8")
        command = [
            *["bench", "--dataset", str(data), "--url", self._url, "--quiet", "-o", str(folder), *levels],
            *["--rounds", str(self._rounds), "--window-s", f"{self._window_s}"],
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            if spanqa(command):
                raise SystemExit("the command failed")
        return run_from_file(folder / "bench.json").measurements


def compared(args: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    """Measure both kinds, foretell their mix, measure it and hold both against each other."""
    bench = Bench(url, folder, window_s=args.window_s, rounds=args.rounds)
    examples = heldout_examples(N_QUESTIONS)
    short, long = short_items(examples), long_items(examples)
    with QAClient(url) as client:
        list(client.ask_many([*short[:N_WARMING], *long[:N_WARMING]], timeout_s=600))
    levels = ("--concurrency", "1,4,16")
    mix = Mix(
        [
            class_from_measurements("short", 1 - LONG_SHARE, bench("short", short, *levels)),
            class_from_measurements("long", LONG_SHARE, bench("long", long, *levels)),
        ]
    )
    rates = [round(load * mix.saturation, 1) for load in LOADS]
    bench = Bench(url, folder, window_s=2 * args.window_s, rounds=args.rounds)
    found = bench("mix", mixed_items(short, long), "--concurrency", "16", "--rates", ",".join(map(str, rates)))
    saturation = next(one.questions_per_s for one in found if one.concurrency)
    rows = []
    for load, one in zip(LOADS, [one for one in found if one.rate], strict=True):
        foretold = mix.forecast(one.rate or 0.0, 1)
        for figure in FIGURES:
            measured, expected = getattr(one, figure), getattr(foretold, figure)
            rows.append({"load": load, "figure": figure, "foretold": expected, "measured": measured})
    classes = {one.label: {"alone_ms": 1e3 * one.alone_s, "most_per_s": 1 / one.busy_s} for one in mix.classes}
    return {
        "classes": classes,
        "saturation": {"foretold": mix.saturation, "measured": saturation, "error": mix.saturation / saturation - 1},
        "rows": rows,
    }


def main() -> int:
    """Serve, measure, foretell and print."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--window-s", type=float, default=1.5, metavar="S", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="of each level (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Server(args.repository) as server:
        result = compared(args, server.url, Path(name))
    told = result["saturation"]
    table = [("", "foretold", "measured", "ratio")]
    table.append(
        (
            "most questions/s of the mix",
            f"{told['foretold']:.1f}",
            f"{told['measured']:.1f}",
            f"{1 + told['error']:.2f}",
        )
    )
    for row in result["rows"]:
        label = f"{row['figure'].removesuffix('_ms')} in ms at {100 * row['load']:.0f} % of that"
        ratio = row["foretold"] / row["measured"]
        table.append((label, f"{row['foretold']:.0f}", f"{row['measured']:.0f}", f"{ratio:.2f}"))
    print_result(result, table, as_json=args.json)
    if not args.json:
        kinds = [f"{k} {v['alone_ms']:.1f} ms alone, {v['most_per_s']:.1f}/s" for k, v in result["classes"].items()]
        print("; ".join(kinds))
        print(f"saturation foretold {100 * told['error']:+.1f} % off (at most {100 * TARGET:.0f} %)")
    return int(abs(told["error"]) > TARGET)


if __name__ == "__main__":
    sys.exit(main())
