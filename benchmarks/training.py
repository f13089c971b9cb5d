"""Training's rate and memory beside a plain loop over transformers' BertForQuestionAnswering, taking turns.

The plain loop does what Hugging Face's run_qa does: every window padded to 384, overlapping by 128, AdamW (fused), a
linear schedule, gradients clipped at 1. Model, questions, batch size, precision and machine are the same. Each turn is
a process of its own; what is timed begins at its third step, when texts are tokenised and buffers allocated.

    python benchmarks/training.py                       # float32 and bfloat16 on the CPU
    python benchmarks/training.py --device cuda         # float16 and bfloat16 on a GPU
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_setting import DATASET, HELDOUT_TITLES, ROOT, parser_of, print_result
from tqdm import tqdm

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.weights.hugging_face import write_hugging_face

SHIPPED = ROOT / "training" / "checkpoints" / "spanqa-minilm"
TURN = Path(__file__).with_name("training_turn.py")
OURS, RECOMPUTED, PLAIN = "spanqa", "spanqa, gradient checkpointing", "plain loop, padded to 384"
BY_TOKENS = "spanqa, batches by tokens"
SIDES = (OURS, BY_TOKENS, RECOMPUTED, PLAIN)
PRECISIONS = {"cpu": ("32", "bf16"), "cuda": ("16", "bf16")}
TARGET_RATIO = 2.0
FIGURES = ("questions_per_s", "windows_per_s", "tokens_per_s", "peak_mb")


def main() -> int:
    """Let all sides take turns, and print the medians; 1 where the target is missed."""
    args = _arguments()
    precisions = args.precision or PRECISIONS[args.device]
    sides = [side for side in SIDES if not args.only or side.startswith(args.only)]
    turns = [(side, precision) for precision in precisions for side in sides]
    found: dict[tuple[str, str], list[dict[str, float]]] = {turn: [] for turn in turns}
    with tempfile.TemporaryDirectory(prefix="spanqa-training-") as name:
        folder = Path(name)
        write_squad(_questions(args.questions), folder / "questions.json")
        checkpoint, model = load_checkpoint(args.checkpoint)
        write_hugging_face(checkpoint, model, folder / "hugging-face")
        del model
        with tqdm(total=args.rounds * len(turns), unit="turn", disable=True if args.quiet else None) as bar:
            for number in range(args.rounds):
                # Whoever goes first finds the machine cooler: each begins in turn.
                for side, precision in turns[number % len(turns) :] + turns[: number % len(turns)]:
                    bar.set_postfix_str(f"{side}, {precision}")
                    found[side, precision].append(_turn(args, folder, side, precision))
                    bar.update()
    return _report(args, found)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="the model (default: the shipped one)")
    parser.add_argument("--questions", type=int, metavar="N", default=480, help="of articles19 (default: %(default)s)")
    parser.add_argument("--steps", type=int, metavar="N", help="most steps of a turn (default: all questions once)")
    parser.add_argument("--batch-size", type=int, metavar="N", default=24, help="windows (default: %(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--device", choices=PRECISIONS, default="cpu")
    parser.add_argument("--precision", action="append", choices=("32", "16", "bf16"), help="one of several times")
    parser.add_argument("--only", choices=("spanqa", "plain"), help="one of the two sides")
    return parser.parse_args()


def _questions(count: int) -> list[Example]:
    """Questions on articles19: the articles of SQuAD 2.0's development set that are not held out, drawn by a seed."""
    held_out = set(json.loads(HELDOUT_TITLES.read_text("utf-8")))
    examples = [example for example in read_dataset(DATASET) if example.title not in held_out]
    return random.Random(0).sample(examples, min(count, len(examples)))  # noqa: S311 - a sample, no secret


def _turn(args: argparse.Namespace, folder: Path, side: str, precision: str) -> dict[str, float]:
    asked: dict[str, Any] = {
        "plain": side == PLAIN,
        "recompute": side == RECOMPUTED,
        "by_tokens": side == BY_TOKENS,
        "precision": precision,
        "device": args.device,
        "batch_size": args.batch_size,
        "steps": args.steps,
        "checkpoint": str(args.checkpoint),
        "folder": str(folder),
    }
    done = subprocess.run([sys.executable, str(TURN), json.dumps(asked)], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _report(args: argparse.Namespace, found: dict[tuple[str, str], list[dict[str, float]]]) -> int:
    medians = {
        turn: {name: statistics.median(one[name] for one in results) for name in results[0]}
        for turn, results in found.items()
    }
    table: list[tuple[str, ...]] = [
        ("", "precision", "questions/s", "windows/s", "tokens/s", "padding", "peak MB", "to plain")
    ]
    ratios: dict[str, float] = {}
    for (side, precision), result in medians.items():
        plain = medians.get((PLAIN, precision))
        ratio = result["questions_per_s"] / plain["questions_per_s"] if plain else float("nan")
        if side == OURS and plain:
            ratios[precision] = ratio
        table.append(_row(side, precision, result, ratio))
    sides: Sequence[dict[str, Any]] = [
        {"side": side, "precision": precision, **medians[side, precision], "turns": results}
        for (side, precision), results in found.items()
    ]
    result = {"batch_size": args.batch_size, "device": args.device, "sides": sides, "ratios": ratios}
    print_result({"training": result}, table, as_json=args.json)
    if not args.json and ratios:
        print(f"target: at least {TARGET_RATIO:g} times the plain loop's questions/s")
    return int(any(ratio < TARGET_RATIO for ratio in ratios.values()))


def _row(side: str, precision: str, result: dict[str, float], ratio: float) -> tuple[str, ...]:
    rates = (f"{result[name]:,.1f}" for name in ("questions_per_s", "windows_per_s"))
    padding = f"{100 * result['padding_share']:.0f} %"
    return (
        *(side, precision, *rates, f"{result['tokens_per_s']:,.0f}", padding),
        *(f"{result['peak_mb']:,.0f}", f"{ratio:.2f}"),
    )


if __name__ == "__main__":
    sys.exit(main())
