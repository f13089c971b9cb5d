"""`spanqa serve`: serve a model repository until Ctrl-C or SIGTERM; SIGHUP rolls to its newest version."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from spanqa import logs
from spanqa.logs import FORMATS
from spanqa_server.errors import ServerLostError, TlsError
from spanqa_server.server import Server
from spanqa_server.settings import ServerSettings
from spanqa_server.tls import ServerTls

WAIT_S = 0.2
EXIT_LOST = 1
LOOPBACK = ("127.", "localhost")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    defaults = ServerSettings(repository=Path())
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="model repository (default: ./model_repository, or ours)"
    )
    parser.add_argument("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    for name, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=int, default=port, metavar="N", help="0 takes a free one (default: %(default)s)"
        )
    parser.add_argument(
        "--drain-timeout-s",
        type=float,
        default=defaults.drain_timeout_s,
        metavar="S",
        help="how long accepted questions may take when stopping (default: %(default)g)",
    )
    parser.add_argument(
        "--start-timeout-s",
        type=float,
        default=defaults.start_timeout_s,
        metavar="S",
        help="how long the models may take to load (default: %(default)g)",
    )
    parser.add_argument("--verbose", action="store_true", help="copy Triton's log to stderr")
    parser.add_argument(
        "--log-format", choices=FORMATS, default=defaults.log_format, help="lines on stderr (default: %(default)s)"
    )
    parser.add_argument(
        "--log-text", action="store_true", help="let the log of faults quote questions and contexts (default: never)"
    )
    parser.add_argument(
        "--trace-url",
        metavar="URL",
        default="",
        help="send traces to a collector's OTLP/HTTP endpoint, by OpenTelemetry",
    )
    parser.add_argument(
        "--trace-file", metavar="FILE", default="", help="write traces into FILE.0, FILE.1, ... as Triton's JSON"
    )
    parser.add_argument(
        "--trace-rate",
        type=int,
        metavar="N",
        default=defaults.trace_rate,
        help="trace one request of N (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    _add_tls(parser)


def _add_tls(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "TLS of the gRPC endpoint", "Triton's HTTP endpoint has none: with TLS it is opened on loopback alone."
    )
    for name, help_text in (
        ("cert", "the server's certificate chain in PEM"),
        ("key", "its private key in PEM"),
        ("client-ca", "mutual TLS: answer only clients with a certificate signed by these CAs, in PEM"),
        ("own-cert", "what the server shows when it asks itself under mutual TLS (default: its own certificate)"),
        ("own-key", "the private key of that"),
    ):
        group.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=help_text)


def _tls_from(args: argparse.Namespace) -> ServerTls | None:
    given = [name for name in ("client_ca", "own_cert", "own_key") if getattr(args, f"tls_{name}") is not None]
    if args.tls_cert is None and args.tls_key is None and not given:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise TlsError("TLS needs a certificate and its key: give both --tls-cert and --tls-key")
    return ServerTls(
        certificate=args.tls_cert,
        key=args.tls_key,
        client_ca=args.tls_client_ca,
        own_certificate=args.tls_own_cert,
        own_key=args.tls_own_key,
    )


def run(args: argparse.Namespace) -> int:
    """Serve until asked to stop.

    Returns:
        0 after a clean stop, 1 where Triton was lost for good.
    """

    is_json = args.log_format == "json"

    def say(level: str, event: str, line: str) -> None:
        text = logs.json_line(level, event, message=line) if is_json else f"spanqa: {line}"
        with contextlib.suppress(OSError):  # whoever read it may be gone: that ends no server
            print(text, file=sys.stderr, flush=True)

    def report(line: str) -> None:
        if not args.quiet:
            say("info", "server", line)

    server = Server(
        args.repository,
        report=report,
        host=args.host,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        metrics_port=args.metrics_port,
        drain_timeout_s=args.drain_timeout_s,
        start_timeout_s=args.start_timeout_s,
        verbose=args.verbose,
        show_faults=not args.quiet,
        log_format=args.log_format,
        log_text=args.log_text,
        trace_url=args.trace_url,
        trace_file=args.trace_file,
        trace_rate=args.trace_rate,
        tls=_tls_from(args),
    )

    def handle(_number: int, _frame: FrameType | None) -> None:
        server.request_stop()

    def reload(_number: int, _frame: FrameType | None) -> None:
        server.request_reload()

    handlers = {signal.SIGINT: handle, signal.SIGTERM: handle, signal.SIGHUP: reload}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return _serve(server, args, report)
    except ServerLostError as error:
        say("error", "lost", f"{'' if is_json else 'error: '}{error}")
        return EXIT_LOST
    finally:
        server.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(server: Server, args: argparse.Namespace, report: Callable[[str], None]) -> int:
    report(f"loading the models of {server.settings.repository}")
    server.start()
    if not args.quiet and not server.is_stopping and args.log_format == "json":
        urls = {"grpc": server.url, "http": server.http_url, "metrics": server.metrics_url}
        print(logs.json_line("info", "ready", message="ready", **urls), file=sys.stderr, flush=True)
    elif not args.quiet and not server.is_stopping:
        print(
            f"ready\n  gRPC     {server.url}\n  HTTP     {server.http_url}\n  metrics  {server.metrics_url}", flush=True
        )
    if server.settings.tls:
        report("gRPC speaks TLS alone; HTTP, which Triton has without TLS, is opened on this machine alone")
    if not server.settings.host.startswith(LOOPBACK) and not (server.settings.tls and server.settings.tls.client_ca):
        report(f"anyone who reaches {server.settings.host} can ask: keep a firewall or a gateway in front")
    is_told = False
    while not server.wait(WAIT_S):
        if server.is_stopping and not is_told:
            is_told = True
            report("stopping: accepted questions are answered first; once more to stop at once")
    return 0
