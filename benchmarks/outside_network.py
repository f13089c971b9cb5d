"""What serving costs beside the network: CPU time of each of the server's processes a question, at 16 in flight.

The network is a table of logits, which costs next to nothing, so that what is left is all the rest: gRPC, Triton, the
way to the model's process and back, reading, tokenising, windows, decoding. Windows are cut as in the shipped model.
Questions are asked with the cache of word pieces as shipped, each context asked about before, and without the cache.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_setting import REPOSITORY, answering_folder, heldout_examples, parser_of, print_result
from table_model import write_table_repository
from tqdm import tqdm

from spanqa import contract
from spanqa.limits import CONFIG_FILE
from spanqa.manifest import load_manifest
from spanqa.squad import Example
from spanqa_client.client import QAClient
from spanqa_server.server import Server

CONCURRENCY = 16
TARGET_MS = 1.5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _cpu_s(pid: int) -> float:
    """CPU time of a process so far, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _without_cache(repository: Path) -> None:
    path = repository / contract.QUESTION_ANSWERING / CONFIG_FILE
    text = path.read_text("utf-8")
    pattern = r'(key: "tokenizer_cache_bytes"\s+value \{\s+string_value: )"\d+"'
    path.write_text(re.sub(pattern, r'\1"0"', text), "utf-8")


def milliseconds(repository: Path, examples: Sequence[Example], rounds: int, *, quiet: bool) -> dict[str, float]:
    """CPU milliseconds a question of each process, of the round with the least; the client's is not in the sum."""
    items = [(example.question, example.context) for example in examples]
    best: dict[str, float] = {}
    with Server(repository) as server, QAClient(server.url) as client:
        pids = {"tritonserver": server.triton_pid, **{stub.model: stub.pid for stub in server.stubs()}}
        list(client.ask_many(items, concurrency=CONCURRENCY))
        for _ in tqdm(range(rounds), unit="round", disable=True if quiet else None):
            before = {name: _cpu_s(pid) for name, pid in pids.items()}
            list(client.ask_many(items, concurrency=CONCURRENCY))
            took = {name: (_cpu_s(pid) - before[name]) / len(items) * 1e3 for name, pid in pids.items()}
            took["sum"] = sum(took.values())
            if not best or took["sum"] < best["sum"]:
                best = took
    return best


def main() -> int:
    """Measure, print, and say by the exit status whether the target holds."""
    parser = parser_of(__doc__)
    parser.add_argument("--questions", type=int, default=1000, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    args = parser.parse_args()
    examples = heldout_examples(args.questions)
    windows = load_manifest(answering_folder(REPOSITORY)).windows
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="spanqa-table-") as folder:
        repository = Path(folder) / "repository"
        write_table_repository(repository, windows=windows)
        rows["contexts known"] = milliseconds(repository, examples, args.rounds, quiet=args.quiet)
        _without_cache(repository)
        rows["without the cache"] = milliseconds(repository, examples, args.rounds, quiet=args.quiet)
    names = list(rows["contexts known"])
    table: list[tuple[str, ...]] = [("CPU ms a question", *rows, "target")]
    for name in names:
        table.append(
            (name, *(f"{row[name]:.2f}" for row in rows.values()), f"<= {TARGET_MS:g}" if name == "sum" else "")
        )
    result: dict[str, Any] = {"questions": len(examples), "concurrency": CONCURRENCY, "milliseconds": rows}
    print_result(result, table, as_json=args.json)
    return 0 if rows["contexts known"]["sum"] <= TARGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
