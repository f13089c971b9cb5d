"""Training on a GPU in ten minutes: what it is asked to show, one part after another, each in spite of the others.

    python benchmarks/gpu_training.py -o results/gpu-training [--recipe DATA --held-out FILE...]
    python benchmarks/gpu_training.py -o /tmp/tried --device cpu --tiny      # the same road, in seconds

1. the chip's dense rate: an 8192-cubed product in float16 and bfloat16
2. Megatron-BERT 345M of random weights in both, windows of 384 tokens and of real lengths in batches of similar ones,
   8 to 64 a batch: sequences/s, memory, and the share of that dense rate that the model's own products come to
3. loss curves in float16 and bfloat16 against float32, and O1's loss scaling from a scale that is far too high
4. the tests that need a GPU
5. with --recipe: the default model's training, on DATA without what shares a passage with a FILE, and its repository,
   as training/recipes/minilm.sh has it; stopped when the time is over, it goes on where it was with the same command

A table is printed, and FOLDER/gpu_training.json written after each part. A part that fails, tests or a recipe that do
not end well among them, is a line with its reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_setting import print_result
from gpu_training_commands import gpu_tests, recipe
from gpu_training_parts import FULL, TINY, Report, curves, dense_rates, loss_scaling, rates

TARGET_SHARE = 0.45
_CELL = 60
"""Characters of a reason in the table; all of it is in the JSON and on standard error."""


def main() -> int:
    """Do all parts, print the table; 1 where one failed, or none reached the target at full length."""
    args = _arguments()
    sizes = TINY if args.tiny else FULL
    report = Report(args.output, 60 * args.minutes)
    report.part("dense rate", lambda: dense_rates(args.device, sizes.product))
    dense = report.parts["dense rate"]["found"]
    dense = {} if "failed" in dense else dense
    report.part("rates", lambda: rates(report, args.device, sizes, dense))
    report.part("loss curves", lambda: curves(args.device, sizes))
    report.part("loss scaling", lambda: loss_scaling(args.device, sizes))
    if not args.skip_tests:
        report.part("tests", lambda: gpu_tests(args.device, args.output, report.seconds_left))
    if args.recipe:
        report.part("recipe", lambda: recipe(args.recipe, args.held_out, args.output, report.seconds_left))
    print_result({"device": _name(args.device), "parts": report.parts}, _table(report.parts), as_json=args.json)
    failed = [name for name, part in report.parts.items() if "failed" in part["found"]]
    for name in failed:
        print(f"{name}: {report.parts[name]['found']['failed']}", file=sys.stderr)
    return int(bool(failed) or (args.device == "cuda" and _best_share(report.parts) < TARGET_SHARE))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the JSON goes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model, a small product, a few steps")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts (default: %(default)g)")
    parser.add_argument("--recipe", type=Path, metavar="DATA", help="train the default model as well")
    parser.add_argument(
        "--held-out", type=Path, nargs="+", default=[], metavar="FILE", help="with --recipe: what is not trained on"
    )
    parser.add_argument("--skip-tests", action="store_true", help="without the tests that need a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if bool(args.recipe) != bool(args.held_out):
        parser.error("--recipe DATA and --held-out FILE... go together: give both, or neither")
    for path in (*([args.recipe] if args.recipe else []), *args.held_out):
        if not path.exists():
            parser.error(f"{path} is not there: give the folder of --recipe and the files of --held-out as they lie")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is here: --device cpu --tiny tries the road")
    return args


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def _best_share(parts: dict[str, Any]) -> float:
    """Of the windows of full length."""
    rows = parts["rates"]["found"]
    shares = [row.get("share_of_dense") for row in rows if row["lengths"] == "fixed"] if isinstance(rows, list) else []
    return max((share for share in shares if share), default=0.0)


def _table(parts: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("", "precision", "batch", "sequences/s", "tokens/s", "peak MB", "of dense")]
    rows = parts["rates"]["found"]
    for row in rows if isinstance(rows, list) else []:
        head = (row["lengths"], row["precision"], str(row["batch"]))
        if "failed" in row:
            table.append((*head, row["failed"][:_CELL], "", "", ""))
            continue
        share = f"{100 * row['share_of_dense']:.0f} %" if row["share_of_dense"] else "-"
        rate = (f"{row['windows_per_s']:,.1f}", f"{row['tokens_per_s']:,.0f}", f"{row['peak_mb']:,.0f}")
        table.append((*head, *rate, share))
    for name, rate in parts["dense rate"]["found"].items():
        if name != "failed":
            table.append(("dense product", name, "", f"{rate / 1e12:.3g} TFLOP/s", "", "", "100 %"))
    for name, value in parts["loss curves"]["found"].get("mean_difference", {}).items():
        table.append(("loss from float32's", name, "", f"{value:.4f}", "", "", ""))
    table += [(name, "", "", told[:_CELL], "", "", "") for name, told in _told(parts).items()]
    return table


def _told(parts: dict[str, Any]) -> dict[str, str]:
    """How the parts ended that are told in words."""
    told = {}
    for name in ("loss scaling", "tests", "recipe"):
        found = parts.get(name, {}).get("found", {})
        if found.get("said") and "failed" in found:
            told[name] = f"{found['failed'].partition(': ')[0]}: {found['said'][-1]}"  # its last line says most
        elif "failed" in found:
            told[name] = found["failed"]
        elif "finite" in found:
            told[name] = f"{found['skipped_steps']} steps skipped, weights finite"
        elif "said" in found:
            told[name] = " ".join(found["said"][-1:])
    return told


if __name__ == "__main__":
    sys.exit(main())
