"""How the commands that ask a server connect to it."""

from __future__ import annotations

import argparse
import os

from spanqa.errors import InputError
from spanqa_client.client import QAClient
from spanqa_client.security import AUTHORIZATION, COMPRESSIONS, ConnectionSettings

_SAFE_TOKENS = ("env:", "@")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Declare how the server is connected to; `connection_from` and `client_from` read it."""
    group = parser.add_argument_group("connection")
    group.add_argument("--tls", action="store_true", help="connect with TLS, trusting the CAs that gRPC brings")
    group.add_argument(
        "--tls-ca", metavar="FILE", help="connect with TLS, trusting these CA certificates alone, in PEM"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="this client's certificate in PEM, for mutual TLS")
    group.add_argument("--tls-key", metavar="FILE", help="its private key in PEM")
    group.add_argument(
        "--authority", metavar="NAME", help="the name in the server's certificate, where --url has another"
    )
    group.add_argument(
        "--token", metavar="env:NAME|@FILE", help="send this token with every call, with TLS or to this machine alone"
    )
    group.add_argument(
        "--token-header",
        metavar="NAME",
        default=AUTHORIZATION,
        help='the header that carries it, after "Bearer " in the default one (default: %(default)s)',
    )
    group.add_argument(
        "--keepalive-s",
        metavar="S",
        type=float,
        help="ask a silent server so often whether it is there (default: never)",
    )
    group.add_argument(
        "--compression", choices=COMPRESSIONS, default="none", help="pack requests (default: %(default)s)"
    )


def connection_from(args: argparse.Namespace) -> ConnectionSettings:
    """Give what `add_connection` declared.

    Raises:
        InputError: The options contradict each other, or the token stands on the command line.
    """
    if args.token is not None and not args.token.startswith(_SAFE_TOKENS):
        raise InputError("--token would stand in the list of processes: give env:NAME or @FILE")
    return ConnectionSettings(
        tls=args.tls,
        ca_file=args.tls_ca,
        certificate_file=args.tls_cert,
        key_file=args.tls_key,
        authority=args.authority,
        token=args.token,
        token_header=args.token_header,
        keepalive_s=args.keepalive_s,
        compression=args.compression,
    )


def client_from(args: argparse.Namespace) -> QAClient:
    """Make the client that `add_server` and `add_connection` declared.

    Raises:
        InputError: An option is not what it must be.
    """
    # gRPC tells of failed handshakes on stderr by itself; the command does, in one sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return QAClient(args.url, model_name=args.model, connection=connection_from(args))
