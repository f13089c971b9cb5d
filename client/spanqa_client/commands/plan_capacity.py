"""`spanqa plan-capacity`: how many replicas an arrival rate, a mix of lengths and a latency goal need."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from spanqa.errors import InputError
from spanqa_client.bench.capacity import (
    MOST_REPLICAS,
    PERCENTILES,
    Forecast,
    Mix,
    ServiceClass,
    class_from_measurements,
)
from spanqa_client.bench.report import run_from_file

_N_BEYOND = 2
"""Rows after the one that meets the goal."""
_N_BEFORE = 4
_LABEL = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--rate", type=float, required=True, metavar="R", help="questions a second, of all together")
    parser.add_argument(
        "--mix",
        action="append",
        required=True,
        metavar="[SHARE=]WHAT",
        help="a kind of question and its share of all: the bench.json of a `spanqa bench` that asked such ones, or "
        "milliseconds that one takes a server; again for each kind",
    )
    parser.add_argument(
        "--goal-ms", type=float, required=True, metavar="MS", help="latency that the percentile must stay within"
    )
    parser.add_argument(
        "--percentile", type=int, choices=PERCENTILES, default=99, help="of the goal (default: %(default)s)"
    )
    parser.add_argument(
        "--spare",
        type=int,
        default=1,
        metavar="N",
        help="replicas that may be away, drained or dead, beside those that meet the goal (default: %(default)s)",
    )
    parser.add_argument(
        "--variation",
        type=float,
        default=1.0,
        metavar="V",
        help="standard deviation of given milliseconds by their mean (default: %(default)g)",
    )
    parser.add_argument(
        "--arrival-variation",
        type=float,
        default=1.0,
        metavar="V",
        help="that of the pauses between questions: 1 for random moments, more for bursts (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print how many replicas are needed, and what to expect of them.

    Raises:
        InputError: An option is not what it must be, or no number of replicas meets the goal.
    """
    for name in ("rate", "goal_ms"):
        if not 0 < getattr(args, name) < math.inf:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name):g}: give a number above 0")
    if not 0 <= args.spare <= MOST_REPLICAS:
        raise InputError(f"--spare is {args.spare}: give 0 or more, up to {MOST_REPLICAS}")
    if len({_share_of(text) is None for text in args.mix}) > 1:
        raise InputError("some of --mix have a share and some have none: give each one, such as 0.9=15 and 0.1=120")
    mix = Mix([_class_from(text, args.variation) for text in args.mix], arrival_variation=args.arrival_variation)
    forecasts, needed = _until_met(mix, args)
    result = {
        "replicas": needed.n_replicas + args.spare,
        "needed": needed.n_replicas,
        "spare": args.spare,
        "rate": args.rate,
        "goal_ms": args.goal_ms,
        "percentile": args.percentile,
        "saturation_of_one": mix.saturation,
        "classes": [asdict(one) for one in mix.classes],
        "forecasts": [asdict(one) for one in forecasts],
    }
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else _text(mix, forecasts, needed, args))
    return 0


def _class_from(text: str, variation: float) -> ServiceClass:
    """Read SHARE=WHAT."""
    share = _share_of(text)
    what = text if share is None else text.partition("=")[2]
    milliseconds = _number(what)
    if milliseconds is None:
        path = Path(what)
        found = run_from_file(path, option="--mix")
        return class_from_measurements(str(path), 1.0 if share is None else share, found.measurements)
    seconds = milliseconds / 1e3
    return ServiceClass(
        label=f"{milliseconds:g} ms",
        share=1.0 if share is None else share,
        alone_s=seconds,
        busy_s=seconds,
        variation=variation,
    )


def _share_of(text: str) -> float | None:
    """Read the share in SHARE=WHAT; a file's name may hold = as well."""
    before, sign, _ = text.partition("=")
    return _number(before) if sign else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _until_met(mix: Mix, args: argparse.Namespace) -> tuple[list[Forecast], Forecast]:
    """What to expect of ever more replicas, a few beyond those that meet the goal, and the first that do."""
    found: list[Forecast] = []
    needed: Forecast | None = None
    for forecast in mix.forecasts(args.rate):
        found.append(forecast)
        if needed is None and forecast.percentile_ms(args.percentile) <= args.goal_ms:
            needed = forecast
        if needed is not None and forecast.n_replicas >= needed.n_replicas + max(args.spare, _N_BEYOND):
            return found, needed
        if needed is None and forecast.wait_ms < args.goal_ms * 1e-6:
            break
    if needed is not None:
        return found, needed
    if not found:
        raise InputError(f"--rate {args.rate:g} needs more replicas than this plans for: split the load")
    raise InputError(
        f"no number of replicas answers {args.percentile} % of these within {args.goal_ms:g} ms: asked alone, that "
        f"many take up to {found[-1].percentile_ms(args.percentile):.0f} ms; allow more, or serve a faster network"
    )


def _text(mix: Mix, forecasts: Sequence[Forecast], needed: Forecast, args: argparse.Namespace) -> str:
    lines = ["questions about                           share  alone ms  busy ms  variation  most questions/s"]
    total = math.fsum(one.share for one in mix.classes)
    rows = [(one.label, one.share / total, one.alone_s, one.busy_s, one.variation) for one in mix.classes]
    rows.append(("all", 1.0, mix.alone_s, 1 / mix.saturation, mix.variation))
    for label, share, alone_s, busy_s, variation in rows:
        shown = label if len(label) <= _LABEL else f"...{label[3 - _LABEL :]}"
        times = f"{1e3 * alone_s:9.1f} {1e3 * busy_s:8.1f}"
        lines.append(f"{shown:<{_LABEL}} {share:6.2f} {times} {variation:10.2f} {1 / busy_s:17.1f}")
    lines += ["", "replicas  busy %  wait ms   p50 ms   p95 ms   p99 ms"]
    for row in forecasts:
        if row.n_replicas < needed.n_replicas - _N_BEFORE:
            continue
        mark = "  meets the goal" if row is needed else ""
        lines.append(
            f"{row.n_replicas:8d} {100 * row.utilisation:7.0f} {row.wait_ms:8.1f} {row.p50_ms:8.1f} {row.p95_ms:8.1f}"
            f" {row.p99_ms:8.1f}{mark}"
        )
    rising = [one.label for one in mix.classes if one.is_rising]
    lines += [
        "",
        f"{needed.n_replicas + args.spare} replicas: {needed.n_replicas} for {args.rate:g} questions/s with p"
        f"{args.percentile} within {args.goal_ms:g} ms, {args.spare} that may be away",
    ]
    if rising:
        lines.append(f"throughput still rose at the highest load measured ({', '.join(rising)}): fewer may do")
    return "\n".join(lines)
