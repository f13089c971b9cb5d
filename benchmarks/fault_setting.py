"""What the scenarios of `faults.py` share: a steady load, what it got, and whether the promises held."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from table_model import add_same_version

from spanqa import contract
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_server.server import Server

RECOVERY_S = 6.0
"""What a recovery may take."""
TIMEOUT_S = 120.0
"""What a question may take, everything included: recoveries, restarts and a busy machine."""
CONCURRENCY = 16
PACE_S = 0.01
"""Between two questions: a steady load, which leaves a fast model's machine some room to recover."""
RELOAD_S = 30.0
"""What a roll-over may take, on a machine that has a load and a fault at once."""
STOP_S = 8.0
"""What a stop may take when nothing is asked any more."""

Item = tuple[str, str]


@dataclass
class Verdict:
    """What came of one scenario: figures, and the promises that failed."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: str = ""

    def require(self, holds: object, says: str) -> None:
        """Note a promise that failed, once."""
        if not holds and says not in self.failures:
            self.failures.append(says)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every scenario is given.

    Args:
        repository: A copy of the repository, the scenario's own.
        items: Questions and contexts.
        expected: What the undisturbed server answers to each.
        rng: Chooses moments and processes.
        n_kills: How often processes are killed.
        say: Called with one line for each thing that the server reports.
        running: A server to use where the fault does not end it, which is then left running.
        rolls: Whether faults that have no roll-over of their own meet one.
    """

    repository: Path
    items: Sequence[Item]
    expected: Sequence[Answer]
    rng: random.Random
    n_kills: int
    say: Callable[[str], None]
    running: Server | None = None
    rolls: bool = False

    @contextlib.contextmanager
    def serving(self, verdict: Verdict) -> Iterator[Server]:
        """Give the running server, or else one of the repository for as long as the block lasts, which stops soon."""
        if self.running:
            yield self.running
            return
        with self.server() as server:
            yield server
            stop_timed(server, verdict)

    def server(self, **options: Any) -> Server:
        """Make a server of the repository."""
        return Server(self.repository, report=self.say, **options)


@contextlib.contextmanager
def rolling_over(server: Server, setting: Setting, verdict: Verdict) -> Iterator[None]:
    """Roll over to a version that answers the same, where faults are to meet that, from the block's first second on."""
    if not setting.rolls:
        yield
        return
    n_reloads, versions = server.n_reloads, list[int]()

    def begin() -> None:
        versions.append(add_same_version(setting.repository))
        server.request_reload()

    timer = threading.Timer(setting.rng.random(), begin)
    timer.start()
    try:
        yield
    finally:
        timer.join()
    wait_until(lambda: server.n_reloads > n_reloads, RELOAD_S)
    with QAClient(server.url, connect_timeout_s=TIMEOUT_S) as client:

        def is_done() -> bool:
            return client.ask(*setting.items[0], timeout_s=TIMEOUT_S).model_version == str(versions[0])

        if not is_done():  # its load met the fault, which was told: whoever reads that asks again
            verdict.figures["asked again"] = verdict.figures.get("asked again", 0) + 1
            server.request_reload()
        took = wait_until(is_done, RELOAD_S)
    verdict.require(took is not None, f"a roll-over amid the fault was not done within {RELOAD_S:g} s after it")
    verdict.figures["roll-overs amid"] = verdict.figures.get("roll-overs amid", 0) + (took is not None)


def differs(answer: object, expected: Answer) -> str:
    """Say how an answer differs from what it must be, offsets and texts of every span; empty where it does not."""
    if not isinstance(answer, Answer):
        return f"{type(answer).__name__}: {answer}"
    got, right = [
        ([(s.text, s.char_start, s.char_end) for s in one.spans], one.has_answer) for one in (answer, expected)
    ]
    return "" if got == right else f"answered {got}, must be {right}"


