"""kill -9 at random moments of indexing: after the run that follows, every document is there once.

A folder of JSON Lines files is indexed by `spanqa index`, which is killed; the index must open, and what the next run
leaves must be what an undisturbed run leaves. Commits are made far more often than usual, so that kills meet them,
and a process of its own reads, as it does where there is much to read.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_setting import parser_of, print_result
from tqdm import tqdm

from spanqa_retrieval.settings import is_index
from spanqa_retrieval.tantivy_engine import TantivyIndex

CODE = """
import sys
from spanqa_retrieval import indexing, reading_process
indexing.COMMIT_S = 0.05
reading_process.WORTH_BYTES = 0
from spanqa.cli import main
sys.exit(main(sys.argv[1:]))
"""
N_FILES, N_ROWS = 400, 20


def main() -> None:
    """Kill, look, index again, compare, and print how often what was found."""
    parser = parser_of(__doc__)
    parser.add_argument("--kills", metavar="N", type=int, default=30, help="(default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = killed_runs(Path(name), args.kills, quiet=args.quiet)
    table = [("what", "found"), *((key, str(value)) for key, value in result.items())]
    print_result(result, table, as_json=args.json)
    raise SystemExit(result["documents lost"] + result["documents doubled"] + result["did not open"] > 0)


def killed_runs(folder: Path, n_kills: int, *, quiet: bool) -> dict[str, Any]:
    """Index as often as said, each time killed once at another moment."""
    docs = folder / "docs"
    docs.mkdir()
    for number in range(N_FILES):
        rows = [json.dumps({"id": f"{number}-{row}", "text": f"river {number} {row}. " * 40}) for row in range(N_ROWS)]
        (docs / f"{number}.jsonl").write_text("\n".join(rows), "utf-8")
    began = time.monotonic()
    index_into(folder / "whole", docs)
    whole_s = time.monotonic() - began
    expected = {f"{number}-{row}" for number in range(N_FILES) for row in range(N_ROWS)}
    counts = dict.fromkeys(("kills", "amid a run", "did not open", "documents lost", "documents doubled"), 0)
    drawn = random.Random(30)  # noqa: S311 - no secret
    for attempt in tqdm(range(n_kills), disable=True if quiet else None):
        target = folder / f"killed{attempt}"
        with subprocess.Popen(command(target, docs), stdout=subprocess.DEVNULL) as process:
            time.sleep(drawn.uniform(0.2, 1.0) * whole_s)
            counts["amid a run"] += process.poll() is None
            process.send_signal(signal.SIGKILL)
        counts["kills"] += 1
        counts["did not open"] += not opens(target)
        index_into(target, docs)
        found = documents(TantivyIndex(target))
        counts["documents lost"] += len(expected - set(found))
        counts["documents doubled"] += len(found) - len(set(found))
    return counts


def command(target: Path, docs: Path) -> list[str]:
    """Give the command that indexes the folder."""
    return [sys.executable, "-c", CODE, "index", str(docs), "-o", str(target), "--quiet"]


def index_into(target: Path, docs: Path) -> None:
    """Index the folder, undisturbed."""
    subprocess.run(command(target, docs), check=True, stdout=subprocess.DEVNULL)


def opens(target: Path) -> bool:
    """Say whether a killed run left an index that can be asked, or none yet."""
    if not target.exists():
        return True
    if not is_index(target):
        return False
    documents(TantivyIndex(target))
    return True


def documents(index: TantivyIndex) -> list[str]:
    """Give the ids of all documents of which there is a first passage."""
    hits = index.search("river", top_k=4 * N_FILES * N_ROWS)
    return [hit.passage.document for hit in hits if hit.passage.char_start == 0]


if __name__ == "__main__":
    main()
