"""One turn of a peer of `peers.py`: a fresh process, its speed, the CPU time and memory of all that it started.

Every turn is a process of its own, so nothing runs beside the peer whose turn it is, no peer finds anything that an
earlier turn left in a cache, and each peer's memory is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from peer_environments import PeerError

SCRIPTS = Path(__file__).resolve().parent / "peers"
LIMIT_S = 3600.0
"""A turn that takes longer has hung."""
STOP_S = 90.0
"""What a peer may take to end after it was asked to; Triton drains."""
SAMPLE_S = 0.5
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_MIB = 2**20
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Everyone may use every core, whatever the shell says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one turn gave.

    Args:
        about: What the peer says of itself: versions, threads, what it found to be fastest.
        seconds: Time of all questions.
        latencies_ms: Time of each question, where questions were asked one by one or in flight.
        said: For each question the answer's text, the margin or None, the best span's text or None, and its start.
        cpu_s: CPU time of the peer's process and of all its children, loading excluded.
        peak_mib: Most memory of all of them together.
        memory: "PSS", or "RSS" where the system does not tell shared pages apart.
    """

    about: Mapping[str, Any]
    seconds: float
    latencies_ms: Sequence[float]
    said: Sequence[tuple[str, float | None, str | None, int]]
    cpu_s: float
    peak_mib: float
    memory: str


def _family(root: int) -> list[tuple[int, float]]:
    """Process ids of a process and all below it, with the CPU seconds of each and of its dead children."""
    parents: dict[int, int] = {}
    cpu_s: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name stands in brackets and may hold anything; man 5 proc, /proc/pid/stat.
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        cpu_s[int(folder.name)] = sum(map(int, fields[11:15])) * _TICK_S

    def below(pid: int) -> Iterator[int]:
        yield pid
        for child, parent in parents.items():
            if parent == pid:
                yield from below(child)

    return [(pid, cpu_s[pid]) for pid in below(root) if pid in cpu_s]


def _cpu_s(root: int) -> float:
    return sum(seconds for _, seconds in _family(root))


def _resident_kib(pid: int) -> tuple[int, str]:
    for name, key in (("smaps_rollup", "Pss"), ("status", "VmRSS")):
        try:
            lines = Path(f"/proc/{pid}/{name}").read_text("utf-8").splitlines()
        except OSError:
            continue
        found = [int(line.split()[1]) for line in lines if line.startswith(f"{key}:")]
        if found:
            return found[0], key.removeprefix("Vm").upper()
    return 0, "PSS"


class _Memory(threading.Thread):
    """Looks twice a second at the memory of a process and all below it, and keeps the most."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._is_over = threading.Event()
        self.peak_mib = 0.0
        self.kind = "PSS"

    def run(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self._look()

    def over(self) -> None:
        """Look once more, and end."""
        self._is_over.set()
        self.join()
        self._look()

    def _look(self) -> None:
        resident = [_resident_kib(pid) for pid, _ in _family(self._root)]
        self.peak_mib = max(self.peak_mib, sum(kib for kib, _ in resident) * 1024 / _MIB)
        if any(kind == "RSS" for _, kind in resident):
            self.kind = "RSS"


def take_turn(python: Path | str, script: str, task: Mapping[str, Any]) -> Outcome:
    """Start a peer, let it answer, and end it.

    Args:
        python: The Python of the peer's environment.
        script: A file of benchmarks/peers.
        task: `questions` and `warm_up` ((question, context) pairs), `place` (what to load), `batch_size` (1: one by
            one), `n_threads`, `windows` (as Hugging Face counts), `found` (what the first turn found to be fastest).

    Raises:
        PeerError: It failed, or did not end in time.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS} | _QUIET
    # Scripts find bench_setting and bare_network there.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SCRIPTS.parent), environment.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="spanqa-peer-") as folder, (Path(folder) / "said").open("w+") as told:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps(task), "utf-8")
        worker = subprocess.Popen(
            [str(python), str(SCRIPTS / script), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            env=environment,
            text=True,
        )
        clock = threading.Timer(LIMIT_S, worker.send_signal, [signal.SIGINT])
        clock.start()
        try:
            return _watched(worker, told)
        except BaseException:
            worker.send_signal(signal.SIGINT)
            raise
        finally:
            clock.cancel()
            _end(worker)


def _watched(worker: subprocess.Popen[str], told: IO[str]) -> Outcome:
    about = _heard(worker, told)["ready"]
    memory = _Memory(worker.pid)
    memory.start()
    before_s = _cpu_s(worker.pid)
    try:
        _answer(worker)
        figures = _heard(worker, told)
        cpu_s = _cpu_s(worker.pid) - before_s
    finally:
        memory.over()
    _answer(worker)
    return Outcome(
        about=about,
        seconds=figures["seconds"],
        latencies_ms=figures["latencies_ms"],
        said=[(text, margin, best, start) for text, margin, best, start in figures["said"]],
        cpu_s=cpu_s - figures["loading_cpu_s"],
        peak_mib=memory.peak_mib,
        memory=memory.kind,
    )


def _heard(worker: subprocess.Popen[str], told: IO[str]) -> dict[str, Any]:
    """The worker's next message; where there is none, what it last said on stderr is the error."""
    line = cast(IO[str], worker.stdout).readline()
    if line:
        return dict(json.loads(line))
    told.seek(0)
    lines = [line.strip() for line in told.read().splitlines() if line.strip()]
    raise PeerError(f"it ended without figures: {lines[-1] if lines else 'it said nothing'}")


def _answer(worker: subprocess.Popen[str]) -> None:
    # A worker that is gone shows when it is listened to.
    with contextlib.suppress(OSError):
        cast(IO[str], worker.stdin).write("\n")
        cast(IO[str], worker.stdin).flush()


def _end(worker: subprocess.Popen[str]) -> None:
    """Let the worker end by itself, and kill it where it does not."""
    with contextlib.suppress(OSError):
        cast(IO[str], worker.stdin).close()
    try:
        worker.wait(STOP_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    cast(IO[str], worker.stdout).close()
