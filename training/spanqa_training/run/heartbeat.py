"""Signs of life between the processes of a run: one that falls silent ends it, however its neighbours wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import TCPStore

DONE = 1 << 40
"""Added to the count of a process that has ended well."""
FAILURE = "failure"
"""Holds what ended the process that failed first."""
_BEAT_S = 0.25
"""The same in all, whatever each knows of the spec so far."""
_GRACE_S = 10.0
_GOODBYE_S = 2.0


class Heartbeat:
    """Threads that count in a store which all processes see, and watch the counts of the others.

    Collectives alone are not enough: a process that hangs, or whose machine lost its power, closes no connection, and
    the others would wait in the midst of a computation that nothing interrupts.

    Args:
        address: Host and port of the store.
        prefix: Before each of its keys.
        rank: This process.
        world_size: Of how many.
        patience_s: Seconds of silence after which a process is lost.
        on_lost: Told in one sentence, in a thread, what was lost, with the threads' own connection to the store where
            it answers (that of the main thread may be waiting); it ends the process.
    """

    def __init__(
        self,
        address: tuple[str, int],
        prefix: str,
        *,
        rank: int,
        world_size: int,
        patience_s: float,
        on_lost: Callable[[str, TCPStore | None], None],
    ) -> None:
        self._address, self._prefix, self._rank, self._world_size = address, prefix, rank, world_size
        self._on_lost = on_lost
        self.patience_s = patience_s
        self._ended = threading.Event()
        self._store: TCPStore | None = None
        self._answered = time.monotonic()
        self._failed_at = 0.0
        self._heard = dict.fromkeys(range(world_size), self._answered)
        # Two, since the store of a process that hangs answers never, and whoever asks it hangs as well.
        self._asking = threading.Thread(target=self._ask, name="heartbeat", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="heartbeat watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._asking.start()
        self._watching.start()

    def stop(self) -> None:
        """End; the others are not to wait for more."""
        self._ended.set()
        self._asking.join(timeout=_GOODBYE_S)

    def _ask(self) -> None:
        counts: dict[int, int] = {}
        looked = 0.0
        while True:
            ended = self._ended.wait(_BEAT_S)
            try:
                self._store = self._store or self._connected()
                self._store.add(self._key(self._rank), DONE if ended else 1)
                self._answered = now = time.monotonic()
                if not ended and now - looked >= self.patience_s / 8:
                    looked = now
                    self._look(self._store, counts)
            except RuntimeError:  # what torch raises for all that its store says or does not say
                self._store = None
            if ended:
                return

    def _look(self, store: TCPStore, counts: dict[int, int]) -> None:
        """Compare all counts with those of the last time."""
        for rank in range(self._world_size):
            count = store.add(self._key(rank), 0)
            # One that never began is waited for where the processes meet; one that is done says no more.
            if count != counts.get(rank, 0) or not count or count >= DONE:
                counts[rank], self._heard[rank] = count, time.monotonic()
        if not self._failed_at and store.check([f"{self._prefix}/{FAILURE}"]):
            self._failed_at = time.monotonic()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(_BEAT_S):
            now = time.monotonic()
            if now - before > max(2 * _BEAT_S, self.patience_s / 2):
                # This very process stood still, as others on its machine may have: they get their time anew.
                self._answered = now
                self._heard = dict.fromkeys(self._heard, now)
            before = now
            if message := self._loss(now):
                self._on_lost(message, self._store if now - self._answered < self.patience_s / 2 else None)
                return

    def _loss(self, now: float) -> str:
        """What is lost; nothing where all is well."""
        if self._failed_at and now - self._failed_at > min(_GRACE_S, self.patience_s):
            return "another process of the run has failed"
        if now - self._answered > self.patience_s:
            return f"the first process of the run, at {self._address[0]}, was lost"
        silent = [rank for rank, last in self._heard.items() if now - last > self.patience_s and rank != self._rank]
        if not silent or now - self._answered > self.patience_s / 2:
            return ""
        which = ", ".join(map(str, silent))
        return (
            f"no sign of life for {self.patience_s:g} s of process{'es' if len(silent) > 1 else ''} {which} of the run"
        )

    def _key(self, rank: int) -> str:
        return f"{self._prefix}/alive/{rank}"

    def _connected(self) -> TCPStore:
        host, port = self._address
        timeout = timedelta(seconds=max(1.0, self.patience_s))
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
