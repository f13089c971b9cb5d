"""Fuzzed inputs against a live server, over gRPC and HTTP and on its sockets, while known questions are asked beside.

Every input must end within its deadline, with an answer or an error of one sentence that shows neither traceback nor
path; no process may end; every neighbour must be answered rightly, whether or not its client asks again. An input is
made of the seed and its number: `--first NUMBER --inputs 1` sends one again.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from bench_setting import heldout_examples, parser_of, print_result
from fault_setting import Item, Verdict, differs, stop_timed
from fuzz_grpc import GRPC_PROBES
from fuzz_http import HTTP_PROBES
from fuzz_probe import Ended, Probe, Target
from table_model import write_table_repository
from tqdm import tqdm
from tritonclient.grpc import service_pb2_grpc

from spanqa import contract
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_client.options import Options
from spanqa_client.wire import answer_from_response, request_from_question
from spanqa_server.server import Server

PROBES: dict[str, tuple[Probe, int]] = {**GRPC_PROBES, **HTTP_PROBES}
N_SENDERS = 8
N_NEIGHBOURS = 100
MOST_SHOWN = 10


@dataclass
class Tally:
    """How the inputs of each kind ended, and the first faults, by the input's number."""

    ended: dict[str, Counter[str]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    longest_s: float = 0.0


def probe_of(seed: int, number: int) -> tuple[str, random.Random]:
    """Give the kind of an input, and the source of chance that makes it."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 (no secrets)
    kinds, shares = zip(*((kind, share) for kind, (_, share) in PROBES.items()), strict=True)
    return rng.choices(kinds, shares)[0], rng


def send(seed: int, number: int, target: Target, tally: Tally) -> None:
    """Send an input and note how it ended."""
    kind, rng = probe_of(seed, number)
    start = time.monotonic()
    try:
        ended = PROBES[kind][0](rng, target)
    except Exception as error:  # a fault of the probe is one too
        ended = Ended(how="failed", fault=f"{type(error).__name__}: {error}")
    tally.longest_s = max(tally.longest_s, time.monotonic() - start)
    tally.ended.setdefault(kind, Counter())[ended.how] += 1
    if ended.fault:
        tally.faults[number] = f"{kind}: {ended.how}: {ended.fault}"


class Neighbours:
    """Known questions without pause while a block lasts: through our client, and each once without it."""

    def __init__(self, url: str, items: Sequence[Item], expected: Sequence[Answer]) -> None:
        self._items, self._expected = items, expected
        self._client, self._channel = QAClient(url), grpc.insecure_channel(url)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._stop = threading.Event()
        asks = (self._through_client, self._through_client, self._once, self._once)
        self._threads = [threading.Thread(target=self._run, args=(ask,), daemon=True) for ask in asks]
        self.n_asked = 0
        self.wrong: list[str] = []

    def _through_client(self, question: str, context: str) -> Answer:
        return self._client.ask(question, context, timeout_s=60)

    def _once(self, question: str, context: str) -> Answer:
        request = request_from_question(contract.QUESTION_ANSWERING, question.encode(), context.encode(), Options())
        return answer_from_response(self._stub.ModelInfer(request, timeout=60), latency_ms=0.0)

    def _run(self, ask: Callable[[str, str], Answer]) -> None:
        place = 0
        while not self._stop.is_set():
            try:
                said: object = ask(*self._items[place % len(self._items)])
            except grpc.RpcError as error:
                said = RuntimeError(f"without our client: {error.code().name}: {error.details()}")
            except Exception as error:  # any failure is told
                said = error
            wrong = differs(said, self._expected[place % len(self._items)])
            if wrong:
                self.wrong.append(wrong)
            self.n_asked += 1
            place += 7

    def __enter__(self) -> Neighbours:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        self._client.close()
        self._channel.close()


def fuzz(server: Server, numbers: Sequence[int], *, seed: int, verdict: Verdict, quiet: bool = True) -> Tally:
    """Send inputs of these numbers and note in the verdict which promises failed.

    Args:
        server: A running server.
        numbers: Which inputs.
        seed: Makes them.
        verdict: What is added to.
        quiet: Whether no progress is shown.
    """
    metrics_url = server.metrics_url.removeprefix("http://").partition("/")[0]
    target = Target(grpc_url=server.url, http_url=server.http_url, metrics_url=metrics_url)
    items = [(one.question, one.context) for one in heldout_examples(N_NEIGHBOURS)]
    with QAClient(server.url) as client:
        expected = list(client.ask_many(items))
    before, tally = (server.triton_pid, {stub.pid for stub in server.stubs()}), Tally()
    with Neighbours(server.url, items, expected) as neighbours, ThreadPoolExecutor(N_SENDERS) as pool:
        sent = pool.map(lambda number: send(seed, number, target, tally), numbers)
        for _ in tqdm(sent, total=len(numbers), unit="input", disable=True if quiet else None):
            pass
    after = (server.triton_pid, {stub.pid for stub in server.stubs()})
    verdict.figures.update({"inputs": len(numbers), "neighbours": neighbours.n_asked})
    verdict.figures["longest s"] = round(tally.longest_s, 1)
    verdict.require(before == after and not server.n_recoveries, f"processes ended: {before} became {after}")
    shown = [f"input {number}: {fault}" for number, fault in sorted(tally.faults.items())[:MOST_SHOWN]]
    verdict.require(not tally.faults, f"{len(tally.faults)} inputs: " + "\n  ".join(shown))
    few = [f"{n} times: {wrong}" for wrong, n in Counter(neighbours.wrong).most_common(MOST_SHOWN)]
    verdict.require(not few, f"{len(neighbours.wrong)} neighbours: " + "\n  ".join(few))
    verdict.require(neighbours.n_asked, "no neighbour was asked")
    return tally


def main() -> int:
    """Fuzz and print; the exit status is 1 where a promise failed."""
    parser = parser_of(__doc__)
    parser.add_argument("--repository", type=Path, metavar="DIR", help="a repository (default: a table of logits)")
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first one's number (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all of them (default: 0)")
    args = parser.parse_args()
    verdict, start = Verdict(name="fuzz"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spanqa-fuzz-") as work:
        repository = args.repository or Path(work) / "table"
        if args.repository is None:
            write_table_repository(repository)
        with Server(repository) as server:
            numbers = range(args.first, args.first + args.inputs)
            tally = fuzz(server, numbers, seed=args.seed, verdict=verdict, quiet=args.quiet)
            stop_timed(server, verdict)
    verdict.figures["seconds"] = round(time.monotonic() - start, 1)
    table: list[tuple[str, ...]] = [("kind", "inputs", "ended")]
    for kind, ended in sorted(tally.ended.items()):
        how = ", ".join(f"{name} {count:,}" for name, count in ended.most_common())
        table.append((kind, f"{ended.total():,}", how))
    table.append(("all", f"{args.inputs:,}", ", ".join(f"{name} {value}" for name, value in verdict.figures.items())))
    result: dict[str, Any] = {"ended": tally.ended, **vars(verdict)}
    print_result(result, table, as_json=args.json)
    for failure in verdict.failures:
        print(failure, file=sys.stderr)
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
