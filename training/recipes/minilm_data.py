"""Prepare the training files of spanqa-minilm: what is drawn, what is held back, what is made.

    python training/recipes/minilm_data.py --squad articles19.json --qamr qamr_wiki_sentences.json \
        --wiki squadshifts_new_wiki.json -o results/minilm/data

writes sentences.json (first stage), passages.json (second stage) and held_back.json (the no-answer threshold).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.negatives import make_negatives

HELD_BACK_TITLES = ("Oxygen", "Pharmacy")
"""Articles that no stage trains on: the threshold is fitted on their questions."""
SEED = 42


def drawn(examples: list[Example], count: int) -> list[Example]:
    """A random part of a dataset, in its order."""
    keep = sorted(random.Random(SEED).sample(range(len(examples)), min(count, len(examples))))  # noqa: S311
    return [examples[index] for index in keep]


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Prepare the training files of spanqa-minilm.")
    parser.add_argument("--squad", required=True, help="articles19.json: SQuAD 2.0 dev without the held-out articles")
    parser.add_argument("--qamr", required=True, help="qamr_wiki_sentences.json")
    parser.add_argument("--wiki", required=True, help="squadshifts_new_wiki.json")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write to")
    parser.add_argument("--n-sentences", type=int, default=20_000, help="QAMR questions (default: %(default)s)")
    parser.add_argument("--n-wiki", type=int, default=5_000, help="SQuADShifts questions (default: %(default)s)")
    parser.add_argument("--n-negatives", type=int, nargs=2, default=(4_000, 1_500), help="made for the two stages")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    squad, qamr, wiki = (read_dataset(path) for path in (args.squad, args.qamr, args.wiki))
    sentence_negatives, wiki_negatives = args.n_negatives
    files = {
        "sentences.json": drawn(qamr, args.n_sentences) + make_negatives(qamr, count=sentence_negatives, seed=SEED),
        "passages.json": [example for example in squad if example.title not in HELD_BACK_TITLES]
        + drawn(wiki, args.n_wiki)
        + make_negatives(wiki, count=wiki_negatives, seed=SEED),
        "held_back.json": [example for example in squad if example.title in HELD_BACK_TITLES],
    }
    for name, examples in files.items():
        write_squad(examples, args.output / name)
        n_unanswerable = sum(not example.answers for example in examples)
        print(f"{args.output / name}: {len(examples):,} questions, {n_unanswerable:,} unanswerable")


if __name__ == "__main__":
    main()
