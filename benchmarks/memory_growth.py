"""Memory of every process of a server, and of /dev/shm, over thousands of mixed requests.

Good questions over gRPC and HTTP, through both entries, malformed ones, cancelled ones and some long documents: after
those for warming up, neither resident memory nor shared memory may grow.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import struct
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from bench_setting import add_repository, heldout_examples, parser_of, print_result
from fault_setting import Item
from table_model import write_table_repository
from tqdm import tqdm
from tritonclient.grpc import service_pb2_grpc

from spanqa import contract
from spanqa_client.options import Options
from spanqa_client.wire import request_from_question
from spanqa_server.server import Server
from spanqa_server.shared_memory import SHARED_MEMORY

MAX_GROWTH = {"resident": 0.03, "shared": 0.02}
N_SENDERS = 8
LONG_CHARS = 20_000
SLICES = 10
PAUSE_S = 1.0
"""Before memory is read: what is under way gives its memory back."""


class Sender:
    """Sends one kind of request after another, chosen by chance from a seed."""

    def __init__(self, server: Server, items: Sequence[Item]) -> None:
        self._http = f"http://{server.http_url}/v2/models/{contract.QUESTION_ANSWERING}/generate"
        self._channel = grpc.insecure_channel(server.url)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._items = items
        self.ended: Counter[str] = Counter()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def send(self, number: int) -> None:
        """Send the request of a number: 70 % are good, 5 % long, 10 % malformed, 5 % cancelled, 10 % over HTTP."""
        rng = random.Random(number)  # noqa: S311 (no secrets)
        question, context = rng.choice(self._items)
        chance = rng.random()
        if chance < 0.1:
            self._send_over_http(question, context, is_bad=chance < 0.03)
            return
        entry = contract.ENSEMBLE if 0.3 < chance < 0.5 else contract.QUESTION_ANSWERING
        if chance > 0.95:
            entry, context = contract.QUESTION_ANSWERING, (context + "\n") * (LONG_CHARS // len(context))
        options = Options(top_n=rng.choice([1, 1, 5, 64]))
        request = request_from_question(entry, question.encode(), context.encode(), options)
        if 0.85 < chance < 0.95:
            bad = [struct.pack("<I", 0), struct.pack("<I", 2) + b"\xff\xfe", struct.pack("<I", 4) + b"    "]
            request.raw_input_contents[-1] = rng.choice(bad)
        call = self._stub.ModelInfer.future(request, timeout=120)
        if 0.8 < chance < 0.85:
            time.sleep(rng.random() / 50)
            call.cancel()
        with contextlib.suppress(grpc.FutureCancelledError):
            self.ended[call.code().name] += 1

    def _send_over_http(self, question: str, context: str, *, is_bad: bool) -> None:
        document = {"QUESTION": "" if is_bad else question, "CONTEXT": context}
        try:
            with urllib.request.urlopen(self._http, json.dumps(document).encode(), timeout=120) as response:  # noqa: S310 (http alone)
                response.read()
                self.ended[str(response.status)] += 1
        except urllib.error.HTTPError as error:
            error.read()
            self.ended[str(error.code)] += 1


def memory_of(server: Server) -> dict[str, int]:
    """Give the resident bytes of each process by model and place, and the bytes in /dev/shm."""
    page = os.sysconf("SC_PAGE_SIZE")
    pids = {"triton": server.triton_pid}
    for stub in sorted(server.stubs(), key=lambda stub: stub.pid):
        number = sum(name.startswith(f"{stub.model} ") for name in pids)
        pids[f"{stub.model} {number}"] = stub.pid
    found = {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for name, pid in pids.items()}
    regions = SHARED_MEMORY.glob(f"spanqa_{os.getpid()}_*")
    found["shared"] = sum(path.stat().st_blocks * 512 for path in regions)
    return found


def measure(server: Server, items: Sequence[Item], n_warm: int, n_requests: int, *, quiet: bool) -> dict[str, Any]:
    """Send requests, those for warming up first, and read memory after these and after each tenth of the others."""
    sender, readings = Sender(server, items), []
    edges = [0, n_warm, *(n_warm + n_requests * (part + 1) // SLICES for part in range(SLICES))]
    bar = tqdm(total=edges[-1], unit="request", disable=True if quiet else None)
    with ThreadPoolExecutor(N_SENDERS) as pool, contextlib.closing(sender):
        for first, last in itertools.pairwise(edges):
            for _ in pool.map(sender.send, range(first, last)):
                bar.update()
            time.sleep(PAUSE_S)
            readings.append(memory_of(server))
    bar.close()
    return {"readings": readings, "ended": sender.ended}


def main() -> int:
    """Send, measure and print; the exit status is 1 where anything has grown by more than is allowed."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--table", action="store_true", help="a table of logits instead of the repository: faster")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--warm", type=int, default=1000, metavar="N", help="before these (default: %(default)s)")
    args = parser.parse_args()
    items = [(one.question, one.context) for one in heldout_examples(1000) if len(one.context) < 1200]
    with tempfile.TemporaryDirectory(prefix="spanqa-memory-") as work:
        if args.table:
            args.repository = Path(work) / "table"
            write_table_repository(args.repository)
        with Server(args.repository) as server:
            measured = measure(server, items, args.warm, args.requests, quiet=args.quiet)
            n_recoveries = server.n_recoveries
    first, *_, last = readings = measured["readings"]
    table: list[tuple[str, ...]] = [
        ("process", "MiB after warm-up", "most MiB", "MiB at the end", "growth %", "allowed")
    ]
    has_grown = bool(n_recoveries) or first.keys() != last.keys()
    for name, bytes_before in first.items():
        allowed = MAX_GROWTH["shared" if name == "shared" else "resident"]
        growth = last.get(name, 0) / bytes_before - 1
        has_grown |= growth > allowed
        most = max(reading.get(name, 0) for reading in readings)
        mib = [f"{n_bytes / 2**20:.1f}" for n_bytes in (bytes_before, most, last.get(name, 0))]
        table.append((name, *mib, f"{100 * growth:+.1f}", f"{100 * allowed:.0f}"))
    print_result({"requests": args.requests, "recoveries": n_recoveries, **measured}, table, as_json=args.json)
    if not args.json:
        print("ended: " + ", ".join(f"{how} {count:,}" for how, count in measured["ended"].most_common()))
    return 1 if has_grown else 0


if __name__ == "__main__":
    sys.exit(main())
