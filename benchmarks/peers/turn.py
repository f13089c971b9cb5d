"""A turn of a peer, seen from inside the peer's process; the standard library alone, as it runs in every environment.

`benchmarks/peers.py` starts one script of this folder for each turn, with a task file. The script loads, says that it
is ready, and waits; while it then answers, the other side counts its processes' CPU time and memory. Its answers go
back when it is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Question = tuple[str, str]
"""Question and context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a peer says to one question.

    Args:
        text: The answer, empty for none.
        margin: Null score minus the best span's, where the peer tells it.
        best: The best span's text, whether or not it is the answer, where the peer tells it.
        start: Where the best span (or else the answer) starts in the context, in code points.
    """

    text: str
    margin: float | None = None
    best: str | None = None
    start: int = -1


@dataclass(slots=True)
class Turn:
    """The task, and the line to whoever gave it.

    Args:
        task: The task file's content: see `benchmarks/peer_turn.py`.
        latencies_ms: Time of each question that was asked alone, or in flight with others.
        seconds: Time of all questions.
        loading_cpu_s: CPU time after `ready` that was loading, not answering.
    """

    task: dict[str, Any]
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    loading_cpu_s: float = 0.0
    _out: Any = None

    @classmethod
    def taken(cls) -> Turn:
        """Read the task that the command line names; what libraries print goes to stderr from here on."""
        with open(sys.argv[1], encoding="utf-8") as file:
            task = json.load(file)
        out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(task, _out=out)

    @property
    def questions(self) -> list[Question]:
        """What is asked and timed."""
        return [(question, context) for question, context in self.task["questions"]]

    @property
    def warm_up(self) -> list[Question]:
        """Other questions, to ask before the clock starts."""
        return [(question, context) for question, context in self.task["warm_up"]]

    def ready(self, **about: Any) -> None:
        """Say that everything is loaded and warm, and wait for the start; `about` is kept with the figures."""
        self._say({"ready": about})

    def done(self, said: Sequence[Said] = ()) -> None:
        """Hand over the figures and the answers, and wait until processes have been looked at."""
        rows = [(one.text, one.margin, one.best, one.start) for one in said]
        names = ("seconds", "latencies_ms", "loading_cpu_s")
        self._say({name: getattr(self, name) for name in names} | {"said": rows})

    def one_by_one(self, ask: Callable[[str, str], Said]) -> list[Said]:
        """Ask each question alone, and time it."""
        said = []
        self.latencies_ms = []
        began = time.perf_counter()
        for question, context in self.questions:
            asked = time.perf_counter()
            said.append(ask(question, context))
            self.latencies_ms.append((time.perf_counter() - asked) * 1e3)
        self.seconds = time.perf_counter() - began
        return said

    def all_at_once(self, answer: Callable[[list[Question]], list[Said]]) -> list[Said]:
        """Hand over all questions, and time the whole."""
        questions = self.questions
        began = time.perf_counter()
        said = answer(questions)
        self.seconds = time.perf_counter() - began
        return said

    def _say(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._out, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("nobody waits for the figures any more")


def fastest(choices: Sequence[Any], seconds: Callable[[Any], float]) -> Any:
    """Give the choice that takes the least seconds: the three best of a first trial are tried again."""
    first = [(seconds(choice), index) for index, choice in enumerate(choices)]
    again = [(min(took, seconds(choices[index])), index) for took, index in sorted(first)[:3]]
    return choices[min(again)[1]]
