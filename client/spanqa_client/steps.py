"""What asking does beside thinking, as values: the logic yields steps, and a sync or asyncio face carries them out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from spanqa_client.servers import Server

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Make one call; the step's value is the response, and what fails is thrown in as CallFailed.

    Args:
        server: The server to call.
        send: Makes the call, given the service's stub and a function that tells the seconds left.
        left_s: That function.
    """

    server: Server
    send: Callable[[Any, Callable[[], float]], Any]
    left_s: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; the step's value says whether nobody waits for the answer any more.

    Args:
        wait_s: How long.
    """

    wait_s: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Try a TLS handshake with a server that ends connections without a word; its value says what is wrong, or "".

    Args:
        server: The server.
        wait_s: How long it may take.
    """

    server: Server
    wait_s: float


Steps = Generator[Send | Pause | Probe, Any, T]
"""The logic of asking, without any input or output of its own."""


class CallFailed(Exception):
    """A call that a server or gRPC failed; it never leaves the logic of asking.

    Args:
        code: The name of gRPC's status code, such as "UNAVAILABLE".
        details: What was said beside it.
        cause: gRPC's own error.
        is_closed: Whether the client was closed meanwhile.
    """

    def __init__(self, code: str, details: str, cause: Exception, *, is_closed: bool = False) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details, self.cause, self.is_closed = code, details, cause, is_closed
