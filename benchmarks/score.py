"""Time of `spanqa score` on 11,873 predictions, against the same metrics written plainly (plain_score.py)."""

from __future__ import annotations

import gzip
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_setting import DATASET, parser_of, print_result

TARGET_S = 1.5
FILES = {
    "dataset": DATASET,
    "predictions": DATASET.with_name("predictions_bert_single_model.json.gz"),
    "na_probs": DATASET.with_name("na_probs_seed1.json.gz"),
}


def _timed(command: list[str]) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - began, json.loads(done.stdout)


def main() -> int:
    """Run the commands in turn, from the start of each process to its end, and compare what they say."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.json" for name in FILES}
        for name, path in paths.items():
            path.write_bytes(gzip.decompress(FILES[name].read_bytes()))
        pair = [str(paths["dataset"]), str(paths["predictions"])]
        ours = [sys.executable, "-m", "spanqa.cli", "score", *pair, "--json"]
        commands = {
            "spanqa score": ours,
            "spanqa score --na-probs": [*ours, "--na-probs", str(paths["na_probs"])],
            "the metrics written plainly": [sys.executable, str(Path(__file__).with_name("plain_score.py")), *pair],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        said: dict[str, dict[str, Any]] = {}
        for _ in range(args.rounds):
            for name, command in commands.items():
                took_s, said[name] = _timed(command)
                seconds[name].append(took_s)
    one, other = said["spanqa score"], said["the metrics written plainly"]
    if not all(math.isclose(one[key], other[key], rel_tol=1e-12) for key in ("exact", "f1", "total")):
        print(f"the two disagree: {one} against {other}", file=sys.stderr)
        return 1
    rows = [
        {"command": name, "median_s": statistics.median(measured), "best_s": min(measured)}
        for name, measured in seconds.items()
    ]
    table = [("command, from start to end of its process", "median s", "best s")]
    table += [(str(row["command"]), f"{row['median_s']:.3f}", f"{row['best_s']:.3f}") for row in rows]
    result = {"predictions": one["total"], "target_s": TARGET_S, "score": rows}
    print_result(result, table, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
