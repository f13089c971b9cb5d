"""spanqa against its peers in one run: the same checkpoint, questions, machine and cores, everyone from text to answer.

Peers: the Hugging Face pipeline (transformers 5.2.0, its last release), Haystack's reader, the checkpoint's network in
torch, and, without text at either end, the served networks bare in ONNX Runtime. Each has an environment of its own,
which is made in the first run and kept. They take turns, and every turn is a fresh process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_setting import REPOSITORY, ROOT, answering_folder, heldout_examples, parser_of, print_result
from peer_environments import PeerError, default_folder, environment_python
from peer_figures import Record, Way, comparison, figures, sentences_of, table_of
from peer_turn import take_turn
from tqdm import tqdm

from spanqa.manifest import load_served_tokenizer
from spanqa.squad import Example
from spanqa.windows import N_SPECIAL_TOKENS

SHIPPED = ROOT / "training" / "checkpoints" / "spanqa-minilm"
N_WARM_UP = 32
"""Other questions, asked before each turn and used to find a peer's best batch size."""
IN_FLIGHT = 16
SERVED = {"1 in flight": 1, f"{IN_FLIGHT} in flight": IN_FLIGHT}
BARE = {"one by one": 1, "best way": 0}


def _ways() -> list[Way]:
    pipeline = {f"batch {size}": size for size in (1, 8)}
    peers = [
        ("spanqa-int8", "by_spanqa.py", SERVED, "int8", None),
        ("spanqa-float32", "by_spanqa.py", SERVED, "float32", None),
        ("transformers", "by_pipeline.py", pipeline, "hugging-face", "peers-transformers.txt"),
        ("haystack", "by_haystack.py", {"one by one": 1}, "hugging-face", "peers-haystack.txt"),
        ("torch", "by_torch.py", {"one by one": 1, "sorted batches": 0}, "checkpoint", None),
        ("bare-int8", "by_onnxruntime.py", BARE, "int8", None),
        ("bare-float32", "by_onnxruntime.py", BARE, "float32", None),
    ]
    return [
        Way(peer=peer, name=name, script=script, batch_size=size, loads=loads, requirements=requirements)
        for peer, script, sizes, loads, requirements in peers
        for name, size in sizes.items()
    ]


def _spanqa(*arguments: str | Path) -> None:
    """Run one of the project's own commands."""
    command = [sys.executable, "-m", "spanqa.cli", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PeerError(f"spanqa {arguments[0]} failed: {lines[-1]}")


class Preparation:
    """What peers need before their turns, each thing made once and only where somebody needs it.

    Args:
        args: The command line.
        folder: For what is exported and built.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        self._folder = folder
        self._made: dict[str, Path | PeerError] = {}

    def python(self, way: Way) -> Path:
        """Give the Python of a way's environment."""
        if way.requirements is None:
            return Path(sys.executable)
        file = ROOT / "requirements" / way.requirements
        return self._once(file.name, lambda: environment_python(file, self._args.environments, quiet=self._args.quiet))

    def place(self, way: Way) -> Path:
        """Give what a way's peer loads: a repository, the checkpoint, or its Hugging Face folder."""
        makers: dict[str, Callable[[], Path]] = {
            "int8": lambda: REPOSITORY,
            "checkpoint": lambda: SHIPPED,
            "float32": self._float32_repository,
            "hugging-face": self._hugging_face_folder,
        }
        return self._once(way.loads, makers[way.loads])

    def _once(self, name: str, make: Callable[[], Path]) -> Path:
        if name not in self._made:
            try:
                self._made[name] = make()
            except PeerError as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, PeerError):
            raise made
        return made

    def _float32_repository(self) -> Path:
        place = self._folder / "float32"
        # The bare network beside it runs in ONNX Runtime: the same file for both.
        _spanqa("build", "-m", SHIPPED, "--engine", "onnxruntime", "--precision", "float32", "-o", place)
        return place

    def _hugging_face_folder(self) -> Path:
        place = self._folder / "hugging-face"
        spec = ROOT / "training" / "specs" / "export.yaml"
        _spanqa("export", "-e", spec, "-m", SHIPPED, "-r", self._folder, "-o", place, "export_format=HF")
        return place


def _windows(examples: Sequence[Example]) -> dict[str, int]:
    """The checkpoint's windows as Hugging Face counts them.

    There a window's overlap is given, the same for every question; here it is the step. They agree for a question of
    median length.
    """
    manifest, tokenizer = load_served_tokenizer(answering_folder(REPOSITORY))
    settings = manifest.windows
    pieces = statistics.median_low(len(tokenizer.pieces(example.question)) for example in examples)
    room = settings.max_seq_length - N_SPECIAL_TOKENS - min(pieces, settings.max_query_length)
    return {
        "max_seq_length": settings.max_seq_length,
        "max_query_length": settings.max_query_length,
        "overlap": room - settings.doc_stride,
        "max_answer_tokens": manifest.decode.max_answer_tokens,
    }


def take_turns(args: argparse.Namespace, task: Mapping[str, Any], folder: Path) -> list[Record]:
    """Let every way have its turn in every round; one that fails has no more."""
    records = [Record(way) for way in _ways() if not args.only or way.peer in args.only]
    preparation = Preparation(args, folder)
    turns = [record for _ in range(args.rounds) for record in records]
    for record in (bar := tqdm(turns, unit="turn", disable=True if args.quiet else None)):
        way = record.way
        bar.set_description(f"{way.peer}, {way.name}")
        if record.error is not None:
            continue
        try:
            python, place = preparation.python(way), preparation.place(way)
            own = {"place": str(place), "batch_size": way.batch_size, "found": record.found}
            record.turns.append(take_turn(python, way.script, {**task, **own}))
        except PeerError as error:
            record.error = str(error)
    return records


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--questions", type=int, default=500, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each (default: %(default)s)")
    names = list(dict.fromkeys(way.peer for way in _ways()))
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument(
        "--environments",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="where the peers' environments are kept, 1.3 GB each (default: in the user's cache)",
    )
    args = parser.parse_args()
    for name in ("questions", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}: give at least 1")
    return args


def main() -> int:
    """Take the turns and print; the exit status is 1 where a peer could not take part."""
    args = _arguments()
    examples = heldout_examples(args.questions + N_WARM_UP)
    asked, warm_up = examples[:-N_WARM_UP], examples[-N_WARM_UP:]
    n_threads = len(os.sched_getaffinity(0))
    task = {
        "questions": [(example.question, example.context) for example in asked],
        "warm_up": [(example.question, example.context) for example in warm_up],
        "windows": _windows(examples),
        "n_threads": n_threads,
    }
    with tempfile.TemporaryDirectory(prefix="spanqa-peers-") as folder:
        records = take_turns(args, task, Path(folder))
    rows = [figures(record, asked) for record in records]
    result = {
        "questions": len(asked),
        "contexts": len({example.context for example in asked}),
        "rounds": args.rounds,
        "threads_each": n_threads,
        "windows": task["windows"],
        "ways": rows,
        "against": comparison(rows, records),
    }
    print_result(result, table_of(result), as_json=args.json)
    if not args.json:
        print(*sentences_of(result), sep="\n")
    return int(any(record.error is not None for record in records))


if __name__ == "__main__":
    sys.exit(main())
