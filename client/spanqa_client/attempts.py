"""One call and its attempts, without input or output: deadline, waits, and which server is asked again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from spanqa_client.errors import ClientError, ServerUnavailable, Timeout
from spanqa_client.refusals import Judgement, is_restricted, judged
from spanqa_client.servers import Server, Servers
from spanqa_client.steps import CallFailed, Pause, Probe, Send, Steps

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 1.0
_PROBE_S = 1.0
_BESIDE_OTHERS_S = 1.0
"""How long a server may take to show that it is there, where another one is."""
_SHORTEST_S = 0.001
_WORTH_S = 0.01
"""With less time than this left, no other server is tried."""


class Attempts:
    """Makes calls, and makes them again while a server is away or mending itself.

    Args:
        servers: Those that may answer.
        connect_timeout_s: How long to wait for a server where none has answered yet.
        is_live: Makes a call that any server answers at once, given the stub and the seconds left.
    """

    def __init__(
        self, servers: Servers, *, connect_timeout_s: float, is_live: Callable[[Any, Callable[[], float]], Any]
    ) -> None:
        self.servers = servers
        self._connect_timeout_s = connect_timeout_s
        self._is_live = is_live
        self._has_answered = False

    def call(self, send: Callable[[Any, Callable[[], float]], T], timeout_s: float) -> Steps[T]:
        """Make a call until it is answered, refused for good, or its time is over.

        Args:
            send: Makes one attempt, given the service's stub and a function that tells the seconds left.
            timeout_s: For all attempts, connecting and the waits between them.

        Raises:
            ClientError: The last attempt's error, as one of its subclasses.
        """
        servers, started, backoff_s = self.servers, time.monotonic(), _FIRST_BACKOFF_S
        deadline, refusing = started + timeout_s, set[Server]()

        def left_s() -> float:
            return max(deadline - time.monotonic(), _SHORTEST_S)

        while True:
            server = servers.take(time.monotonic())
            was_connected = server.is_connected
            try:
                if not was_connected:
                    yield from self._connect(server, left_s)
                    was_connected = True
                result: T = yield Send(server, send, left_s)
            except CallFailed as failed:
                verdict = yield from self._judge(server, failed, timeout_s, left_s, was_connected=was_connected)
            else:
                servers.answered(server)
                self._has_answered = True
                return result
            finally:
                servers.release(server)
            if verdict.is_final:
                raise verdict.error from verdict.cause
            now = time.monotonic()
            servers.failed(server, now)
            if not verdict.passes:
                refusing.add(server)
            has_others = len(servers.all) > len(refusing | {server})
            if has_others and now + _WORTH_S < deadline and servers.n_fit(now):
                if not (yield Pause(0.0)):  # somebody still waits
                    continue  # another one may answer at once
                raise verdict.error from verdict.cause
            # Half to one and a half times: many questions that failed together come back apart.
            wait_s = backoff_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreading load, not secrets
            limit = deadline if servers.any_connected else min(deadline, started + self._connect_timeout_s)
            if not (verdict.passes or has_others) or now + wait_s >= limit or (yield Pause(wait_s)):
                raise verdict.error from verdict.cause
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def _connect(self, server: Server, left_s: Callable[[], float]) -> Steps[None]:
        """Find out that a server is there; any response will do."""
        # Another server may have to be found in the same time.
        wait_s = min(left_s(), self._connect_timeout_s) / max(self.servers.n_fit(time.monotonic()), 1)
        if self.servers.any_connected:
            wait_s = min(wait_s, _BESIDE_OTHERS_S)
        until = time.monotonic() + wait_s
        try:
            yield Send(server, self._is_live, lambda: max(until - time.monotonic(), _SHORTEST_S))
        except CallFailed as failed:
            is_away = failed.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and not is_restricted(failed.details)
            if is_away or failed.is_closed:
                raise
        server.is_connected = True

    def _judge(
        self,
        server: Server,
        failed: CallFailed,
        timeout_s: float,
        left_s: Callable[[], float],
        *,
        was_connected: bool,
    ) -> Steps[Judgement]:
        verdict = judged(server.url, failed, timeout_s=timeout_s, has_answered=self._has_answered)
        # As it was when the question was sent: another one may have found out since that the server hangs.
        if was_connected or failed.is_closed:
            if isinstance(verdict.error, Timeout) and len(self.servers.all) > 1:
                server.is_connected = False  # it may hang: it is to show that it lives before it gets another question
            return verdict
        if verdict.ends_without_a_word:
            fault = yield Probe(server, min(_PROBE_S, left_s()))
            if fault:
                return verdict.as_insecure(fault)
        if verdict.is_absent:
            wait_s = min(timeout_s, self._connect_timeout_s)
            away: ClientError = ServerUnavailable(
                f"no server answers at {self.servers} (waited {wait_s:g} s): start one with `spanqa serve`, or give "
                "the address of one's gRPC port"
            )
            return Judgement(error=away, cause=failed.cause, passes=True)
        return verdict
