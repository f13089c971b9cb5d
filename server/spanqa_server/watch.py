"""Looking after a running Triton: are its Python processes alive, does it answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from spanqa import contract
from spanqa_server.control import CanaryAnswer, Control
from spanqa_server.drain import drain
from spanqa_server.errors import ServerLostError
from spanqa_server.launch import TritonProcess
from spanqa_server.processes import Stub, end_of, is_stopped, is_uncollected, stubs_of
from spanqa_server.quiet import Leftovers
from spanqa_server.repository import ENTRIES
from spanqa_server.settings import ServerSettings

RESCAN_S = 2.0
"""How often Triton's processes are listed anew, for models that somebody else has loaded."""
RETIRED_S = 60.0
"""How long the healthy siblings of a dead process may take to finish before they are ended."""
COLLECTED_WITHIN_S = 1.0
"""Triton collects a process that it has ended itself far sooner."""
EXIT_0 = "exit status 0"
"""How a process ends that Triton has told to, and hardly one that died."""
STOPPED_S = 0.5
"""How long a Python process may be stopped by a signal; Triton takes it for dead after a second."""
MAX_STRIKES = 3
"""Canaries lost in a row, with nothing else answered meanwhile, before Triton is started anew."""
LAST_QUESTION_S = 1.0
"""What a question may still take that arrives when Triton is to be started anew."""
NETWORK = "the network"
"""Beside the names of models: what the main entry's own network has read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a Triton must be started anew.

    Args:
        cause: In one sentence.
        is_death: Whether a process ended, which may happen to a Triton that is well; else it hangs or lies.
    """

    cause: str
    is_death: bool


