"""The servers that a client asks, and which of them is asked next."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from spanqa.errors import InputError

DEFAULT_URL = "localhost:8001"
EVERY_ADDRESS = "dns:"
"""Before a name, every address that it has is a server, and gRPC takes them in turn."""
_FIRST_REST_S = 0.1
_LONGEST_REST_S = 5.0
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/,\[\]]+):(?P<port>\d{1,5})")


@dataclass(slots=True, kw_only=True, eq=False)
class Server:
    """One server, and what asking it has shown so far.

    Args:
        url: host:port, perhaps with "dns:" before it.
        is_connected: Whether anything has ever been answered there.
        n_in_flight: Calls under way.
        n_failures: Failures since it last answered.
        rests_until: Before this time it is asked only where all others rest too, in seconds of `time.monotonic`.
    """

    url: str
    is_connected: bool = field(default=False, init=False)
    n_in_flight: int = field(default=0, init=False)
    n_failures: int = field(default=0, init=False)
    rests_until: float = field(default=0.0, init=False)

    @property
    def host(self) -> str:
        """The name or address alone."""
        return self.url.removeprefix(EVERY_ADDRESS).rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.url.rpartition(":")[2])


class Servers:
    """Chooses the server of each call: of those that do not rest the one with the fewest calls under way.

    gRPC's own balancing goes by connections alone: a server that drains keeps its connection, refuses every question,
    and would be given its share of them. So one that fails rests, the longer the more often it does, and the others
    answer meanwhile; after that, one question finds out whether it is back.

    Args:
        urls: Addresses, each once.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = tuple(Server(url=url) for url in urls)
        self._turn = 0
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return ", ".join(server.url for server in self.all)

    @property
    def any_connected(self) -> bool:
        """Whether any of them has ever answered."""
        return any(server.is_connected for server in self.all)

    def n_fit(self, now: float) -> int:
        """Count those that do not rest."""
        return sum(server.rests_until <= now for server in self.all)

    def take(self, now: float) -> Server:
        """Choose a server and count a call as under way there; `answered` or `failed`, then `release`, follow.

        Args:
            now: The time, in seconds of `time.monotonic`; so below.
        """
        with self._lock:
            fit = [server for server in self.all if server.rests_until <= now]
            if fit:
                turn = self._turn = self._turn + 1
                # Of equals, each in its turn.
                chosen = min(enumerate(fit), key=lambda one: (one[1].n_in_flight, (one[0] + turn) % len(fit)))[1]
                if chosen.n_failures:
                    chosen.rests_until = now + _rest_s(chosen.n_failures)
            else:
                chosen = min(self.all, key=lambda server: server.rests_until)
            chosen.n_in_flight += 1
        return chosen

    def release(self, server: Server) -> None:
        """Count a call as over."""
        with self._lock:
            server.n_in_flight -= 1

    def answered(self, server: Server) -> None:
        """Take note of an answer: whatever a server answers, it is there."""
        server.is_connected = True
        if server.n_failures:
            server.n_failures, server.rests_until = 0, 0.0

    def failed(self, server: Server, now: float) -> None:
        """Let a server rest."""
        with self._lock:
            server.n_failures += 1
            server.rests_until = now + _rest_s(server.n_failures)


def addresses_from_url(url: str | Sequence[str]) -> list[str]:
    """Read the addresses of servers, each once.

    Args:
        url: host:port, several of them with commas between them, or a list of such.

    Raises:
        InputError: One is no address, or there is none.
    """
    if not isinstance(url, Iterable):
        raise InputError(f"the server's address is {url!r}: give host:port, such as {DEFAULT_URL}")
    given = url.split(",") if isinstance(url, str) else list(url)
    for one in given:
        place = _ADDRESS.fullmatch(one.strip().removeprefix(EVERY_ADDRESS)) if isinstance(one, str) else None
        if place is None or not 0 < int(place["port"]) < 65536:
            raise InputError(f"the server's address is {one!r}: give host:port, such as {DEFAULT_URL}")
    if not given:
        raise InputError(f"there is no server's address: give host:port, such as {DEFAULT_URL}")
    return list(dict.fromkeys(one.strip() for one in given))


def _rest_s(n_failures: int) -> float:
    return float(min(_FIRST_REST_S * 2 ** min(n_failures - 1, 10), _LONGEST_REST_S))
