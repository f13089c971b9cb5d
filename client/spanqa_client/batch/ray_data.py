"""Answering on Ray Data: one task reads chunks of rows as they are wanted, actors answer them, this process writes.

A chunk is one row of Ray's, in JSON. What was lost with an actor is answered by another one; nothing is written but by
the process that has the batch's folder, so that an answer that comes twice does no harm.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from spanqa.errors import SpanqaError
from spanqa_client.batch.askers import Asker, Plan
from spanqa_client.batch.rows import Row, Settled
from spanqa_client.batch.work import Task

CHUNK_ROWS = 128
"""Ray takes some milliseconds for a chunk, the network seconds."""
_CHUNK_CHARS = 1_000_000
_SETTLED_IN_CHUNK = 5_000
_TRIES = 3
_CHUNKS_OF_ACTOR = 4
"""On their way to one actor or waiting there: those go with it where a chunk kills it each time it is tried."""
_LOST = "the actors that were to answer it died each time: is there enough memory?"


def answer_on_ray(
    task: Task, plan: Plan, n_workers: int, settle: Callable[[Settled], bool], lacks: Callable[[int], bool]
) -> None:
    """Have a task answered by actors, on the cluster that this process is connected to.

    Args:
        task: What is to be answered; its files and its folder are read on this machine.
        plan: How each actor answers.
        n_workers: Actors.
        settle: Takes settled rows, in any order, and says whether it is the first time.
        lacks: Says whether a row was not settled yet.

    Raises:
        SpanqaError: It makes no sense to go on.
    """
    n_settled, n_rows = 0, None
    batch: pa.Table
    try:
        for batch in _answered(task, plan, n_workers).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for text in batch["chunk"].to_pylist():
                made = json.loads(text)
                if made.get("fault"):
                    raise SpanqaError(made["fault"])
                n_rows = made.get("n_rows", n_rows)
                n_settled += sum(settle(Settled(*values)) for values in made["settled"])
    except RayError as error:
        raise SpanqaError(f"Ray gave up: {' '.join(str(error).split())[-500:]}") from error
    if n_rows is None:
        raise SpanqaError("the task of Ray's that reads the input has died")
    if n_settled < n_rows:
        for item in task.items():
            if lacks(item.number):
                settle(Settled(item.number, item.id, reason=_LOST))


def _answered(task: Task, plan: Plan, n_workers: int) -> Dataset:
    _configure(DataContext.get_current())
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to say how often something is tried, and announces one for 2.64.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        # Read a second time, chunks would leave out what is answered meanwhile, and be others than those on their way.
        chunks = ray.data.read_datasource(
            _Chunks(task, n_workers), num_cpus=0, override_num_blocks=1, ray_remote_args={"max_retries": 0}
        )
        return chunks.map_batches(
            Answering,
            fn_constructor_kwargs={"plan": plan},
            compute=ActorPoolStrategy(size=n_workers, max_tasks_in_flight_per_actor=_CHUNKS_OF_ACTOR),
            num_cpus=1,
            batch_size=None,
            batch_format="pyarrow",
            max_restarts=-1,
            max_task_retries=_TRIES,
        )


def _configure(context: DataContext) -> None:
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every chunk is a block, and a task of its own: a block takes what comes until it has this many bytes.
    context.target_max_block_size = 1
    context.target_min_block_size = 1
    # A chunk at which actors die is dropped, and noticed at the end.
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


class Answering:
    """What an actor does: it makes an asker when the first chunk comes, and answers chunk by chunk.

    Args:
        plan: How it answers.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._asker: Asker | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer some chunks; a fault that is no row's own is told to the process that drives."""
        return _table([self._answered(json.loads(text)) for text in batch["chunk"].to_pylist()])

    def _answered(self, chunk: dict[str, Any]) -> dict[str, Any]:
        rows = [Row(*values) for values in chunk.pop("rows")]
        try:
            self._asker = self._asker or self._plan.open()
            chunk["settled"] += [_values(settled) for settled in self._asker.ask(rows)]
        except SpanqaError as error:
            chunk["fault"] = str(error)
        except Exception as error:
            chunk["fault"] = f"an actor failed: {error!r}"
        return chunk


class _Chunks(Datasource):
    """Reads a task's rows on the machine that has its files, no further ahead than they are taken."""

    def __init__(self, task: Task, n_workers: int) -> None:
        super().__init__()
        self._task = task
        # The end must come through though the last rows kill an actor each, with all that waits for it.
        self._n_ends = n_workers * (_CHUNKS_OF_ACTOR - 1) + 1

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Read in one task, whatever is wanted, since ids are compared over all inputs."""
        task, n_ends = self._task, self._n_ends
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: (_table([chunk]) for chunk in _chunks(task.items(), n_ends)), unknown)]

    def estimate_inmemory_data_size(self) -> int | None:
        """Say that nobody knows."""
        return None

    @property
    def supports_distributed_reads(self) -> bool:
        """Whether any machine of the cluster may read: this one alone has the files for certain."""
        return False


def _chunks(items: Iterable[Row | Settled], n_ends: int) -> Iterator[dict[str, Any]]:
    """Rows, and beside them those that are settled already; the last chunks, with none, say how many there are."""
    rows: list[tuple[Any, ...]] = []
    settled: list[tuple[Any, ...]] = []
    n_chars = n_rows = 0
    for item in items:
        n_rows += 1
        if isinstance(item, Row):
            rows.append((item.number, item.id, item.question, item.context))
            n_chars += len(item.question) + len(item.context)
        else:
            settled.append(_values(item))
        if len(rows) >= CHUNK_ROWS or n_chars >= _CHUNK_CHARS or len(settled) >= _SETTLED_IN_CHUNK:
            yield {"rows": rows, "settled": settled}
            rows, settled, n_chars = [], [], 0
    yield {"rows": rows, "settled": settled}
    for _ in range(n_ends):
        yield {"rows": [], "settled": [], "n_rows": n_rows}


def _values(settled: Settled) -> tuple[Any, ...]:
    return settled.number, settled.id, settled.answer, settled.reason


def _table(chunks: list[dict[str, Any]]) -> pa.Table:
    return pa.table({"chunk": pa.array([json.dumps(chunk) for chunk in chunks], pa.large_string())})
