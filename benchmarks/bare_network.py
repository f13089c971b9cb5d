"""The served network alone in ONNX Runtime: the yardstick of the serving benchmark."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from spanqa import contract
from spanqa.windows import Batch, Windows, batch_windows

_OUTPUTS = [tensor.name for tensor in contract.ENCODER_OUTPUTS]


def session_of(path: Path, *, n_threads: int, is_spinning: bool) -> onnxruntime.InferenceSession:
    """Load a network for calls of `n_threads` threads each, which may spin while they wait for work."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(is_spinning)))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_batch(session: onnxruntime.InferenceSession, batch: Batch) -> None:
    """Run one batch; the logits are dropped."""
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    feeds = {tensor.name: array for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)}
    session.run(_OUTPUTS, feeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run windows through the bare network.

    Args:
        n_sessions: Calls side by side.
        n_threads: Threads of each call.
        rows: Windows in a batch.
    """

    n_sessions: int
    n_threads: int
    rows: int

    def __str__(self) -> str:
        return f"{self.n_sessions} x {self.n_threads} threads, batches of {self.rows}"


def ways(n_cores: int, rows: Sequence[int]) -> list[Way]:
    """All ways to try: one call on all cores, or one call on each, with every batch size."""
    kinds = dict.fromkeys([(1, n_cores), (n_cores, 1)])
    return [Way(n_sessions=n, n_threads=threads, rows=size) for n, threads in kinds for size in rows]


class BareNetwork:
    """Windows of many questions, sorted by length once, and run in batches as often as asked.

    Args:
        path: The network.
        all_windows: Windows of each question.
    """

    def __init__(self, path: Path, all_windows: Sequence[Windows]) -> None:
        self._path = path
        rows = [(windows, index) for windows in all_windows for index in range(len(windows))]
        self._rows = sorted(rows, key=lambda row: -int(row[0].seq_lengths[row[1]]))

    def seconds(self, way: Way) -> float:
        """Time one pass over all windows; loading, warming up and making the batches are not counted."""
        batches = [batch_windows(self._rows[low : low + way.rows]) for low in range(0, len(self._rows), way.rows)]
        sessions = [
            session_of(self._path, n_threads=way.n_threads, is_spinning=way.n_threads > 1)
            for _ in range(way.n_sessions)
        ]
        for session in sessions:
            run_batch(session, batches[0])
        waiting = iter(batches)
        lock = threading.Lock()

        def work(session: onnxruntime.InferenceSession) -> None:
            while True:
                with lock:
                    batch = next(waiting, None)
                if batch is None:
                    return
                run_batch(session, batch)

        threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began
