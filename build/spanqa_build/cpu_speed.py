"""How fast each network runs on the machine that builds: windows a second, the sides taking turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from spanqa.cores import usable_cores
from spanqa.windows import Batch, Windows, batch_windows
from spanqa_build.cpu_candidates import Candidate

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


def windows_per_s(candidates: Mapping[str, Candidate], batches: Sequence[Batch]) -> dict[str, float]:
    """Time networks as the CPU encoder runs them under load: side by side, each window on one core.

    Args:
        candidates: The networks by name.
        batches: What each is run on.

    Returns:
        Windows a second of each: the median of N_ROUNDS rounds. In a round every network runs once, so that a machine
        that slows down slows all of them.

    Raises:
        ParityError: A network cannot be loaded.
    """
    networks = {name: candidate.load(n_threads=1) for name, candidate in candidates.items()}
    n_windows = sum(len(batch.input_ids) for batch in batches)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for number in range(-1, N_ROUNDS):
            for name, network in networks.items():
                started = time.perf_counter()
                list(pool.map(network.run, batches[: 5 if number < 0 else None]))
                if number >= 0:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    return {name: n_windows / median(taken) for name, taken in seconds.items()}
