"""One gRPC connection: deadlines, retries, and the one place where gRPC's errors become ours."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from spanqa_client.errors import BadRequest, ClientError, ProtocolError, ServerFault, ServerUnavailable, Timeout

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 1.0
_CHANNEL_OPTIONS = (
    # Documents of any length: the server has its own limit and says so.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes between attempts to reconnect; a restarted server is back in seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# What Triton calls internal and passes: a process died, a connection ended, no room in /dev/shm, a sudden stop.
_PASSING_FAULTS = (
    "stub",
    "not healthy",
    "rst_stream",
    "shared memory pool",
    "server not ready",
    "expected a single response, got 0",  # there was no shared memory left for the response
)
_OUR_ERRORS: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.NOT_FOUND: ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Timeout,
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.OUT_OF_RANGE: BadRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BadRequest,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
}


class Connection:
    """A channel to a Triton server. Safe to use from several threads.

    Args:
        url: host:port of the server's gRPC endpoint.
        connect_timeout_s: How long to wait for a server that has not answered yet.
        credentials: TLS credentials; None is an open connection.
    """

    def __init__(
        self, url: str, *, connect_timeout_s: float, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self.url = url
        self._connect_timeout_s = connect_timeout_s
        if credentials is None:
            self._channel = grpc.insecure_channel(url, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(url, credentials, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._closed = threading.Event()
        self._connected = False
        self._answered = False

    def close(self) -> None:
        """Close the channel; calls in flight fail."""
        self._closed.set()
        self._channel.close()

    def call(
        self,
        send: Callable[[Any, Callable[[], float]], T],
        *,
        timeout_s: float,
        stop: threading.Event | None = None,
    ) -> T:
        """Make a call, and make it again while the server is away or mending itself.

        Args:
            send: Makes one attempt, given the service's stub and a function that tells the seconds left.
            timeout_s: For all attempts and the waits between them.
            stop: Once set, no attempt is made again.

        Raises:
            ClientError: The last attempt's error, as one of its subclasses.
        """
        deadline, backoff_s = time.monotonic() + timeout_s, _FIRST_BACKOFF_S
        stop = stop or self._closed
        while True:
            try:
                self._wait_for_connection(timeout_s)
                result = send(self._stub, lambda: max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                # Half to one and a half times: many threads that failed together come back apart.
                wait_s = backoff_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreading load, not secrets
                late = time.monotonic() + wait_s >= deadline
                if late or not self._passes(error) or stop.wait(wait_s) or self._closed.is_set():
                    raise self._our_error(error, timeout_s) from error
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
                continue
            except ValueError as error:  # gRPC's word for a closed channel
                if self._closed.is_set():
                    raise ClientError("the client is closed: make a new one") from error
                raise
            self._answered = True
            return result

    def _wait_for_connection(self, timeout_s: float) -> None:
        if self._connected:
            return
        wait_s = min(timeout_s, self._connect_timeout_s)
        try:
            # Any response will do. (grpc.channel_ready_future leaves a thread behind that fails on an early close.)
            self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=wait_s, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ServerUnavailable(
                    f"no server answers at {self.url} (waited {wait_s:g} s): start one with `spanqa serve`, or give "
                    "the address of one's gRPC port"
                ) from error
        self._connected = True

    def _passes(self, error: grpc.RpcError) -> bool:
        """Whether the same request may succeed in a moment; answering twice does no harm."""
        code, details = error.code(), (error.details() or "").lower()
        if code == grpc.StatusCode.UNAVAILABLE:
            return True
        if code == grpc.StatusCode.NOT_FOUND:
            return self._answered  # the model is being loaded again
        if code == grpc.StatusCode.INTERNAL:
            return any(words in details for words in _PASSING_FAULTS)
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            # Triton fails a whole batch for one text that its sender cut off; this client never sends such a one.
            return "incomplete string data" in details
        return code == grpc.StatusCode.UNKNOWN and "stream removed" in details  # a connection lost halfway

    def _our_error(self, error: grpc.RpcError, timeout_s: float) -> ClientError:
        code, details = error.code(), error.details() or "no details"
        if self._closed.is_set():
            return ClientError("the client was closed while it was asking")
        kind = _OUR_ERRORS.get(code, ServerFault)
        if kind is Timeout:
            return Timeout(f"no answer from {self.url} within {timeout_s:g} s: allow more time, or ask less at once")
        if code == grpc.StatusCode.NOT_FOUND:
            return kind(f"{self.url} does not have the model: {details}")
        if kind is BadRequest:
            return kind(details)
        return kind(f"{self.url}: {code.name}: {details}")
