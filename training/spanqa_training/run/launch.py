"""One training run on one or several processes, each of which ends with the same model (Lightning Fabric)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric

from spanqa.cores import usable_cores
from spanqa_training.errors import RunError
from spanqa_training.spec.schema import PRECISIONS, TrainerSpec

Result = TypeVar("Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PORT = "MASTER_PORT"
_PORTS_TRIED = 3
_CORES = Path("/proc/cpuinfo")
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls the instructions: AVX-512's and AMX's, and ARM's."""
# Fabric announces every process that it starts.
for _name in ("lightning.fabric", "lightning.pytorch"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def accelerator_of(trainer: TrainerSpec) -> str:
    """Choose "cuda" or "cpu".

    Raises:
        RunError: GPUs are asked for that are not there.
    """
    n_gpus = torch.cuda.device_count()
    if trainer.accelerator == "cpu" or trainer.gpus == 0 or (not n_gpus and trainer.accelerator != "gpu"):
        return "cpu"
    wanted = trainer.gpus or 1
    if wanted > n_gpus:
        raise RunError(f"{wanted} GPUs are asked for and {n_gpus} are there: lower -g, or set trainer.accelerator=cpu")
    return "cuda"


def precision_of(trainer: TrainerSpec, accelerator: str) -> str:
    """Give Fabric's name of the precision: loss-scaled float16 exists on GPUs only.

    A CPU takes bfloat16 in its place where its cores multiply it; others emulate that, far slower than float32.
    """
    precision = PRECISIONS[trainer.precision]
    if precision != "16-mixed" or accelerator != "cpu":
        return precision
    return "bf16-mixed" if has_bfloat16() else "32-true"


def has_bfloat16(described: Path = _CORES) -> bool:
    """Say whether this machine's cores multiply bfloat16 by instructions of their own.

    Args:
        described: What Linux says of the cores; where it is not there, they are taken to have none.
    """
    try:
        lines = described.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return any(not _BFLOAT16.isdisjoint(of_core) for of_core in flags)


def run_processes(trainer: TrainerSpec, function: Callable[..., Result], *arguments: Any) -> Result | None:
    """Call `function(fabric, *arguments)` in every process of a run.

    One process is this one. Several are spawned: what they need, the key of encrypted weights too, reaches them through
    a pipe and never through a command line.

    Args:
        trainer: Says how many processes, on what, and how precisely.
        function: Importable by name, and what it returns free of tensors, where there are several processes.
        arguments: Picklable, where there are several processes.

    Returns:
        What the first process returned; None when the run was stopped by a signal before it could say so itself.

    Raises:
        RunError: A process failed or was killed.
    """
    accelerator = accelerator_of(trainer)
    precision: Any = precision_of(trainer, accelerator)
    n_processes = trainer.gpus or 1
    if n_processes == 1:
        return function(Fabric(accelerator=accelerator, devices=1, precision=precision), *arguments)
    # Ports and threads are per run: two runs on one machine must not meet, and each process has its share of the cores.
    threads = str(max(1, usable_cores() // n_processes))
    with _environment("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", threads)), _signals_to_children() as stopped:
        try:
            result: Result = _launched(
                lambda: Fabric(accelerator=accelerator, devices=n_processes, strategy="ddp_spawn", precision=precision),
                _Parcel(function, arguments),
            )
        except Exception as error:
            if stopped.is_set():
                return None
            raise _run_error(error) from error
    return result


class _Parcel:
    """A call on its way into another process, opaque to Fabric, which would walk through its arguments."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments


def _launched(fabric: Callable[[], Fabric], parcel: _Parcel) -> Any:
    """Launch processes, and again where another program took the port before they listened on it."""
    is_given = _PORT in os.environ
    for n_left in reversed(range(1 if is_given else _PORTS_TRIED)):
        try:
            return fabric().launch(_unpacked, parcel)  # type: ignore[arg-type]
        except Exception as error:
            if not n_left or "EADDRINUSE" not in str(error):
                raise
        finally:
            if not is_given:
                os.environ.pop(_PORT, None)  # Lightning leaves it there, for a run to come that must find its own
    return None


def _unpacked(fabric: Fabric, parcel: _Parcel) -> Any:
    return parcel.function(fabric, *parcel.arguments)


def _run_error(error: Exception) -> Exception:
    """The error of a spawned process as one sentence; what is none of ours is passed on."""
    name = type(error).__name__
    if name == "ProcessExitedException":
        return RunError(f"a training process was killed ({error}): the same command resumes from the last saved state")
    if name != "ProcessRaisedException":
        return error
    kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
    return RunError(message) if kind.startswith("spanqa") else error


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _signals_to_children() -> Iterator[threading.Event]:
    """Pass SIGINT and SIGTERM on to the spawned processes, which save their state and end."""
    stopped = threading.Event()

    def forward(_kind: int, _frame: object) -> None:
        stopped.set()
        for child in multiprocessing.active_children():
            child.terminate()

    with handled(forward):
        yield stopped


@contextmanager
def handled(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM in a stretch of code; elsewhere than in the main thread nothing is handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, handler) for kind in _SIGNALS}
    try:
        yield
    finally:
        for kind, old in before.items():
            signal.signal(kind, old)
