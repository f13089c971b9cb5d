"""The server that is measured, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import service_pb2

from spanqa.errors import InputError
from spanqa_client.connection import Connection
from spanqa_client.errors import BenchError
from spanqa_client.security import ConnectionSettings
from spanqa_client.servers import EVERY_ADDRESS, addresses_from_url

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is measured.

    Args:
        url: host:port of one server's gRPC endpoint.
        model_name: The model to ask.
        window_s: Length of a window, of which a measurement has three.
        connection: How to connect.

    Raises:
        InputError: There is no address, or more than one.
    """

    url: str
    model_name: str
    window_s: float
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)

    def __post_init__(self) -> None:
        if len(addresses_from_url(self.url)) != 1 or self.url.startswith(EVERY_ADDRESS):
            raise InputError(f"--url {self.url} may be several servers: give the host:port of the one that is measured")


def served_version(load: Load) -> str:
    """Give the model's version that answers: the highest of those that are there.

    Raises:
        BenchError: The server has none.
        ClientError: It does not tell.
    """
    request = service_pb2.ModelMetadataRequest(name=load.model_name)
    metadata = _called(load, lambda stub, left_s: stub.ModelMetadata(request, timeout=left_s()))
    if not metadata.versions:
        raise BenchError(f"{load.url} has no version of the model {load.model_name}: is it loaded?")
    return str(max(metadata.versions, key=int))


def server_text(load: Load) -> str:
    """Give the server's own name and version.

    Raises:
        ClientError: It does not tell.
    """
    request = service_pb2.ServerMetadataRequest()
    metadata = _called(load, lambda stub, left_s: stub.ServerMetadata(request, timeout=left_s()))
    return f"{metadata.name} {metadata.version}"


def _called(load: Load, send: Callable[[Any, Callable[[], float]], Any]) -> Any:
    connection = Connection(load.url, connect_timeout_s=_TIMEOUT_S, settings=load.connection)
    try:
        return connection.call(send, timeout_s=_TIMEOUT_S)
    finally:
        connection.close()
