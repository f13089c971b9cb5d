"""`spanqa health`: ask a running server a question, for probes of containers: exit status 0 where it answers."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from spanqa_client.commands.connecting import add_connection, connection_from
from spanqa_client.errors import TrustError
from spanqa_client.handshake import check_files, handshake_fault, pem_from
from spanqa_client.refusals import judged
from spanqa_client.security import ConnectionSettings, Token
from spanqa_client.servers import DEFAULT_URL, Server, addresses_from_url
from spanqa_client.steps import CallFailed
from spanqa_server.errors import ServerError

if TYPE_CHECKING:
    from spanqa_server.trust import Trust

DEFAULT_TIMEOUT_S = 5.0
LONGEST_S = 3600.0
"""gRPC takes a time that is far longer for one that has passed."""
TOO_MUCH = ("which is the most", "the requests that wait will take", "for its turn")
"""What stands in a refusal of the main entry's that has too much to do: `spanqa.errors.OverloadError`."""
EXIT_UNHEALTHY = 1
HANDSHAKE_S = 2.0
"""How long finding out why a connection ends may take."""


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
    parser.add_argument(
        "--or-busy",
        action="store_true",
        help="healthy too where the server refuses for having too much to do: for probes whose failure takes it away",
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the canary question and print one line.

    Returns:
        0 where it was answered in time, or refused as `--or-busy` allows, 1 where not.

    Raises:
        ServerError: If the timeout is no time.
    """
    if not 0 < args.timeout <= LONGEST_S:
        raise ServerError(f"--timeout is {args.timeout:g}: give a number of seconds above 0, such as 5, up to 3600")
    # gRPC tells of failed handshakes on stderr by itself; this command does, in one sentence. It reads this when it is
    # imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from spanqa_server.control import Control

    settings, server = connection_from(args), _server_of(args.url)
    settings.check_hosts([server.host])
    token = None if settings.token is None else Token(settings.token, settings.token_header)
    start = time.monotonic()
    with Control(
        args.url, dict(token.metadata()) if token else {}, threading.Event(), metrics_url="", trust=_trust_of(settings)
    ) as control:
        problem = control.ask_canary(args.timeout).problem
    if problem is None:
        print(f"healthy: {args.url} answered in {1e3 * (time.monotonic() - start):.0f} ms")
        return 0
    if args.or_busy and any(mark in problem for mark in TOO_MUCH):
        print(f"healthy: {args.url} has too much to do and says so: {problem}")
        return 0
    print(f"unhealthy: {_of_tls(problem, server, settings, args.timeout) or f'{args.url}: {problem}'}", file=sys.stderr)
    return EXIT_UNHEALTHY


def _server_of(url: str) -> Server:
    addresses = addresses_from_url(url)
    if len(addresses) > 1:
        raise ServerError(f"--url is {url!r}: a probe asks one server, give one host:port")
    return Server(url=addresses[0])


def _trust_of(settings: ConnectionSettings) -> Trust | None:
    """What the options mean for the connection; files that cannot be right are refused."""
    if not settings.is_secure:
        return None
    from spanqa_server.trust import Trust

    check_files(settings)
    return Trust(
        roots=None if settings.ca_file is None else pem_from(settings.ca_file, "the CA's certificates"),
        chain=None if settings.certificate_file is None else pem_from(settings.certificate_file, "the certificate"),
        key=None if settings.key_file is None else pem_from(settings.key_file, "the key"),
        authority=settings.authority,
    )


def _of_tls(problem: str, server: Server, settings: ConnectionSettings, wait_s: float) -> str:
    """Say what TLS has to do with a problem; "" for nothing."""
    if "UNAVAILABLE" not in problem:
        return ""
    failed = CallFailed("UNAVAILABLE", problem, ServerError(problem))
    error = judged(server.url, failed, timeout_s=wait_s, has_answered=False).error
    if isinstance(error, TrustError):
        return str(error)
    return handshake_fault(server, settings, min(wait_s, HANDSHAKE_S))