class Watch:
    """Looks at one Triton again and again, and loads a model again whose Python process has died.

    Args:
        process: The Triton.
        control: A connection to it.
        settings: How often and how long the canary is asked.
        report: Called with one line for each thing mended.
        has_build: Says whether the files of what is served still lie in the repository.
    """

    def __init__(
        self,
        process: TritonProcess,
        control: Control,
        settings: ServerSettings,
        report: Callable[[str], None],
        has_build: Callable[[], bool],
    ) -> None:
        self._process = process
        self._control = control
        self._settings = settings
        self._report = report
        self._has_build = has_build
        self._stubs: dict[int, Stub] = {stub.pid: stub for stub in stubs_of(process.pid)}
        self._retired: dict[int, float] = {}
        self._ended_at: dict[int, float] = {}
        self._exited_at: dict[int, float] = {}
        self._stopped_at: dict[int, float] = {}
        self._rescan_at = time.monotonic() + RESCAN_S
        self._canary_at = time.monotonic() + settings.canary_interval_s
        self._canary = threading.Thread()
        self._answer = CanaryAnswer(problem=None, may_be_busy=False)
        self._n_strikes = 0
        self._n_answered: dict[str, int] = {}
        self._n_recoveries = 0
        self._leftovers = Leftovers(process.pid, settings.quiet_s)
        self._n_canaries = 0

    def take_recoveries(self) -> int:
        """Return how many models were loaded again since this was last asked."""
        n_recoveries, self._n_recoveries = self._n_recoveries, 0
        return n_recoveries

    def _n_asked(self) -> int | None:
        answered = self._control.n_answered()
        return sum(answered.get(name, 0) for name in ENTRIES) - self._n_canaries if answered else None

    def is_entry_dead(self) -> bool:
        """Say whether the process of a model that clients ask has died: what it had accepted is lost.

        To be asked again and again: a process that Triton ended itself is seen as well, until Triton collects it.
        """
        now = time.monotonic()
        ended = [stub.pid for stub in self._stubs.values() if stub.model in ENTRIES and is_uncollected(stub.pid)]
        self._ended_at = {pid: self._ended_at.get(pid, now) for pid in ended}
        return any(now - ended_at > COLLECTED_WITHIN_S for ended_at in self._ended_at.values())

    def end_retired(self) -> None:
        """End the processes that were replaced together with a dead one: Triton would wait for them when it stops."""
        for pid in self._retired:
            self._process.end_stub(pid)
        self._retired.clear()

    def look(self) -> Loss | None:
        """Look once, and mend what a reload mends.

        Returns:
            Why Triton must be started anew, or None.
        """
        self._end_stopped()
        # Triton collects the processes that it ends itself. One that nobody has collected ended by itself.
        dead = {stub.model: stub.pid for stub in self._stubs.values() if self._has_died(stub.pid)}
        if contract.QUESTION_ANSWERING in dead:
            # It answers each request when it is done. What it had accepted would never be answered, and Triton tells
            # nobody: when Triton ends, its connections do, and every sender knows to ask again.
            end = end_of(dead[contract.QUESTION_ANSWERING])
            cause = f"the Python process of the model {contract.QUESTION_ANSWERING!r} died ({end})"
            return Loss(cause=cause, is_death=True)
        try:
            for model, pid in dead.items():
                self._reload(model, pid)
        except ServerLostError as error:
            return Loss(cause=str(error), is_death=False)
        now = time.monotonic()
        if dead or now > self._rescan_at:
            self.rescan()
        return self._clear_leftovers() or self._look_at_canary(now)

    def _has_died(self, pid: int) -> bool:
        """Say whether a process ended by itself: one that Triton ends exits with 0, and is collected soon."""
        if not is_uncollected(pid):
            self._exited_at.pop(pid, None)
            return False
        exited_at = self._exited_at.setdefault(pid, time.monotonic())
        return end_of(pid) != EXIT_0 or time.monotonic() - exited_at > COLLECTED_WITHIN_S

    def _end_stopped(self) -> None:
        """End processes that were stopped, before Triton gives their requests up: it crashes when they then go on."""
        now = time.monotonic()
        stopped = [pid for pid in self._stubs if is_stopped(pid)]
        self._stopped_at = {pid: self._stopped_at.get(pid, now) for pid in stopped}
        for pid, since in self._stopped_at.items():
            if now - since > STOPPED_S:
                self._process.end_stub(pid)

    def _clear_leftovers(self) -> Loss | None:
        n_dead = self._leftovers.n_to_clear(self._n_asked)
        if not n_dead:
            return None
        # A question that arrives just now is still answered, or told to ask again.
        drain(self._control, ENTRIES, timeout_s=LAST_QUESTION_S, is_abandoned=lambda: False)
        processes = "a dead Python process" if n_dead == 1 else f"{n_dead} dead Python processes"
        return Loss(cause=f"Triton holds {processes} and has nothing to do", is_death=True)

    def _reload(self, model: str, pid: int) -> None:
        end = end_of(pid)
        if not self._has_build():
            raise ServerLostError(f"the Python process of the model {model!r} died ({end}) and its files are gone")
        seconds = self._control.reload(model)
        for stub in [stub for stub in self._stubs.values() if stub.model == model]:
            del self._stubs[stub.pid]
            self._retired[stub.pid] = time.monotonic() + RETIRED_S
        self._n_recoveries += 1
        self._report(f"the Python process of the model {model!r} died ({end}): loaded it again in {seconds:.1f} s")

    def rescan(self) -> None:
        """List Triton's processes anew: one that is not known is not missed when it dies."""
        now = time.monotonic()
        for pid in [pid for pid, deadline in self._retired.items() if now > deadline]:
            del self._retired[pid]
            self._process.end_stub(pid)
        living = {stub.pid: stub for stub in stubs_of(self._process.pid)}
        uncollected = {pid: stub for pid, stub in self._stubs.items() if is_uncollected(pid)}
        self._stubs = uncollected | {pid: stub for pid, stub in living.items() if pid not in self._retired}
        self._rescan_at = now + RESCAN_S

    def _look_at_canary(self, now: float) -> Loss | None:
        if self._canary.is_alive() or now < self._canary_at:
            return None
        cause = self._judge_canary() if self._canary.ident else None
        self._canary = threading.Thread(target=self._ask_canary, name="spanqa-canary", daemon=True)
        self._canary.start()
        self._canary_at = now + self._settings.canary_interval_s
        return None if cause is None else Loss(cause=cause, is_death=False)

    def _ask_canary(self) -> None:
        # Not in the supervisor's own thread: while a busy server makes it wait, dead processes must still be seen.
        self._answer = self._control.ask_canary(self._settings.canary_timeout_s)
        self._n_canaries += self._answer.problem is None

    def _judge_canary(self) -> str | None:
        # A busy server may refuse the canary or keep it waiting, but reads windows meanwhile: in the entry itself or by
        # encoders. Triton counts an entry's refusals as answers: they tell nothing.
        n_answered = self._control.n_answered(self._settings.canary_timeout_s)
        if n_answered:  # a Triton that does not say this says nothing else either, and each question costs seconds
            n_answered[NETWORK] = self._control.n_tokens_read()
        works = any(n > self._n_answered.get(name, n) for name, n in n_answered.items() if name not in ENTRIES)
        is_well = self._answer.problem is None or (self._answer.may_be_busy and works)
        self._n_answered = n_answered
        self._n_strikes = 0 if is_well else self._n_strikes + 1
        if self._n_strikes < MAX_STRIKES:
            return None
        return f"Triton has not answered {self._n_strikes} test questions in a row ({self._answer.problem})"

    def close(self) -> None:
        """Wait for the canary that is under way; Triton has ended, so it ends at once."""
        if self._canary.ident:
            self._canary.join(self._settings.canary_timeout_s)
