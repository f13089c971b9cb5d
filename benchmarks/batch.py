"""Batches on Ray with two actors, one of which is killed: every id once, memory, and speed against the bare network.

First many questions with a table of logits for the network, so that Ray, reading and writing show: against the same
network in a bare loop in two processes. Then fewer with the real network, on Ray and in worker processes: against the
network alone in ONNX Runtime, windows sorted by length, in its best way.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bare_network import BareNetwork, Way
from bench_setting import add_repository, answering_folder, heldout_examples, network_file, parser_of, print_result
from pyarrow import parquet
from table_model import write_table_repository

from spanqa.manifest import load_served_tokenizer
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_client.batch.network import NetworkPlan, plan_network
from spanqa_client.batch.rows import Row
from spanqa_client.options import Options

N_WORKERS = 2
LOOP_QUESTIONS = 10_000
"""Questions of the bare loop, at most."""
BARE_QUESTIONS = 250
"""Of the bare network, at most: it is timed in each of its ways, and before and after each batch."""
WARM_UP = 200
ROWS = (1, 2, 4)
MIN_RATIO = 0.9
MAX_GROWTH = 0.05
ACTOR, READER, COMMAND = "ray::MapWorker", "ray::Read", "command"
POLL_S = 0.1


def many(examples: Sequence[Example], n_questions: int) -> Iterator[dict[str, str]]:
    """Give rows of different ids, the same questions again and again."""
    for number, example in zip(range(n_questions), itertools.cycle(examples), strict=False):
        yield {"id": f"{example.id}-{number}", "question": example.question, "context": example.context}


@dataclass(slots=True)
class Watch:
    """What is seen of a running batch from outside.

    Args:
        process: The command.
        folder: Its folder.
        n_parts: Parts that it will write.
        kills: Whether an actor is killed when three of ten parts are there.
    """

    process: subprocess.Popen[str]
    folder: Path
    n_parts: int
    kills: bool
    killed: int = 0
    early: dict[int, tuple[str, int]] = field(default_factory=dict)
    late: dict[int, tuple[str, int]] = field(default_factory=dict)

    def until_end(self) -> str:
        """Wait for the end of the command, and give what it printed."""
        while self.process.poll() is None:
            time.sleep(POLL_S)
            done = sum(1 for _ in self.folder.glob("part-*.parquet")) / self.n_parts
            if done >= 0.1 and not self.early:
                self.early = self._memory()
            if done >= 0.3 and self.kills and not self.killed:
                self.killed = next(pid for pid, (name, _) in self._memory().items() if name == ACTOR)
                os.kill(self.killed, signal.SIGKILL)
            if done >= 0.9:
                self.late |= {pid: seen for pid, seen in self._memory().items() if seen[1]}
        out, err = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"the batch ended with status {self.process.returncode}: {out}{err}")
        return out

    def growth(self) -> list[dict[str, Any]]:
        """Give the memory, in MiB, of every process that was there early and late."""
        return [
            {"process": name, "at_10_percent_mib": before / 2**20, "at_end_mib": self.late[pid][1] / 2**20}
            for pid, (name, before) in self.early.items()
            if pid in self.late
        ]

    def _memory(self) -> dict[int, tuple[str, int]]:
        """What each of its processes is, and its resident memory in bytes."""
        found = {self.process.pid: (COMMAND, _resident_bytes(self.process.pid))}
        parents = dict(_parents())
        for pid, (parent, name) in parents.items():
            while parent in parents and parent != self.process.pid:
                parent = parents[parent][0]
            kind = next((kind for kind in (ACTOR, READER) if name.startswith(kind)), None)
            if parent == self.process.pid and kind:
                found[pid] = kind, _resident_bytes(pid)
        return found


def _parents() -> Iterator[tuple[int, tuple[int, str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            yield int(folder.name), (parent, (folder / "cmdline").read_text("utf-8", "replace"))
        except OSError:  # it has ended meanwhile
            continue


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def run_batch(work: Path, rows: Path, repository: Path, n_rows: int, *, on_ray: bool, kills: bool) -> dict[str, Any]:
    """Run a batch as a command, and hold its parts against its rows."""
    folder = Path(tempfile.mkdtemp(dir=work)) / "answers"
    rows_per_part = max(10, min(1000, n_rows // 40))
    command = [sys.executable, "-m", "spanqa.cli", "batch", str(rows), "-o", str(folder), "--json", "--quiet"]
    command += ["--repository", str(repository), "--workers", str(N_WORKERS), "--rows-per-part", str(rows_per_part)]
    command += ["--ray"] if on_ray else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = Watch(process, folder, -(-n_rows // rows_per_part), kills)
    summary = json.loads(watch.until_end())
    parts = sorted(folder.glob("part-*.parquet"))
    ids = Counter(name for part in parts for name in parquet.ParquetFile(part).read(["id"])["id"].to_pylist())
    expected = [json.loads(line)["id"] for line in rows.open(encoding="utf-8")]
    first, last = (pick(part.stat().st_mtime for part in parts) for pick in (min, max))
    return {
        "questions": n_rows,
        "answered_once": sum(ids[name] == 1 for name in expected),
        "other_ids": len(ids.keys() - set(expected)),
        "summary": summary,
        "actors_killed": int(watch.killed > 0),
        "memory": watch.growth(),
        "questions_per_s": summary["questions_per_s"],
        # From the first part on: what starts, starts once.
        "questions_per_s_at_work": (n_rows - rows_per_part) / max(last - first, 1e-9),
    }


def _loop(plan: NetworkPlan, rows: list[Row], ready: Any) -> tuple[float, float]:
    asker = plan.open()
    list(asker.ask(rows[:WARM_UP]))
    ready.wait()
    began = time.monotonic()
    for _ in asker.ask(rows):
        pass
    return began, time.monotonic()


def bare_loop(repository: Path, examples: Sequence[Example], n_questions: int) -> float:
    """Answer questions in two processes that do nothing else; questions a second."""
    rows = [Row(number, *row.values()) for number, row in enumerate(many(examples, n_questions))]
    plan = plan_network(repository, Options(), n_threads=1)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(N_WORKERS) as pool:
        ready = manager.Barrier(N_WORKERS)
        took = pool.starmap(_loop, [(plan, rows[place::N_WORKERS], ready) for place in range(N_WORKERS)], 1)
    return len(rows) / (max(end for _, end in took) - min(began for began, _ in took))


def with_table(work: Path, n_questions: int, examples: Sequence[Example]) -> dict[str, Any]:
    """Many questions on Ray with a table for the network, an actor killed; the bare loop before and after."""
    repository, rows = work / "table", _write(work / "table.jsonl", examples, n_questions)
    write_table_repository(repository)
    before = bare_loop(repository, examples, min(n_questions, LOOP_QUESTIONS))
    result = run_batch(work, rows, repository, n_questions, on_ray=True, kills=True)
    after = bare_loop(repository, examples, min(n_questions, LOOP_QUESTIONS))
    return {**result, "bare_questions_per_s": statistics.mean((before, after))}


def with_network(
    work: Path, repository: Path, n_questions: int, examples: Sequence[Example], *, on_ray: bool
) -> dict[str, Any]:
    """Questions with the real network; the bare one before and after, in the best of its ways."""
    manifest, tokenizer = load_served_tokenizer(answering_folder(repository))
    some = examples[: min(n_questions, BARE_QUESTIONS)]
    windows = WindowMaker(tokenizer, manifest.windows).windows_of_many([(one.question, one.context) for one in some])
    bare = BareNetwork(network_file(repository), windows)
    # On every CPU measured so far a session of one thread on each core was the best way.
    way = min((Way(n_sessions=N_WORKERS, n_threads=1, rows=size) for size in ROWS), key=bare.seconds)
    before = len(some) / bare.seconds(way)
    rows = _write(work / "real.jsonl", examples, n_questions)
    result = run_batch(work, rows, repository, n_questions, on_ray=on_ray, kills=on_ray)
    after = len(some) / bare.seconds(way)
    return {**result, "bare_questions_per_s": statistics.mean((before, after)), "bare_way": str(way)}


def _write(path: Path, examples: Sequence[Example], n_questions: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in many(examples, n_questions))
    return path


def _table(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [("", "questions", "once", "questions/s", "at work", "bare", "ratio", "target")]
    for name, one in results.items():
        rates = [one[key] for key in ("questions_per_s", "questions_per_s_at_work", "bare_questions_per_s")]
        numbers = (f"{one['questions']:,}", f"{one['answered_once']:,}", *(f"{rate:,.1f}" for rate in rates))
        about = f"{name}, {one['actors_killed']} of them killed" if "Ray" in name else name
        lines.append((about, *numbers, f"{rates[1] / rates[2]:.3f}", f">= {MIN_RATIO}"))
        for part in one["memory"]:
            grown = part["at_end_mib"] / part["at_10_percent_mib"] - 1
            mib = (f"{part['at_10_percent_mib']:.0f} MiB", f"{part['at_end_mib']:.0f} MiB")
            lines.append((f"  {part['process']}", *mib, "", "", "", f"{grown:+.1%}", f"<= {MAX_GROWTH:+.0%}"))
    return lines


def main() -> int:
    """Run the batches beside their yardsticks, and print."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument(
        "--questions", type=int, default=100_000, metavar="N", help="with the table; 0: none (default: %(default)s)"
    )
    parser.add_argument(
        "--real-questions", type=int, default=2000, metavar="N", help="with the network; 0: none (default: %(default)s)"
    )
    args = parser.parse_args()
    examples = heldout_examples()
    results = {}
    with tempfile.TemporaryDirectory(prefix="spanqa-batch-") as name:
        work = Path(name)
        if args.questions:
            results[f"table, Ray, {N_WORKERS} actors"] = with_table(work, args.questions, examples)
        if args.real_questions:
            for kind, on_ray in ((f"network, Ray, {N_WORKERS} actors", True), ("network, worker processes", False)):
                results[kind] = with_network(work, args.repository, args.real_questions, examples, on_ray=on_ray)
    print_result(results, _table(results), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
