"""gRPC's channels to a server, for the sync and for the asyncio face."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from spanqa_client.handshake import pem_from
from spanqa_client.security import ConnectionSettings, Token, is_loopback
from spanqa_client.servers import EVERY_ADDRESS, Server

_OPTIONS = (
    # Documents of any length: the server has its own limit and says so.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes between attempts to reconnect; a restarted server is back in seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name: how long one attempt may take, a handshake across an ocean too.
    ("grpc.min_reconnect_backoff_ms", 5000),
)
_IN_TURN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}


class Channels:
    """Makes the channels of one client.

    Args:
        settings: How to connect, its files held against what they must be.
        token: What goes with every call; None for nothing.
        credentials: TLS credentials in place of the settings' own; None leaves it to these.
    """

    def __init__(
        self, settings: ConnectionSettings, token: Token | None, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self._settings, self._token = settings, token
        self._credentials = credentials or _credentials(settings)

    def open(self, server: Server, *, is_async: bool) -> tuple[Any, Any]:
        """Make a channel to a server, and the service's stub on it; it connects when it is used.

        Args:
            server: The server.
            is_async: Whether both are asyncio's, of the running event loop.
        """
        module: Any = grpc
        if is_async:
            from grpc import aio  # which takes its time

            module = aio
        how = {"options": self._options(server), "compression": self._compression()}
        if self._credentials is None:
            channel = module.insecure_channel(server.url, **how)
        else:
            channel = module.secure_channel(server.url, self._credentials, **how)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return channel, stub if self._token is None else WithToken(stub, self._token)

    def _options(self, server: Server) -> list[tuple[str, Any]]:
        settings, options = self._settings, list(_OPTIONS)
        more: list[tuple[str, Any]] = []
        if server.url.startswith(EVERY_ADDRESS):
            more.append(("grpc.service_config", json.dumps(_IN_TURN)))
        if is_loopback(server.host):
            # What stays on this machine, perhaps a token in the open, must not go through a proxy of the environment.
            more.append(("grpc.enable_http_proxy", 0))
        if settings.authority is not None:
            more.append(("grpc.default_authority", settings.authority))
            if self._credentials is not None:
                more.append(("grpc.ssl_target_name_override", settings.authority))
        if settings.keepalive_s is not None:
            more.append(("grpc.keepalive_time_ms", int(1000 * settings.keepalive_s)))
            more.append(("grpc.keepalive_timeout_ms", int(1000 * settings.keepalive_timeout_s)))
            more.append(("grpc.http2.max_pings_without_data", 0))
        return [*options, *more]

    def _compression(self) -> grpc.Compression:
        return grpc.Compression.Gzip if self._settings.compression == "gzip" else grpc.Compression.NoCompression


class WithToken:
    """The service's stub, with a token in every call.

    Args:
        stub: The stub.
        token: The token.
    """

    def __init__(self, stub: Any, token: Token) -> None:
        self._stub, self._token = stub, token

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)

        def call(request: Any, *, timeout: float) -> Any:
            return method(request, timeout=timeout, metadata=self._token.metadata())

        return call


def is_live(stub: Any, left_s: Callable[[], float]) -> Any:
    """Make the call that any Triton answers at once."""
    return stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=left_s())


def _credentials(settings: ConnectionSettings) -> grpc.ChannelCredentials | None:
    if not settings.is_secure:
        return None
    roots = None if settings.ca_file is None else pem_from(settings.ca_file, "the CA's certificates")
    chain = None if settings.certificate_file is None else pem_from(settings.certificate_file, "the certificate")
    key = None if settings.key_file is None else pem_from(settings.key_file, "the key")
    return grpc.ssl_channel_credentials(roots, key, chain)
