"""One client in a process of its own: what asking questions costs it, or how its memory grows over many of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from spanqa import contract
from spanqa.datasets import iter_dataset
from spanqa_client import AsyncQAClient, QAClient
from spanqa_client.options import Options
from spanqa_client.wire import raw_options

Item = tuple[str, str]
SLICES = 10
_DTYPES: dict[str, Any] = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


def ask_sync(url: str, items: Iterable[Item], in_flight: int, each: Callable[[], None]) -> None:
    """Ask with QAClient."""
    with QAClient(url) as client:
        for _ in client.ask_many(items, concurrency=in_flight):
            each()


def ask_asyncio(url: str, items: Iterable[Item], in_flight: int, each: Callable[[], None]) -> None:
    """Ask with AsyncQAClient."""

    async def ask() -> None:
        async with AsyncQAClient(url) as client:
            async for _ in client.ask_many(items, concurrency=in_flight):
                each()

    asyncio.run(ask())


def _inputs(module: Any, item: Item) -> list[Any]:
    """The six inputs that our client sends, as tritonclient's own tensors."""
    tensors = []
    for tensor, text in zip((contract.QUESTION, contract.CONTEXT), item, strict=True):
        tensors.append(module.InferInput(tensor.name, [1, 1], tensor.dtype))
        tensors[-1].set_data_from_numpy(np.array([[text.encode()]], np.object_))
    for tensor, raw in raw_options(Options()):
        tensors.append(module.InferInput(tensor.name, [1, 1], tensor.dtype))
        tensors[-1].set_data_from_numpy(np.frombuffer(raw, _DTYPES[tensor.dtype]).reshape(1, 1))
    return tensors


def _read(result: Any) -> None:
    for tensor in contract.OUTPUTS:
        result.as_numpy(tensor.name)


def ask_raw_callback(url: str, items: Iterable[Item], in_flight: int, each: Callable[[], None]) -> None:
    """Ask with tritonclient's callbacks."""
    import tritonclient.grpc as module

    room, failures = threading.Semaphore(in_flight), []

    def done(result: Any, error: Any) -> None:
        if error is not None:
            failures.append(error)
        else:
            _read(result)
        each()
        room.release()

    with module.InferenceServerClient(url) as client:
        for item in items:
            room.acquire()
            client.async_infer(contract.QUESTION_ANSWERING, _inputs(module, item), done)
        for _ in range(in_flight):
            room.acquire()
    if failures:
        raise failures[0]


def ask_raw_asyncio(url: str, items: Iterable[Item], in_flight: int, each: Callable[[], None]) -> None:
    """Ask with tritonclient's asyncio client."""
    import tritonclient.grpc.aio as module

    async def ask() -> None:
        source = iter(items)
        async with module.InferenceServerClient(url) as client:

            async def work() -> None:
                for item in source:
                    _read(await client.infer(contract.QUESTION_ANSWERING, _inputs(module, item)))
                    each()

            await asyncio.gather(*(work() for _ in range(in_flight)))

    asyncio.run(ask())


CLIENTS = {
    "sync": ask_sync,
    "asyncio": ask_asyncio,
    "tritonclient, callbacks": ask_raw_callback,
    "tritonclient, asyncio": ask_raw_asyncio,
}


def cost(client: str, url: str, file: Path, in_flight: int, n_warm: int) -> dict[str, float]:
    """Give the CPU time of a question, in ms, and the questions a second, the first ones left out."""
    items = [(one.question, one.context) for one in iter_dataset(file, require_answers=False)]
    CLIENTS[client](url, items[:n_warm], in_flight, lambda: None)
    cpu_s, started = time.process_time(), time.perf_counter()
    CLIENTS[client](url, items[n_warm:], in_flight, lambda: None)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - started
    n_questions = len(items) - n_warm
    return {"cpu_ms": 1e3 * cpu_s / n_questions, "questions_per_s": n_questions / wall_s}


def memory(client: str, url: str, file: Path, in_flight: int, n_questions: int) -> dict[str, Any]:
    """Give the resident MiB of this process after each tenth of the questions, which are read from the file."""
    page, n_done, mib = os.sysconf("SC_PAGE_SIZE"), 0, []

    def each() -> None:
        nonlocal n_done
        n_done += 1
        if n_done % max(1, n_questions // SLICES) == 0:
            mib.append(int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20)

    CLIENTS[client](url, _endless(file, n_questions), in_flight, each)
    return {"mib": mib}


def _endless(file: Path, n_questions: int) -> Iterator[Item]:
    """So many questions of a file, from its beginning again where it has fewer."""

    def rounds() -> Iterator[Item]:
        while True:
            for one in iter_dataset(file, require_answers=False, check_ids=False):
                yield one.question, one.context

    return islice(rounds(), n_questions)


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments say: cost or memory, client, address, file, questions in flight, and a number."""
    what, client, url, file, in_flight, number = arguments
    done = {"cost": cost, "memory": memory}[what](client, url, Path(file), int(in_flight), int(number))
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
