"""`spanqa negatives`: a SQuAD 2.0 file of unanswerable questions made from an answerable dataset."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.errors import DataError
from spanqa.files import write_atomically
from spanqa.squad import Example
from spanqa_training.data.negatives import KINDS, SHARES, make_negatives


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("dataset", help=f"answerable questions: {DATASET_FORMATS}")
    parser.add_argument("-o", "--output", required=True, help="SQuAD 2.0 file to write")
    parser.add_argument("--count", type=int, default=1000, help="questions to make (default: %(default)s)")
    parser.add_argument(
        "--kinds",
        default=",".join(f"{kind}={share}" for kind, share in SHARES.items()),
        help=f"shares of what is made, of {', '.join(KINDS)} (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=42, help="decides which (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Make the questions and write them.

    Raises:
        DataError: If the count is none, a kind is unknown, the output is the input, or no question can be made.
    """
    if args.count < 1:
        raise DataError(f"--count {args.count}: give how many questions to make, 1 or more")
    if Path(args.output).resolve() == Path(args.dataset).resolve():
        raise DataError(f"{args.output}: is the dataset itself, which would be lost: give another file with -o")
    shares = _shares(args.kinds)
    made = make_negatives(read_dataset(args.dataset), count=args.count, seed=args.seed, shares=shares)
    write_squad(made, Path(args.output))
    counts = Counter(example.id.partition("-")[0] for example in made)
    asked = "" if len(made) == args.count else f" of the {args.count:,} asked for, as the dataset yields no more"
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in shares)
    print(f"{args.output}: {len(made):,} unanswerable questions{asked} ({kinds})")
    return 0


def _shares(text: str) -> dict[str, float]:
    """Shares by kind from `moved=0.6,edited=0.4`."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, _, share = part.strip().partition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            shares[kind] = -1.0
        if kind not in KINDS or not 0 < shares[kind] < math.inf:
            raise DataError(f"--kinds {text}: give KIND=SHARE,..., with shares above 0, of {', '.join(KINDS)}")
    return shares


def write_squad(examples: Sequence[Example], path: Path) -> None:
    """Write examples as a SQuAD 2.0 file, atomically; neighbours of one paragraph share it."""
    articles: list[dict[str, Any]] = []
    last: Example | None = None
    for example in examples:
        if last is None or example.title != last.title:
            articles.append({"title": example.title, "paragraphs": []})
        if last is None or _passage(example) != _passage(last):
            articles[-1]["paragraphs"].append({"context": example.context, "qas": []})
        answers = [{"text": answer.text, "answer_start": answer.char_start} for answer in example.answers]
        articles[-1]["paragraphs"][-1]["qas"].append(
            {"id": example.id, "question": example.question, "answers": answers, "is_impossible": not answers}
        )
        last = example
    write_atomically(path, json.dumps({"version": "v2.0", "data": articles}, ensure_ascii=False))


def _passage(example: Example) -> tuple[str, int, str]:
    return example.title, example.paragraph, example.context
