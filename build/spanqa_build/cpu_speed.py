"""How fast each network runs on the machine that builds: windows a second, the sides taking turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from spanqa.windows import Batch, Windows, batch_windows
from spanqa_build.parity import run_onnx, session_from_onnx

N_WINDOWS = 120
"""Windows of a round: some seconds for a small network, and enough that lengths average out."""
N_ROUNDS = 3


def sampled_batches(all_windows: Sequence[Windows], *, n_windows: int = N_WINDOWS) -> list[Batch]:
    """Take windows evenly from a dataset, one a batch and unpadded, as the CPU encoder runs them.

    Args:
        all_windows: Windows of each question.
        n_windows: Most windows taken.
    """
    rows = [(windows, index) for windows in all_windows for index in range(len(windows))]
    step = max(1, len(rows) // n_windows)
    return [batch_windows([row]) for row in rows[::step][:n_windows]]


def windows_per_s(networks: Mapping[str, Path], batches: Sequence[Batch]) -> dict[str, float]:
    """Time networks on all cores.

    Args:
        networks: ONNX files by name.
        batches: What each is run on.

    Returns:
        Windows a second of each: the median of N_ROUNDS rounds. In a round every network runs once, so that a machine
        that slows down slows all of them.
    """
    sessions = {name: session_from_onnx(path) for name, path in networks.items()}
    n_windows = sum(len(batch.input_ids) for batch in batches)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(-1, N_ROUNDS):
        for name, session in sessions.items():
            started = time.perf_counter()
            for batch in batches[: 5 if number < 0 else None]:
                run_onnx(session, batch)
            if number >= 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return {name: n_windows / median(taken) for name, taken in seconds.items()}
