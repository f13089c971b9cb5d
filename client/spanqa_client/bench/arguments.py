"""The arguments of `spanqa bench`, and what their texts mean."""

from __future__ import annotations

import argparse
import re
import shlex

from spanqa.datasets import DATASET_FORMATS
from spanqa.errors import InputError
from spanqa_client.bench.measurement import Level
from spanqa_client.commands.arguments import add_answering, add_server, add_timeout
from spanqa_client.commands.connecting import add_connection

_DEFAULT_CONCURRENCY = "1,4,16"
_DEFAULT_SOAK_CONCURRENCY = "4"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_TOLD = ("url", "model", "dataset", "questions", "concurrency", "rates", "rounds", "window_s", "warm_up_s", "soak")
_MOST = 100_000
_DEFAULT_PORTS = (8001, 8002)


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_server(parser)
    add_answering(parser)
    add_timeout(parser)
    add_connection(parser)
    parser.add_argument("--dataset", metavar="FILE", help=f"whose questions are asked: {DATASET_FORMATS}")
    parser.add_argument(
        "--questions",
        metavar="N",
        type=int,
        default=1000,
        help="most questions, drawn at random (default: %(default)s)",
    )
    parser.add_argument(
        "--concurrency", metavar="N,N", help=f"requests in flight: closed loops (default: {_DEFAULT_CONCURRENCY})"
    )
    parser.add_argument("--rates", metavar="R,R", help="requests a second at random moments: open loops")
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=5, help="how often each is measured, in turn (default: %(default)s)"
    )
    parser.add_argument(
        "--window-s",
        metavar="S",
        type=float,
        default=2.0,
        help="length of a window, of which a measurement has three (default: %(default)s)",
    )
    parser.add_argument(
        "--warm-up-s", metavar="S", type=float, default=2.0, help="asking before that (default: %(default)s)"
    )
    parser.add_argument(
        "--metrics-url",
        metavar="H:P",
        help="the server's metrics, for the stages (default: port 8002 where --url has port 8001)",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write bench.json, bench.csv and bench.svg there")
    parser.add_argument(
        "--compare",
        metavar="OLD.json",
        nargs="+",
        help="measure and compare with an earlier bench.json; with a second one compare these two, and measure nothing",
    )
    parser.add_argument(
        "--fail-on-slower",
        metavar="PERCENT",
        type=float,
        help="with --compare: exit status 1 where a figure differs and is worse by more than this",
    )
    parser.add_argument(
        "--soak",
        metavar="TIME",
        help=f"press one level for 30s, 10m or 2h (default: {_DEFAULT_SOAK_CONCURRENCY} in flight), with a line a "
        "period about the server and its memory; Ctrl-C ends it",
    )
    parser.add_argument("--period-s", metavar="S", type=float, default=10.0, help="of --soak (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print JSON")


def levels_from(args: argparse.Namespace) -> tuple[Level, ...]:
    """Give the levels that are asked for, ascending: closed loops, then open ones.

    Raises:
        InputError: They are no lists of numbers.
    """
    concurrency = args.concurrency
    if concurrency is None and args.rates is None:
        concurrency = _DEFAULT_SOAK_CONCURRENCY if args.soak else _DEFAULT_CONCURRENCY
    levels = [] if concurrency is None else [Level(concurrency=number) for number in _whole_numbers(concurrency)]
    if args.rates is not None:
        levels += [Level(rate=rate) for rate in _rates(args.rates)]
    return tuple(levels)


def duration_from(text: str) -> float:
    """Give the seconds of 30s, 10m or 2h.

    Raises:
        InputError: It is no such text.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds > 0:
        raise InputError(f"--soak is {text!r}: give a number and its unit, such as 30s, 10m or 2h")
    return seconds


def command_from(args: argparse.Namespace) -> str:
    """Give the command as it can be repeated; what may hold a secret is not among what it tells."""
    parts = ["spanqa", "bench"]
    for name in _TOLD:
        value = getattr(args, name)
        if value is not None:
            parts += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(parts)


def metrics_url_from(args: argparse.Namespace) -> str | None:
    """Give the address of the metrics in full; None where none is given, and --url has another port than 8001.

    Raises:
        InputError: It is none.
    """
    host, _, port = args.url.rpartition(":")
    given = args.metrics_url
    if given is None:
        if port != str(_DEFAULT_PORTS[0]):
            return None
        given = f"{host}:{_DEFAULT_PORTS[1]}"
    found = re.fullmatch(r"(https?://)?([^\s/:]+|\[[0-9a-fA-F:]+\]):(\d+)(/\S*)?", given)
    if found is None:
        raise InputError(f"--metrics-url is {given!r}: give host:port, such as localhost:8002")
    return f"{found[1] or 'http://'}{found[2]}:{found[3]}{found[4] or '/metrics'}"


def _whole_numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= _MOST for part in parts):
        raise InputError(
            f"--concurrency is {text!r}: give whole numbers of at least 1 with commas between, such as 1,4,16"
        )
    return sorted({int(part) for part in parts})


def _rates(text: str) -> list[float]:
    try:
        rates = sorted({float(part) for part in text.split(",")})
    except ValueError:
        rates = []
    if not rates or not rates[0] > 0 or not rates[-1] <= _MOST or any(rate != rate for rate in rates):
        raise InputError(f"--rates is {text!r}: give numbers above 0 with commas between, such as 5,10,20")
    return rates
