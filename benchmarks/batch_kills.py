"""kill -9 at random moments of a batch: after the run that goes on, every id is there once.

`spanqa batch` answers rows with a table for the network, in two worker processes, and is killed; every part must be
whole, and after `--resume` each row is answered once.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench_setting import heldout_examples, parser_of, print_result
from pyarrow import parquet
from table_model import write_table_repository
from tqdm import tqdm

N_ROWS, ROWS_PER_PART = 600, 10


def main() -> None:
    """Kill, look, go on, compare, and print how often what was found."""
    parser = parser_of(__doc__)
    parser.add_argument("--kills", metavar="N", type=int, default=30, help="(default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = killed_runs(Path(name), args.kills, quiet=args.quiet)
    table = [("what", "found"), *((key, str(value)) for key, value in result.items())]
    print_result(result, table, as_json=args.json)
    raise SystemExit(result["rows lost"] + result["rows doubled"] + result["broken parts"] > 0)


def killed_runs(folder: Path, n_kills: int, *, quiet: bool) -> dict[str, Any]:
    """Answer the rows as often as said, each time killed once at another moment."""
    rows = folder / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for number, example in enumerate(heldout_examples()[:N_ROWS]):
            row = {"id": f"{number}", "question": example.question, "context": example.context}
            file.write(json.dumps(row) + "\n")
    write_table_repository(folder / "table")
    began = time.monotonic()
    subprocess.run(command(folder, folder / "whole"), check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - began
    expected = set(ids_of(folder / "whole"))
    names = ("kills", "amid a run", "parts at the kill", "broken parts", "rows lost", "rows doubled")
    counts = dict.fromkeys(names, 0)
    drawn = random.Random(30)  # noqa: S311 - no secret
    for attempt in tqdm(range(n_kills), disable=True if quiet else None):
        target = folder / f"killed{attempt}"
        with subprocess.Popen(command(folder, target), stdout=subprocess.DEVNULL) as process:
            time.sleep(drawn.uniform(0.2, 1.0) * whole_s)
            counts["amid a run"] += process.poll() is None
            process.send_signal(signal.SIGKILL)
        counts["kills"] += 1
        try:
            counts["parts at the kill"] += len(ids_of(target)) // ROWS_PER_PART
        except (OSError, ValueError):
            counts["broken parts"] += 1
        subprocess.run([*command(folder, target), "--resume"], check=True, stdout=subprocess.DEVNULL)
        found = Counter(ids_of(target))
        counts["rows lost"] += len(expected - found.keys())
        counts["rows doubled"] += sum(found.values()) - len(found)
    return counts


def command(folder: Path, target: Path) -> list[str]:
    """Give the command that answers the rows."""
    options = ["--workers", "2", "--rows-per-part", str(ROWS_PER_PART), "--quiet"]
    batch = ["batch", str(folder / "rows.jsonl"), "-o", str(target), "--repository", str(folder / "table")]
    return [sys.executable, "-m", "spanqa.cli", *batch, *options]


def ids_of(target: Path) -> list[str]:
    """Give the ids in all parts of a folder, which must be whole."""
    parts = sorted(target.glob("part-*.parquet"))
    return [name for part in parts for name in parquet.read_table(part, columns=["id"])["id"].to_pylist()]


if __name__ == "__main__":
    main()
