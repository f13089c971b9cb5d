"""Memory of training data: peak resident memory of indexing and reading one epoch, for a file and one ten times it."""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench_setting import ROOT, parser_of, print_result

from spanqa.datasets import iter_dataset
from spanqa.squad import Example
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_training.data.batch_order import batch_order
from spanqa_training.data.window_index import build_or_open_index

QUESTIONS = (50_000, 500_000)
TARGET_RATIO = 1.2
BATCH_SIZE = 24
TOKENIZER = ROOT / "training" / "checkpoints" / "spanqa-minilm"


def _copies(files: Sequence[Path]) -> Iterator[tuple[int, Path, Iterator[Example]]]:
    """The paragraphs of real files, again and again: copy number, file, and the questions of one paragraph."""
    for copy in itertools.count():
        for file in files:
            for _, group in itertools.groupby(iter_dataset(file), key=lambda example: example.paragraph):
                yield copy, file, group


def _write_dataset(files: Sequence[Path], n_questions: int, path: Path) -> None:
    """Write a SQuAD file of fresh ids and fresh contexts: every copy of a paragraph ends in a word of its own."""
    n_left = n_questions
    with path.open("w", encoding="utf-8") as out:
        out.write('{"data": [{"title": "copies", "paragraphs": [')
        for copy, _, group in _copies(files):
            examples = list(itertools.islice(group, n_left))
            qas = [
                {
                    "id": f"{copy}-{n_left - number}",
                    "question": example.question,
                    "answers": [{"text": answer.text, "answer_start": answer.char_start} for answer in example.answers],
                }
                for number, example in enumerate(examples)
            ]
            out.write("," if n_left < n_questions else "")
            json.dump({"context": f"{examples[0].context} copy{copy}", "qas": qas}, out)
            n_left -= len(examples)
            if not n_left:
                break
        out.write("]}]}")


def _measure(dataset: Path, folder: Path) -> dict[str, Any]:
    """Index a file and read one epoch, in this process."""
    maker = WindowMaker(load_tokenizer(TOKENIZER), WindowSettings())
    began = time.perf_counter()
    with build_or_open_index([dataset], maker, folder=folder) as index:
        indexed = time.perf_counter()
        order = batch_order(index.lengths, BATCH_SIZE, seed=0, epoch=0, shuffle=True)
        n_read = sum(len(index.batch(indices).starts) for indices in order)
        ended = time.perf_counter()
        return {
            "questions": index.n_questions,
            "windows": n_read,
            "dataset_mb": dataset.stat().st_size / 1e6,
            "index_mb": sum(file.stat().st_size for file in index.folder.iterdir()) / 1e6,
            "index_s": indexed - began,
            "epoch_s": ended - indexed,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }


def _measured_apart(args: argparse.Namespace, n_questions: int, folder: Path) -> dict[str, Any]:
    """Measure in a fresh process. This one stays small: what it holds would count as the other's first peak."""
    dataset = folder / f"{n_questions}.json"
    _write_dataset(args.files, n_questions, dataset)
    command = [sys.executable, __file__, "--measure", str(dataset), str(folder / "index")]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    dataset.unlink()
    return dict(json.loads(done.stdout))


def main() -> int:
    """Make the files, measure each, and print the ratio of the two peaks."""
    parser = parser_of(__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="real datasets to make large ones of")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(*args.files)))
        return 0
    with tempfile.TemporaryDirectory(prefix="spanqa-training-memory-") as folder:
        rows = [_measured_apart(args, n_questions, Path(folder)) for n_questions in QUESTIONS]
    ratio = rows[-1]["peak_mb"] / rows[0]["peak_mb"]
    table: list[tuple[str, ...]] = [("questions", "windows", "dataset MB", "index MB", "index s", "epoch s", "peak MB")]
    table += [
        (
            f"{row['questions']:,}",
            f"{row['windows']:,}",
            *(f"{row[name]:.1f}" for name in ("dataset_mb", "index_mb", "index_s", "epoch_s", "peak_mb")),
        )
        for row in rows
    ]
    table.append(("ratio", *[""] * 5, f"{ratio:.2f} (<= {TARGET_RATIO})"))
    print_result({"training_memory": {"sizes": rows, "peak_ratio": ratio}}, table, as_json=args.json)
    return 0 if ratio <= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
