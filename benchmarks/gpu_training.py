"""Training on a GPU in ten minutes: what it is asked to show, one part after another, each in spite of the others.

    python benchmarks/gpu_training.py -o results/gpu-training [--recipe DATA]
    python benchmarks/gpu_training.py -o /tmp/tried --device cpu --tiny      # the same road, in seconds

1. the chip's dense rate: an 8192-cubed product in float16 and bfloat16
2. Megatron-BERT 345M of random weights in both, windows of 384 tokens and of real lengths in batches of similar ones,
   8 to 64 a batch: sequences/s, memory, and the share of that dense rate that the model's own products come to
3. loss curves in float16 and bfloat16 against float32, and O1's loss scaling from a scale that is far too high
4. the tests that need a GPU
5. with --recipe: the default model's training, on DATA, as training/recipes/minilm.sh has it

A table is printed, and FOLDER/gpu_training.json written after each part. A part that fails is a line with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_setting import ROOT, print_result
from gpu_training_run import Course, Source, course_of, length_source, real_source
from training_turn import Clock

from spanqa.files import write_atomically
from spanqa_training.model import EncoderConfig

MEGATRON_345M = EncoderConfig(
    vocab_size=30_592,
    hidden_size=1024,
    num_layers=24,
    num_heads=16,
    intermediate_size=4096,
    max_positions=512,
    layer_norm_eps=1e-5,
    layer_norm="pre",
)
TARGET_SHARE = 0.45
PRECISIONS = ("16", "bf16")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done.

    Args:
        config: The model.
        product: Rows of the square matrices that are multiplied.
        batches: Windows a batch.
        length: Tokens of the longest window.
        steps: Of each measurement, after two to warm up.
        curve_steps: Of each loss curve.
    """

    config: EncoderConfig
    product: int
    batches: tuple[int, ...]
    length: int
    steps: int
    curve_steps: int


FULL = Sizes(config=MEGATRON_345M, product=8192, batches=(8, 16, 32, 64), length=384, steps=10, curve_steps=80)
TINY = Sizes(
    config=dataclasses.replace(
        MEGATRON_345M, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=128
    ),
    product=256,
    batches=(2,),
    length=96,
    steps=2,
    curve_steps=3,
)


