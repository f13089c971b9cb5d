"""A whole batch: its folder, whoever answers, what stops it, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spanqa.errors import SpanqaError
from spanqa_client.batch.askers import Asker, Plan
from spanqa_client.batch.folder import Fingerprint, open_failures, open_folder, write_summary
from spanqa_client.batch.rows import Settled
from spanqa_client.batch.work import Collector, Tally, Task, answer_all
from spanqa_client.batch.workers import WorkerPool

Settle = Callable[[Settled], bool]
"""Takes a settled row, and says whether it is the first time."""
Work = Callable[[Task, Settle, Callable[[int], bool]], None]
"""Settles all rows of a task; the last argument says whether a row was not settled yet."""


def run_batch(
    task: Task, work: Work, fingerprint: Fingerprint, *, resume: bool, on_settled: Callable[[], object]
) -> tuple[Tally, dict[str, Any]]:
    """Do a batch, or what an interrupted run has left of it.

    Args:
        task: What is to be answered.
        work: Answers it.
        fingerprint: What a run that goes on must have in common with this one.
        resume: Whether to go on with what is in the folder.
        on_settled: Called after each row.

    Returns:
        What it came to, and the same as JSON values.

    Raises:
        SpanqaError: It cannot be begun, or not be done to its end; what is answered until then stays.
        KeyboardInterrupt: It was interrupted; the same holds.
    """
    folder = Path(task.folder)
    stopped: SpanqaError | KeyboardInterrupt | None = None
    with open_folder(folder, fingerprint, resume=resume):
        with open_failures(folder) as write:
            collector = Collector(task.parts, write)

            def settle(row: Settled) -> bool:
                is_new = collector.settle(row)
                if is_new:
                    on_settled()
                return is_new

            try:
                work(task, settle, collector.lacks)
            except (SpanqaError, KeyboardInterrupt) as error:
                stopped = error
            collector.finish()
        summary = collector.tally.summary(complete=stopped is None)
        write_summary(folder, summary)
    if isinstance(stopped, SpanqaError):
        raise SpanqaError(f"{stopped}: what is answered is in {folder}: go on with --resume") from stopped
    if stopped:
        raise stopped
    return collector.tally, summary


def work_here(plan: Plan, n_workers: int | None) -> Work:
    """Answer on this machine.

    Args:
        plan: How.
        n_workers: Worker processes; None for this process alone.
    """

    def work(task: Task, settle: Settle, _lacks: Callable[[int], bool]) -> None:
        with _asker(plan, n_workers) as asker:
            answer_all(asker, task.items(), settle)

    return work


def work_on_ray(plan: Plan, n_workers: int | None, address: str) -> Work:
    """Answer by actors of Ray's.

    Args:
        plan: How each of them does.
        n_workers: Actors; None for one on each CPU.
        address: As `ray_cluster.connected`.
    """
    from spanqa_client.batch import ray_cluster

    def work(task: Task, settle: Settle, lacks: Callable[[int], bool]) -> None:
        with ray_cluster.connected(address, n_workers or 1):
            # Only now, as Ray reads its settings when it is imported.
            from spanqa_client.batch.ray_data import answer_on_ray

            answer_on_ray(task, plan, n_workers or ray_cluster.n_cpus(), settle, lacks)

    return work


@contextmanager
def _asker(plan: Plan, n_workers: int | None) -> Iterator[Asker]:
    asker: Asker = plan.open() if n_workers is None else WorkerPool(plan, n_workers)
    try:
        yield asker
    finally:
        asker.close()
