"""A run whose processes torchrun started, on one machine or on several: how they meet, and how they end together."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from torch import distributed

from spanqa.errors import SpanqaError
from spanqa.files import write_atomically
from spanqa_training.errors import RunError
from spanqa_training.run.heartbeat import FAILURE, Heartbeat
from spanqa_training.run.launch import accelerator_of, precision_of
from spanqa_training.run.place import Place
from spanqa_training.spec.schema import Spec

EXIT_LOST = 2
_PREFIX = "spanqa"
_POLL_S = 0.1
_MEET_S = 600.0
"""Seconds within which all processes must have come."""
_FIRST_PATIENCE_S = 60.0
"""Before the spec is read, which says how long a process may be silent."""
_COLLECTIVE_S = 1800.0
"""torch's own default; whoever is dead is noticed by the signs of life long before."""
_RESUMES = "the same command on every node resumes from the last saved state"


class NodeRun(Protocol):
    """What is known of a run before its processes meet."""

    @property
    def spec(self) -> Spec:
        """Its spec."""

    @property
    def origin(self) -> Mapping[str, str]:
        """SHA-256 of what it starts from, by name."""

    @property
    def results(self) -> Path:
        """The folder of results."""


Run = TypeVar("Run", bound=NodeRun)
Result = TypeVar("Result")


def run_on_nodes(
    place: Place, prepare: Callable[[], Run], function: Callable[[Fabric, Run], Result]
) -> tuple[Run, Result]:
    """Call `function(fabric, run)` as one of the processes of a run.

    The first process prepares alone, the others after it; so they find what it wrote into the folder that all share.
    Where one dies, falls silent or fails, all end, and one process of each node says why.

    Args:
        place: Which process this is.
        prepare: Makes the run.
        function: Trains.

    Returns:
        The run, and what the function returned.

    Raises:
        RunError: The processes do not meet. What ends a run after that ends the process.
    """
    store = _met(place)
    heart = Heartbeat(
        (place.host, place.port),
        f"{_PREFIX}/{place.attempt}",
        rank=place.rank,
        world_size=place.world_size,
        patience_s=_FIRST_PATIENCE_S,
        on_lost=lambda message, own: _end(message, own, place),
    )
    heart.start()
    try:
        run = _prepared(place, store, prepare)
        heart.patience_s = run.spec.trainer.lost_after_s
        result = function(_fabric(place, store, run), run)
        _leave(place, store, heart)
    except BaseException as error:
        reason = _reason(error, store)
        if reason is None:
            heart.stop()
            raise
        _exit(reason if _is_told_here(store, place) else "")
    return run, result


def _met(place: Place) -> Any:
    """The store that all processes see: torchrun's, or the first process's."""
    try:
        store, _, _ = next(distributed.rendezvous("env://", timeout=timedelta(seconds=_MEET_S)))
    except RuntimeError as error:
        raise RunError(f"nobody answers at {place.host}:{place.port} (MASTER_ADDR, MASTER_PORT): {error}") from error
    return distributed.PrefixStore(f"{_PREFIX}/{place.attempt}", store)


def _prepared(place: Place, store: Any, prepare: Callable[[], Run]) -> Run:
    """Prepare, the first process before the others, and see that all have the same files and one folder of results."""
    if place.rank:
        _wait(store, ["prepared"])
    run = prepare()
    origin = sorted(run.origin.items())
    if not place.rank:
        # A name that no file system can remember as missing.
        mark = f".met-{uuid.uuid4().hex}"
        write_atomically(run.results / mark, "", make_folder=True)
        store.set("prepared", json.dumps([mark, origin]))
        try:
            _wait(store, [f"ready/{rank}" for rank in range(1, place.world_size)])
        finally:
            (run.results / mark).unlink(missing_ok=True)
        return run
    mark, wanted = json.loads(store.get("prepared"))
    if [list(pair) for pair in origin] != wanted:
        raise RunError(
            f"node {place.node} has other data or another base model than node 0: give every node the same files"
        )
    if not (run.results / mark).exists():
        raise RunError(f"{run.results}: is another folder on node {place.node} than on node 0: give one that all share")
    store.set(f"ready/{place.rank}", "")
    return run


def _wait(store: Any, keys: list[str]) -> None:
    """Wait for other processes; what ends one of them ends this one too."""
    while not store.check(keys):
        if store.check([FAILURE]):
            raise RunError(store.get(FAILURE).decode())
        time.sleep(_POLL_S)


def _fabric(place: Place, store: Any, run: NodeRun) -> Fabric:
    trainer = run.spec.trainer
    wanted = dataclasses.replace(trainer, gpus=trainer.gpus if trainer.gpus == 0 else place.local_world_size)
    accelerator = accelerator_of(wanted)
    is_cuda = accelerator == "cuda"
    distributed.init_process_group(
        "nccl" if is_cuda else "gloo",
        store=distributed.PrefixStore("group", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=_COLLECTIVE_S),
        device_id=torch.device("cuda", place.local_rank) if is_cuda else None,
    )
    precision: Any = precision_of(trainer, accelerator)
    fabric = Fabric(
        accelerator=accelerator,
        devices=place.local_world_size,
        num_nodes=place.n_nodes,
        strategy=DDPStrategy(cluster_environment=TorchElasticEnvironment()),
        precision=precision,
    )
    fabric.launch()
    return fabric


def _leave(place: Place, store: Any, heart: Heartbeat) -> None:
    """End well: the first process may hold the store, and goes last."""
    heart.stop()
    distributed.destroy_process_group()
    store.set(f"left/{place.rank}", "")
    if not place.rank:
        store.wait([f"left/{rank}" for rank in range(place.world_size)], timedelta(seconds=heart.patience_s))


def _reason(error: BaseException, store: Any) -> str | None:
    """What to say of an error: what another process said before, or that one was lost; None for one of our own making.

    The first that fails for a reason of its own leaves that to the others.
    """
    is_loss = isinstance(error, distributed.DistError) or "gloo" in str(error).lower() or "nccl" in str(error).lower()
    try:
        if isinstance(error, SpanqaError):
            store.compare_set(FAILURE, "", str(error))
            return str(error)
        if store.check([FAILURE]):
            return str(store.get(FAILURE).decode())
        if not is_loss:
            store.set(FAILURE, f"a process of the run failed ({type(error).__name__}): {_RESUMES}")
    except RuntimeError:  # the store is lost with the process that held it
        pass
    return f"another process of the run was killed, or its node was lost: {_RESUMES}" if is_loss else None


def _is_told_here(store: Any, place: Place) -> bool:
    """Whether this process is the first of its node that says why the run ends."""
    try:
        return int(store.add(f"told/{place.node}", 1)) == 1
    except RuntimeError:
        return True


def _end(message: str, own: Any, place: Place) -> NoReturn:
    """End this process from the thread that watches: its main thread waits for what will never come."""
    store = own and distributed.PrefixStore(f"{_PREFIX}/{place.attempt}", own)
    try:
        failed = bool(store and store.check([FAILURE]))
        message = store.get(FAILURE).decode() if failed else f"{message}: {_RESUMES}"
    except RuntimeError:
        message = f"{message}: {_RESUMES}"
    _exit(message if not store or _is_told_here(store, place) else "")


def _exit(message: str) -> NoReturn:
    """Say why, where it is to be said, and end at once: an orderly end would wait for processes that are gone."""
    if message:
        print(f"spanqa: error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_LOST)
