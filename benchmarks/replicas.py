"""Two servers behind our client, 3,000 questions, while one is killed, one drained, one rolled over and one is slow.

Each server is `spanqa serve` in a process of its own, with a repository of its own. Every question must be answered
once, as the undisturbed server answers it; latencies are recorded for each thing that happens, and beside them those
of a stretch in which nothing does. `--repository DIR` takes a real model instead of a table of logits.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench_setting import heldout_examples, parser_of, print_result
from fault_command import ServeCommand
from fault_setting import TIMEOUT_S, Item, Load, Verdict, stopped, wait_until
from faults import undisturbed
from table_model import add_same_version, write_table_repository

from spanqa_client.answer import Answer
from spanqa_client.bench.measurement import percentiles
from spanqa_server.checks import free_port
from spanqa_server.settings import LOOPBACK_ADDRESS

SLOW_S = 3.0
"""How long Triton is stopped: less than the server's own test question waits, so that it is slow, and not lost."""
AFTER = 64
"""Questions answered between two things that happen."""
TABLE_PACE_S = 0.008
"""Pause between two questions with a table of logits: about half of what two servers answer on two cores."""


class Replica:
    """One of the servers, on the same ports whenever it is started.

    Args:
        repository: What it serves: its own copy.
        ports: Those of gRPC and HTTP.
    """

    def __init__(self, repository: Path, ports: Sequence[int]) -> None:
        self.repository = repository
        self.url, self.http_url = (f"{LOOPBACK_ADDRESS}:{port}" for port in ports)
        self._options = (f"--grpc-port={ports[0]}", f"--http-port={ports[1]}")
        self.command = ServeCommand(repository, *self._options)

    def start(self) -> None:
        """Start it again where it was."""
        self.stop()
        self.command = ServeCommand(self.repository, *self._options)

    def stop(self) -> None:
        """End it, and whatever is left of it."""
        self.command.__exit__()

    def kill(self) -> None:
        """Kill Triton and what supervises it, at once, and start anew."""
        triton_pid = self.command.triton_pid()
        self.command.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(triton_pid, signal.SIGKILL)
        self.command.process.wait()
        self.start()

    def drain(self) -> None:
        """Ask it to end, wait for its end, and start anew."""
        self.command.process.terminate()
        status = self.command.process.wait(TIMEOUT_S)
        if status:
            raise RuntimeError(f"`spanqa serve` ended with {status} after SIGTERM: {self.command.said}")
        self.start()

    def roll_over(self) -> None:
        """Build a version and let it roll in."""
        version = add_same_version(self.repository)
        self.command.process.send_signal(signal.SIGHUP)
        told = f"version {version} of "
        if wait_until(lambda: any(told in line for line in self.command.said), TIMEOUT_S) is None:
            raise RuntimeError(f"version {version} was not rolled in: {self.command.said}")

    def be_slow(self) -> None:
        """Stand still for some seconds."""
        with stopped(self.command.triton_pid(), SLOW_S):
            pass


EVENTS: dict[str, tuple[int, Callable[[Replica], None]]] = {
    "killed": (0, Replica.kill),
    "drained": (1, Replica.drain),
    "rolled over": (0, Replica.roll_over),
    "slow": (1, Replica.be_slow),
}
"""What happens, and to which of the two."""


@contextlib.contextmanager
def two_replicas(origin: Path, work: Path) -> Iterator[list[Replica]]:
    """Serve two copies of a repository for as long as the block lasts; they start and stop side by side."""
    folders = [Path(shutil.copytree(origin, work / f"replica{number}")) for number in range(2)]
    ports = [[free_port(LOOPBACK_ADDRESS) for _ in range(2)] for _ in folders]
    with ThreadPoolExecutor(len(folders)) as pool:
        starts = [pool.submit(Replica, *one) for one in zip(folders, ports, strict=True)]
        try:
            yield [start.result() for start in starts]
        finally:
            list(pool.map(Replica.stop, [start.result() for start in starts if start.exception() is None]))


def disturbed(
    replicas: Sequence[Replica],
    items: Sequence[Item],
    expected: Sequence[Answer],
    verdict: Verdict,
    *,
    pace_s: float,
    endless: bool = False,
) -> dict[str, list[float]]:
    """Ask every item while one thing after the other happens; give the latencies in ms during each.

    Args:
        replicas: Two servers.
        items: What is asked, once each.
        expected: The right answers.
        verdict: Takes the figures, and the promises that fail.
        pace_s: Seconds between two questions at least.
        endless: Whether to begin anew after the last question, until all has happened.
    """
    found: dict[str, list[float]] = {}
    with Load(",".join(one.url for one in replicas), items, expected, pace_s=pace_s, endless=endless) as load:
        load.wait_for_more(AFTER)
        found["nothing"] = list(load.latencies_ms)
        for name, (place, happen) in EVENTS.items():
            load.wait_for_more(AFTER)
            n_before, start = len(load.latencies_ms), time.monotonic()
            happen(replicas[place])
            verdict.figures[f"{name} s"] = round(time.monotonic() - start, 1)
            verdict.require(not load.is_done, f"all was answered before one was {name}: ask more questions")
            load.wait_for_more(AFTER)
            found[name] = load.latencies_ms[n_before:]
        n_before = len(load.latencies_ms)
        load.wait_for_more(max(0, len(items) - load.n_answered), timeout_s=3600)
        found["nothing"] += load.latencies_ms[n_before:]
    load.judge(verdict)
    verdict.require(load.n_answered >= len(items), f"{load.n_answered} of {len(items)} answered")
    return found | {"all": load.latencies_ms}


def measured(args: argparse.Namespace, work: Path) -> tuple[Verdict, dict[str, list[float]]]:
    """Serve, disturb and judge."""
    items = [(one.question, one.context) for one in heldout_examples(args.questions)]
    origin = args.repository or work / "table"
    if args.repository is None:
        write_table_repository(origin)
    expected = undisturbed(origin, items, quiet=args.quiet)
    verdict = Verdict(name="two replicas")
    with two_replicas(origin, work) as replicas:
        return verdict, disturbed(replicas, items, expected, verdict, pace_s=args.pace_s)


def main() -> int:
    """Run and print; the exit status is 1 where a promise failed."""
    parser = parser_of(__doc__)
    parser.add_argument("--repository", type=Path, metavar="DIR", help="a repository (default: a table of logits)")
    parser.add_argument("--questions", type=int, default=3000, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--pace-s", type=float, default=TABLE_PACE_S, metavar="S", help="between two questions (default: %(default)s)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spanqa-replicas-") as work:
        verdict, found = measured(args, Path(work))
    rows: list[dict[str, Any]] = []
    for name, latencies in found.items():
        p50, p95, p99 = percentiles(latencies)
        rows.append({"while": name, "questions": len(latencies), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99})
        rows[-1]["longest_ms"] = max(latencies)
    table: list[tuple[str, ...]] = [("while", "questions", "p50 ms", "p95 ms", "p99 ms", "longest ms")]
    table += [tuple(f"{v:.0f}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
    print_result({"rows": rows, "figures": verdict.figures, "failures": verdict.failures}, table, as_json=args.json)
    for failure in verdict.failures:
        print(failure, file=sys.stderr)
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