class Load:
    """Questions through our client, as many at a time as told, spread over at least some seconds.

    Every item is asked once, in a thread, until all are asked or the block is left.

    Args:
        url: The server.
        items: What to ask, again and again where `endless`.
        expected: What must be answered.
        model_name: The entry.
        pace_s: Seconds between two questions at least; PACE_S by default.
        endless: Whether to begin anew after the last one.
        timeout_s: For each question.
    """

    def __init__(
        self,
        url: str,
        items: Sequence[Item],
        expected: Sequence[Answer],
        *,
        model_name: str = contract.QUESTION_ANSWERING,
        pace_s: float | None = None,
        endless: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._items, self._expected, self._endless = items, expected, endless
        self._pace_s = PACE_S if pace_s is None else pace_s
        self._timeout_s = timeout_s
        self._client = QAClient(url, model_name=model_name, connect_timeout_s=timeout_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-load", daemon=True)
        self.n_sent, self.n_answered, self.longest_s = 0, 0, 0.0
        self.latencies_ms: list[float] = []
        self._is_given_up = False
        self.wrong: list[str] = []
        self.versions: set[str] = set()

    def _paced(self) -> Iterator[Item]:
        start = time.monotonic()
        while True:
            for item in self._items:
                if self._stop.wait(max(0.0, start + self.n_sent * self._pace_s - time.monotonic())):
                    return
                self.n_sent += 1
                yield item
            if not self._endless:
                return

    def _run(self) -> None:
        answers = self._client.ask_many(
            self._paced(), concurrency=CONCURRENCY, on_error="return", timeout_s=self._timeout_s
        )
        try:
            for place, answer in enumerate(answers):
                wrong = differs(answer, self._expected[place % len(self._expected)])
                if wrong:
                    self.wrong.append(f"question {place}: {wrong}")
                if isinstance(answer, Answer):
                    self.longest_s = max(self.longest_s, answer.latency_ms / 1e3)
                    self.latencies_ms.append(answer.latency_ms)
                    self.versions.add(answer.model_version)
                self.n_answered += 1
        except Exception as error:  # a thread's error would else be lost
            self.wrong.append(f"the client failed: {type(error).__name__}: {error}")

    @property
    def is_done(self) -> bool:
        """Whether all was asked and answered."""
        return not self._thread.is_alive()

    def wait_for_more(self, n_more: int = 2 * CONCURRENCY, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until so many more questions are answered, or all are, or not in time, which is noted once."""
        wanted, deadline = self.n_answered + n_more, time.monotonic() + timeout_s
        while self.n_answered < wanted and not self.is_done and not self._is_given_up:
            if time.monotonic() > deadline:
                self.wrong.append(f"no {n_more} questions were answered within {timeout_s:g} s")
                self._is_given_up = True
            time.sleep(0.02)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S + 10)
        if self._thread.is_alive():
            self.wrong.append("questions in flight never ended")
        self._client.close()

    def judge(self, verdict: Verdict, *, name: str = "questions") -> None:
        """Note what was asked, and require that each was answered once and rightly."""
        verdict.figures[name] = self.n_answered
        verdict.figures["longest s"] = round(max(self.longest_s, verdict.figures.get("longest s", 0.0)), 1)
        verdict.require(self.n_answered, "nothing was answered")
        verdict.require(self.n_sent == self.n_answered, f"{self.n_sent} asked, {self.n_answered} answered")
        verdict.require(not self.wrong, f"{len(self.wrong)} wrong: {self.wrong[:2]}")


def wait_until(condition: Callable[[], Any], timeout_s: float) -> float | None:
    """Wait until a condition holds; give the seconds that it took, or None where it did not in time."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            return None
        time.sleep(0.02)
    return time.monotonic() - start


def stop_timed(server: Server, verdict: Verdict) -> None:
    """Stop a server that is asked nothing any more, and require that it stops soon and leaves nothing."""
    pids = [server.triton_pid, *(stub.pid for stub in server.stubs())]
    start = time.monotonic()
    server.stop()
    seconds = time.monotonic() - start
    verdict.figures["stop s"] = round(seconds, 1)
    verdict.require(seconds <= STOP_S, f"the stop took {seconds:.1f} s, allowed are {STOP_S:g}")
    verdict.require(not any(map(is_running, pids)), "processes were left")


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def stopped(pid: int, seconds: float) -> Iterator[None]:
    """Stop a process with SIGSTOP while a block lasts, and at least for some seconds."""
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    try:
        yield
        time.sleep(max(0.0, start + seconds - time.monotonic()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
