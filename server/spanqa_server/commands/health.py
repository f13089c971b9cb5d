"""`spanqa health`: ask a running server a question, for probes of containers: exit status 0 where it answers."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from spanqa_server.control import Control
from spanqa_server.errors import ServerError

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 5.0
EXIT_UNHEALTHY = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--url", metavar="H:P", default=DEFAULT_URL, help="the gRPC port (default: %(default)s)")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        default=DEFAULT_TIMEOUT_S,
        help="seconds that the answer may take (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Ask the canary question and print one line.

    Returns:
        0 where it was answered in time, 1 where not.

    Raises:
        ServerError: If the timeout is no time.
    """
    if not args.timeout > 0:
        raise ServerError(f"--timeout is {args.timeout:g}: give a number of seconds above 0, such as 5")
    start = time.monotonic()
    with Control(args.url, {}, threading.Event(), metrics_url="") as control:
        problem = control.ask_canary(args.timeout).problem
    if problem is None:
        print(f"healthy: {args.url} answered in {1e3 * (time.monotonic() - start):.0f} ms")
        return 0
    print(f"unhealthy: {args.url}: {problem}", file=sys.stderr)
    return EXIT_UNHEALTHY
