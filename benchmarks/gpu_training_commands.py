"""What gpu_training.py runs as commands, the tests and the recipe: nothing of them outlives the time they have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_setting import ROOT

from spanqa_build.termination import terminable

TESTS = ROOT / "tests"
RECIPE = ROOT / "training" / "recipes" / "minilm.sh"
GRACE_S = 30.0
"""For a training that is told to end to save its state."""
SAID_LINES = 5
_POLL_S = 0.1


def gpu_tests(device: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU; without one, count them.

    Args:
        device: "cuda" or "cpu".
        folder: What they say goes into its tests.log.
        seconds: What they may take.

    Returns:
        The exit status, the last lines, and under `failed` why they are no success, if so.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS)]
    if device == "cpu":
        command += ["--collect-only"]
    return _ended(command, folder / "tests.log", seconds, where=ROOT)


def recipe(data: Path, held_out: Sequence[Path], folder: Path, seconds: float) -> dict[str, Any]:
    """Train the default model; what was done in time stays, and the same command goes on with it.

    Args:
        data: The folder of datasets that the recipe's head names.
        held_out: Datasets of which no passage is trained on.
        folder: The results go into its folder recipe, and what the recipe says into its recipe.log.
        seconds: What it may take.

    Returns:
        The exit status, the last lines, and under `failed` why it is no success, if so.
    """
    command = [str(path) for path in (RECIPE, data, folder / "recipe", *held_out)]
    return _ended(command, folder / "recipe.log", seconds)


def _ended(command: Sequence[str], log: Path, seconds: float, *, where: Path | None = None) -> dict[str, Any]:
    """Run a command in a process group of its own, all of which is ended when the time is over."""
    seconds = max(1.0, seconds)
    log.parent.mkdir(parents=True, exist_ok=True)
    # The recipe calls `python` and `spanqa`: those of the environment that runs this.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    print(f"gpu_training: what it says goes to {log}", file=sys.stderr, flush=True)
    with terminable(), log.open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # Ctrl-C and SIGTERM do not reach another session: they are passed on
            if process.returncode is None:
                _end_group(process)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-SAID_LINES:]
    found: dict[str, Any] = {"exit": status, "said": last}
    if status != 0:
        why = f"stopped after {seconds:.0f} s, what was done stays" if status is None else f"exit {status}"
        found["failed"] = f"{why}: {' / '.join(last) or 'nothing was said'}"
    return found


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Tell all processes of a group to end, which has a training save its state; kill those that do not."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            process.poll()  # its own head is among the group until it is waited for
            os.killpg(process.pid, 0)
            time.sleep(_POLL_S)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # none is left
        pass
    process.wait()
