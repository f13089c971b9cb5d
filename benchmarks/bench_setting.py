"""What the benchmarks share: held-out questions, the repository, the machine's name, and how results are printed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spanqa import contract
from spanqa.datasets import read_dataset
from spanqa.squad import Example

ROOT = Path(__file__).resolve().parents[1]
DATASET = ROOT / "tests" / "data" / "squad" / "dev-v2.0.json.gz"
HELDOUT_TITLES = ROOT / "tests" / "integration" / "heldout16_titles.json"
REPOSITORY = ROOT / "model_repository"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a model repository."""
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", default=REPOSITORY, help="the model repository (default: the shipped)"
    )


def heldout_examples(n_questions: int | None = None, *, seed: int = 0) -> list[Example]:
    """Give questions on the 16 articles of SQuAD 2.0's development set that nothing was trained on, in random order.

    Args:
        n_questions: How many; all 6,078 by default.
        seed: The same seed gives the same questions in the same order.
    """
    titles = set(json.loads(HELDOUT_TITLES.read_text("utf-8")))
    examples = [example for example in read_dataset(DATASET) if example.title in titles]
    n_questions = len(examples) if n_questions is None else min(n_questions, len(examples))
    return random.Random(seed).sample(examples, n_questions)  # noqa: S311 (a sample, no secret)


def answering_folder(repository: Path) -> Path:
    """Give the folder that holds a repository's manifest and tokenizer."""
    return repository / contract.QUESTION_ANSWERING / "1"


def network_file(repository: Path) -> Path:
    """Give the network that a repository's encoder runs on a CPU."""
    return repository / contract.ENCODER / "1" / "network.onnx"


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": version("numpy"),
    }


def print_result(result: dict[str, Any], table: Sequence[tuple[str, ...]], *, as_json: bool) -> None:
    """Print a result, as JSON or as a table whose first row is its head."""
    if as_json:
        print(json.dumps({"machine": machine(), **result}, indent=2))
        return
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    about = machine()
    print(f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, numpy {about['numpy']}")
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
