"""What our clients cost beside tritonclient sending the same, how their memory grows, and whether shared memory pays.

Each client asks the same questions from a process of its own, in turns; the CPU time is that process's. The server has
a table of logits for its network, so that it keeps up.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_setting import heldout_examples, parser_of, print_result
from client_turn import CLIENTS
from table_model import write_table_repository

from spanqa import contract
from spanqa_server.server import Server
from spanqa_server.shared_memory import SHARED_MEMORY

MOST_MORE_MS = 1.0
MOST_GROWTH = 0.03
N_WARM = 200
LARGE_BYTES = 1_900_000
"""Below what a server takes as one context."""
REGION = f"spanqa_clients_{os.getpid()}"


def turn(what: str, client: str, url: str, file: Path, in_flight: int, number: int) -> dict[str, Any]:
    """Run one client and give what it measured."""
    program = Path(__file__).with_name("client_turn.py")
    command = [sys.executable, str(program), what, client, url, str(file), str(in_flight), str(number)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure_cost(url: str, file: Path, in_flight: int, n_rounds: int) -> tuple[dict[str, Any], bool]:
    """Measure every client in turns; say whether ours are within what is allowed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    for _ in range(n_rounds):
        for name in CLIENTS:
            found[name].append(turn("cost", name, url, file, in_flight, N_WARM))
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    for ours, theirs in (("sync", "tritonclient, callbacks"), ("asyncio", "tritonclient, asyncio")):
        medians[ours]["more_ms"] = medians[ours]["cpu_ms"] - medians[theirs]["cpu_ms"]
    is_within = all(one.get("more_ms", 0.0) <= MOST_MORE_MS for one in medians.values())
    return {"clients": medians, "rounds": found}, is_within


def measure_memory(url: str, file: Path, in_flight: int, n_questions: int) -> tuple[dict[str, Any], bool]:
    """Read the memory of our clients over many questions; say whether it grows by no more than is allowed."""
    found, is_flat = {}, True
    for name in ("sync", "asyncio"):
        mib = turn("memory", name, url, file, in_flight, n_questions)["mib"]
        found[name] = {"mib": mib, "growth": mib[-1] / mib[0] - 1}
        is_flat &= found[name]["growth"] <= MOST_GROWTH
    return found, is_flat


def _median_ms(call: Callable[[], Any], n_calls: int) -> float:
    """The median time of a call that the server is to refuse: nothing is computed then."""
    times = []
    for _ in range(n_calls):
        started = time.perf_counter()
        try:
            call()
        except Exception as error:  # of tritonclient, which has no types
            if "QUESTION" not in str(error).upper():
                raise
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def measure_large(server: Server, n_calls: int) -> dict[str, float]:
    """Measure how a context of 1.9 MB travels: in the request, and through Triton's system shared memory.

    The question is empty, so that the request is refused as soon as it has arrived where it would be answered: what is
    left is the way. A request of a few bytes that is refused likewise is what any of them takes.
    """
    import tritonclient.grpc as module

    raw = struct.pack("<I", LARGE_BYTES) + b"word " * (LARGE_BYTES // 5)
    question = module.InferInput(contract.QUESTION.name, [1, 1], "BYTES")
    question.set_data_from_numpy(np.array([[b""]], np.object_))
    tensors = {name: module.InferInput(contract.CONTEXT.name, [1, 1], "BYTES") for name in ("small", "raw", "shared")}
    tensors["small"].set_data_from_numpy(np.array([[b"word"]], np.object_))
    tensors["raw"].set_data_from_numpy(np.array([[raw[4:]]], np.object_))
    # The right to map memory is the administrator's, as `spanqa serve` starts Triton.
    headers = server._supervisor._process.administration_headers  # type: ignore[union-attr]
    options = [("grpc.max_send_message_length", -1)]
    with module.InferenceServerClient(server.url, channel_args=options) as client, _region(len(raw)) as region:
        client.register_system_shared_memory(REGION, f"/{REGION}", len(raw), headers=headers)
        tensors["shared"].set_shared_memory(REGION, len(raw))

        def send(name: str) -> Callable[[], Any]:
            def call() -> Any:
                if name == "shared":  # a client writes each document there
                    region[:] = raw
                return client.infer(contract.QUESTION_ANSWERING, [question, tensors[name]])

            return call

        found = {f"{name}_ms": _median_ms(send(name), n_calls) for name in tensors}
        client.unregister_system_shared_memory(REGION, headers=headers)
    return found


@contextlib.contextmanager
def _region(size: int) -> Iterator[mmap.mmap]:
    """A named region of memory that another process can map."""
    path = SHARED_MEMORY / REGION
    try:
        with path.open("w+b") as file:
            file.truncate(size)
            with mmap.mmap(file.fileno(), size) as region:
                yield region
    finally:
        path.unlink(missing_ok=True)


def rows_file(folder: Path, n_questions: int) -> Path:
    """Write so many questions as JSON Lines, held-out ones over and over."""
    examples = [one for one in heldout_examples() if len(one.context) < 1200]
    path = folder / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(n_questions):
            one = examples[number % len(examples)]
            row = {"id": str(number), "question": one.question, "context": one.context}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _table(result: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    table: list[tuple[str, ...]] = []
    if "clients" in result:
        table.append(("client", "CPU ms/question", "questions/s", "more than tritonclient's"))
        for name, one in result["clients"].items():
            more = f"{one['more_ms']:+.2f} ms" if "more_ms" in one else ""
            table.append((name, f"{one['cpu_ms']:.2f}", f"{one['questions_per_s']:.0f}", more))
    for name, one in result.get("memory", {}).items():
        shown = f"{one['mib'][0]:.1f} MiB after a tenth", f"{one['mib'][-1]:.1f} MiB", f"{100 * one['growth']:+.1f} %"
        table.append((f"memory, {name}", *shown))
    if "large" in result:
        large = result["large"]
        for name, words in (("small", "a few bytes"), ("raw", "1.9 MB in the request"), ("shared", "1.9 MB, shared")):
            table.append((words, f"{large[f'{name}_ms']:.2f} ms", "", ""))
    return table


def main() -> int:
    """Measure and print; the exit status is 1 where a client costs or grows by more than is allowed."""
    parser = parser_of(__doc__)
    parser.add_argument("--questions", type=int, default=5000, metavar="N", help="of each turn (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=32, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="turns of each client (default: %(default)s)"
    )
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory over so many questions instead")
    parser.add_argument("--large", type=int, metavar="N", help="measure so many requests of 1.9 MB instead")
    args = parser.parse_args()
    is_good, result = True, {}
    with tempfile.TemporaryDirectory(prefix="spanqa-clients-") as work:
        repository, file = Path(work) / "table", rows_file(Path(work), args.memory or args.questions + N_WARM)
        write_table_repository(repository)
        with Server(repository) as server:
            if args.large:
                result["large"] = measure_large(server, args.large)
            elif args.memory:
                result["memory"], is_good = measure_memory(server.url, file, args.in_flight, args.memory)
            else:
                result, is_good = measure_cost(server.url, file, args.in_flight, args.rounds)
    print_result({"in_flight": args.in_flight, **result}, _table(result), as_json=args.json)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
