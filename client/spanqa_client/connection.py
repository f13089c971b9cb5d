"""The channels of a client, and the steps of asking carried out by threads that wait."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from spanqa_client.attempts import Attempts
from spanqa_client.errors import ClientError
from spanqa_client.options import check_timeout
from spanqa_client.security import ConnectionSettings, Token
from spanqa_client.servers import Server, Servers, addresses_from_url
from spanqa_client.steps import CallFailed, Pause, Probe, Send, Steps

if TYPE_CHECKING:
    import grpc

T = TypeVar("T")


class Opened:
    """What both faces have: servers, and a channel to each as soon as it is needed.

    gRPC is imported with the first call: who only imports the package, or reads a command's help, does not wait for it.

    Args:
        url: host:port of a server's gRPC endpoint; several with commas between them, or as a list.
        connect_timeout_s: How long to wait for a server where none has answered yet.
        settings: TLS, tokens and the like; None is an open connection.
        credentials: gRPC's own TLS credentials, in place of the settings'.

    Raises:
        InputError: An address or a setting is not what it must be.
    """

    _is_async = False

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        connect_timeout_s: float,
        settings: ConnectionSettings | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        check_timeout(connect_timeout_s)
        self.servers = Servers(addresses_from_url(url))
        self.settings = settings or ConnectionSettings()
        if credentials is None:
            self.settings.check_hosts(server.host for server in self.servers.all)
        if self.settings.is_secure:
            from spanqa_client.handshake import check_files  # Python's TLS: only who asks for it waits for it

            check_files(self.settings)
        token = self.settings.token
        self._token = None if token is None else Token(token, self.settings.token_header)
        self._credentials = credentials
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._opened: dict[Server, tuple[Any, Any]] = {}
        self._attempts: Attempts | None = None
        self._is_closed = False

    @property
    def url(self) -> str:
        """The addresses, for messages."""
        return str(self.servers)

    def attempts(self) -> Attempts:
        """Give the logic of a call, which knows what earlier ones have shown.

        Raises:
            ClientError: The client is closed.
        """
        if self._is_closed:
            raise ClientError("the client is closed: make a new one")
        return self._attempts or self._prepared()

    def _prepared(self) -> Attempts:
        with self._lock:
            if self._attempts is None:
                from spanqa_client.channels import Channels, is_live

                self._channels = Channels(self.settings, self._token, self._credentials)
                self._attempts = Attempts(self.servers, connect_timeout_s=self._connect_timeout_s, is_live=is_live)
            return self._attempts

    def stub(self, server: Server) -> Any:
        """Give the service's stub of a server.

        Raises:
            ClientError: The client is closed.
        """
        opened = self._opened.get(server)
        if opened is None:
            with self._lock:
                if self._is_closed:
                    raise ClientError("the client is closed: make a new one")
                opened = self._opened.get(server) or self._channels.open(server, is_async=self._is_async)
                self._opened[server] = opened
        return opened[1]

    def failure(self, error: grpc.RpcError) -> CallFailed:
        """Give gRPC's error as the logic of asking takes it."""
        return CallFailed(error.code().name, error.details() or "", error, is_closed=self._is_closed)


class Connection(Opened):
    """Channels to one or several Triton servers. Safe to use from several threads; arguments as `Opened`."""

    def __init__(self, url: str | Sequence[str], **settings: Any) -> None:
        super().__init__(url, **settings)
        self._closed = threading.Event()

    def close(self) -> None:
        """Close the channels; calls in flight fail."""
        with self._lock:
            self._is_closed = True
            opened = list(self._opened.values())
        self._closed.set()
        for channel, _ in opened:
            channel.close()

    def call(self, send: Callable[[Any, Callable[[], float]], T], *, timeout_s: float) -> T:
        """Make a call, and make it again while the server is away or mending itself; arguments as `Attempts.call`.

        Raises:
            ClientError: The last attempt's error, as one of its subclasses.
        """
        return self.run(self.attempts().call(send, timeout_s))

    def run(self, steps: Steps[T], stop: threading.Event | None = None) -> T:
        """Carry steps out.

        Args:
            steps: The steps.
            stop: Once set, nobody waits for the result any more.
        """
        with contextlib.closing(steps):
            value, failed = None, None
            while True:
                try:
                    step = steps.send(value) if failed is None else steps.throw(failed)
                except StopIteration as done:
                    result: T = done.value
                    return result
                value, failed = None, None
                try:
                    value = self._perform(step, stop)
                except CallFailed as error:
                    failed = error

    def _perform(self, step: Send | Pause | Probe, stop: threading.Event | None) -> Any:
        import grpc

        if isinstance(step, Pause):
            return (stop or self._closed).wait(step.wait_s) or self._is_closed
        if isinstance(step, Probe):
            from spanqa_client.handshake import handshake_fault

            return handshake_fault(step.server, self.settings, step.wait_s)
        try:
            return step.send(self.stub(step.server), step.left_s)
        except grpc.RpcError as error:
            raise self.failure(error) from error
        except ValueError as error:  # gRPC's word for a closed channel
            if self._is_closed:
                raise ClientError("the client is closed: make a new one") from error
            raise