class Report:
    """What was found, on the disk after each part.

    Args:
        folder: Where it goes.
        seconds: What all parts together may take.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._path, self._ends = folder / "gpu_training.json", time.monotonic() + seconds
        self.parts: dict[str, Any] = {}

    @property
    def seconds_left(self) -> float:
        """Until the time is over."""
        return self._ends - time.monotonic()

    def part(self, name: str, measure: Callable[[], Any]) -> None:
        """Do a part and keep what it gives, or why it gave nothing."""
        print(f"gpu_training: {name} ({self.seconds_left:.0f} s left)", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            found = measure() if self.seconds_left > 0 else {"failed": "the time was over"}
        except Exception as error:  # whatever it is, the other parts go on
            found = {"failed": _reason(error)}
        self.parts[name] = {"seconds": round(time.monotonic() - began, 1), "found": found}
        write_atomically(self._path, json.dumps(self.parts, indent=2) + "\n", make_folder=True)


def _reason(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:300]}"


def dense_rates(device: str, size: int) -> dict[str, float]:
    """Floating-point operations a second of a square product, the best of several."""
    rates = {}
    for name, dtype in (("16", torch.float16), ("bf16", torch.bfloat16)):
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = float("inf")
        for _ in range(6):
            began = _now(device)
            for _ in range(4):
                one @ other
            best = min(best, (_now(device) - began) / 4)
        rates[name] = 2 * size**3 / best
    return rates


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def flops_per_window(config: EncoderConfig, length: int) -> float:
    """Of the matrix products of a training step: forward, and twice that backward (Narayanan et al. 2021, appendix)."""
    width, inner = config.hidden_size, config.intermediate_size
    of_token = 8 * width**2 + 4 * width * inner + 4 * length * width
    return 3.0 * config.num_layers * length * of_token


def rates(report: Report, device: str, sizes: Sizes, dense: dict[str, float]) -> list[Row]:
    """Sequences/s of every precision, batch size and kind of lengths; a batch that does not fit is a row as well."""
    rows: list[Row] = []
    model = Course.model(sizes.config, device)
    for precision in PRECISIONS:
        for kind, source in (("fixed", length_source(sizes.length, 4096)), ("bucketed", real_source(sizes.length))):
            for batch in sizes.batches:
                row: Row = {"precision": precision, "lengths": kind, "batch": batch}
                rows.append(row)
                if report.seconds_left <= 0:
                    row["failed"] = "the time was over"
                    continue
                try:
                    row |= _rate(model, source, sizes, device, precision, batch, dense.get(precision))
                except Exception as error:  # too little memory for this batch, perhaps
                    row["failed"] = _reason(error)
                    if device == "cuda":
                        torch.cuda.empty_cache()
    return rows


def _rate(
    model: Any, source: Source, sizes: Sizes, device: str, precision: str, batch: int, dense: float | None
) -> Row:
    clock = Clock(device)
    lengths: list[tuple[int, int]] = []

    def look(mask: torch.Tensor) -> None:
        clock.batch(mask)
        if clock.steps:
            lengths.append((mask.shape[0], mask.shape[1]))

    course_of(model, source, device=device, precision=precision, batch=batch, steps=sizes.steps + 2, on_batch=look)
    clock.stop()
    figures = clock.figures(1.0)
    flops = sum(n * flops_per_window(sizes.config, length) for n, length in lengths) / figures["seconds"]
    found = {name: figures[name] for name in ("windows_per_s", "tokens_per_s", "padding_share", "peak_mb")}
    return {**found, "flops_per_s": flops, "share_of_dense": flops / dense if dense else None}


def curves(device: str, sizes: Sizes) -> dict[str, Any]:
    """Losses of the same steps in each precision, and how far those in 16 bits are from those in 32."""
    source = real_source(sizes.length)
    losses = {}
    for precision in ("32", *PRECISIONS):
        model = Course.model(sizes.config, device)
        course = course_of(model, source, device=device, precision=precision, batch=8, steps=sizes.curve_steps)
        losses[precision] = course.losses
    wanted = np.array(losses["32"])
    apart = {name: float(np.abs(np.array(losses[name]) - wanted).mean()) for name in PRECISIONS}
    return {"losses": losses, "mean_difference": apart, "last": {name: found[-1] for name, found in losses.items()}}


def loss_scaling(device: str, sizes: Sizes) -> dict[str, Any]:
    """The scale of each step from 2 ** 28 on: it halves until the gradients fit, and the weights stay finite."""
    model = Course.model(sizes.config, device)
    course = course_of(
        model,
        real_source(sizes.length),
        device=device,
        precision="16",
        batch=8,
        steps=max(24, sizes.curve_steps // 2) if device == "cuda" else sizes.curve_steps,
        first_scale=2.0**28,
    )
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
    skipped = sum(one > other for one, other in zip(course.scales, course.scales[1:], strict=False))
    return {"scales": course.scales, "skipped_steps": skipped, "finite": finite, "losses": course.losses}


def gpu_tests(device: str, seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU; without one, count them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")]
    if device == "cpu":
        command += ["--collect-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, seconds))
    return {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def recipe(data: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Train the default model; what was done in time stays, and the same command goes on with it."""
    script = ROOT / "training" / "recipes" / "minilm.sh"
    done = subprocess.run([str(script), str(data), str(folder)], timeout=max(1.0, seconds))
    return {"exit": done.returncode}


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
        report.part("tests", lambda: gpu_tests(args.device, report.seconds_left))
    if args.recipe:
        report.part("recipe", lambda: recipe(args.recipe, args.output / "recipe", report.seconds_left))
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
    parser.add_argument("--skip-tests", action="store_true", help="without the tests that need a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
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
            table.append((*head, row["failed"][:60], "", "", ""))
            continue
        share = f"{100 * row['share_of_dense']:.0f} %" if row["share_of_dense"] else "-"
        rate = (f"{row['windows_per_s']:,.1f}", f"{row['tokens_per_s']:,.0f}", f"{row['peak_mb']:,.0f}")
        table.append((*head, *rate, share))
    for name, rate in parts["dense rate"]["found"].items():
        if name != "failed":
            table.append(("dense product", name, "", f"{rate / 1e12:.3g} TFLOP/s", "", "", "100 %"))
    for name, value in parts["loss curves"]["found"].get("mean_difference", {}).items():
        table.append(("loss from float32's", name, "", f"{value:.4f}", "", "", ""))
    return table


if __name__ == "__main__":
    sys.exit(main())
