"""Prepare the training files of spanqa-minilm: what is drawn, what is held back, what is made.

    python training/recipes/minilm_data.py DATA -o results/minilm/data --apart-from heldout16.json

writes sentences.json, passages.json, questions.json and squad.json (the four stages) and held_back.json (the threshold
and the scale of the scores). DATA is the folder that `training/recipes/minilm.sh` describes. A passage that shares
eight words in a row with the held-back ones, or with one of a file of `--apart-from`, is trained on in no stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import re
from collections.abc import Iterable
from pathlib import Path

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.negatives import make_negatives

HELD_BACK_TITLES = ("Oxygen", "Pharmacy", "squad_train_157", "squad_train_177", "squad_train_192", "squad_train_288")
"""Articles that no stage trains on: threshold and scale of the scores are fitted on their questions."""
SEED = 42
TRAINING_SET = ("squad_train_raw.json.gz", "squad_train_rebuilt.json.gz", "squad_train_lower.json.gz")
"""Parts of SQuAD 2.0's training set."""
OTHERS = ("squad11_dev13.json.gz", "tydiqa_en.json.gz", "nq_small.json.gz")
"""Wikipedia's passages with questions of other collections, nearly all answerable."""
LIKE_SQUAD = ("squad11_dev13.json.gz", "squadshifts_new_wiki.json")
"""Wikipedia's passages with questions written as SQuAD's were."""
STORIES, N_STORIES = "fairytaleqa.json.gz", 1_000
MADE_SHARES = {"moved": 0.45, "cut": 0.3, "edited": 0.2, "negated": 0.05}
N_MADE = 5_500
HELD_BACK = "held_back.json"
RUN = 8
"""Words in a row that two passages do not share by chance."""


def drawn(examples: list[Example], count: int) -> list[Example]:
    """A random part of a dataset, in its order."""
    keep = sorted(random.Random(SEED).sample(range(len(examples)), min(count, len(examples))))  # noqa: S311
    return [examples[index] for index in keep]


def is_held_back(example: Example) -> bool:
    """Whether a question's article is held back."""
    return example.title in HELD_BACK_TITLES


def runs_of(text: str) -> Iterable[tuple[str, ...]]:
    """All runs of eight words of a text, case and signs left out."""
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[first:] for first in range(RUN)), strict=False)


def apart(examples: list[Example], others: list[Example]) -> list[Example]:
    """The questions on passages that share no run of eight words with a passage of others."""
    taken = {run for context in {example.context for example in others} for run in runs_of(context)}
    shares = {context: not taken.isdisjoint(runs_of(context)) for context in {one.context for one in examples}}
    return [example for example in examples if not shares[example.context]]


def _numbered(examples: list[Example]) -> list[Example]:
    """The same, with one number for each passage of all the files that they come from."""
    numbers: dict[tuple[str, str], int] = {}
    return [
        dataclasses.replace(example, paragraph=numbers.setdefault((example.title, example.context), len(numbers)))
        for example in examples
    ]


def first_stages(data: Path) -> dict[str, list[Example]]:
    """The questions of the first two stages, by file."""
    squad = read_dataset(data / "articles19.json")
    qamr = read_dataset(data / "qamr_wiki_sentences.json")
    wiki = read_dataset(data / "squadshifts_new_wiki.json")
    return {
        "sentences.json": drawn(qamr, 20_000) + make_negatives(qamr, count=4_000, seed=SEED),
        "passages.json": [example for example in squad if not is_held_back(example)]
        + drawn(wiki, 5_000)
        + make_negatives(wiki, count=1_500, seed=SEED),
    }


def last_stages(data: Path) -> dict[str, list[Example]]:
    """The questions of the last two stages and those that are held back, by file."""
    squad, training = _read(data, ("articles19.json",)), _read(data, TRAINING_SET)
    trained, articles, wide, alike, stories = (
        [example for example in examples if not is_held_back(example)]
        for examples in (training, squad, _read(data, OTHERS), _read(data, LIKE_SQUAD), _read(data, (STORIES,)))
    )
    return {
        "questions.json": trained + articles + wide + drawn(stories, N_STORIES) + _made(trained, wide, seed=SEED),
        "squad.json": trained + articles + alike + _made(trained, alike, seed=SEED + 1),
        HELD_BACK: [example for example in squad + training if is_held_back(example)],
    }


def _read(data: Path, names: Iterable[str]) -> list[Example]:
    return [example for name in names for example in read_dataset(data / name)]


def _made(trained: list[Example], others: list[Example], *, seed: int) -> list[Example]:
    return [
        negative
        for part, count in ((trained, N_MADE * 2 // 3), (others, N_MADE // 3))
        for negative in make_negatives(_numbered(part), count=count, seed=seed, shares=MADE_SHARES)
    ]


def main() -> None:
    """Write the five files."""
    parser = argparse.ArgumentParser(description="Prepare the training files of spanqa-minilm.")
    parser.add_argument("data", type=Path, help="folder of the datasets that training/recipes/minilm.sh names")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write to")
    parser.add_argument(
        "--apart-from", nargs="*", default=[], type=Path, help="datasets of which nothing is trained on"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    files = {**first_stages(args.data), **last_stages(args.data)}
    never = [example for path in args.apart_from for example in read_dataset(path)]
    for name, examples in files.items():
        others = never if name == HELD_BACK else never + files[HELD_BACK]
        kept = apart(examples, others)
        write_squad(kept, args.output / name)
        n_unanswerable = sum(not example.answers for example in kept)
        print(
            f"{args.output / name}: {len(kept):,} questions, {n_unanswerable:,} unanswerable;"
            f" {len(examples) - len(kept):,} left out for their passages"
        )


if __name__ == "__main__":
    main()
