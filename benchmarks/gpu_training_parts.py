"""What gpu_training.py measures itself: the dense rate, sequences/s, loss curves and loss scaling."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import MEGATRON_345M
from gpu_training_run import Course, Source, course_of, length_source, real_source
from training_turn import Clock

from spanqa.files import write_atomically
from spanqa_training.model import EncoderConfig

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
    found = {"scales": course.scales, "skipped_steps": skipped, "finite": finite, "losses": course.losses}
    return found if finite else {**found, "failed": f"{skipped} steps skipped, weights not finite"}
