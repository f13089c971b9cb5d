"""How well a threshold fitted on some held-back articles serves another.

    python training/recipes/minilm_threshold.py CHECKPOINT held_back.json [--store]

Each article's questions are scored at the threshold that is best for all the others (cross-fitting), at the threshold
that the checkpoint stores, and at the one that is best for themselves, an upper bound. `--store` puts the mean of the
thresholds of the others into the checkpoint: the best one for all questions lies on a flat top of a jagged curve, and
one article more or less moves it by more than its worth.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from spanqa.datasets import read_dataset
from spanqa.windows import WindowMaker
from spanqa_training.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from spanqa_training.inference.decode_settings import decode_settings
from spanqa_training.inference.evaluation import Evaluation, evaluate, network_from_model


def of_articles(evaluation: Evaluation, titles: Sequence[str]) -> Evaluation:
    """The part of an evaluation that is about some articles."""
    kept = [index for index, example in enumerate(evaluation.examples) if example.title in titles]
    return dataclasses.replace(
        evaluation,
        examples=[evaluation.examples[index] for index in kept],
        decoded=[evaluation.decoded[index] for index in kept],
    )


def main() -> None:
    """Print a row for each article and one for all."""
    parser = argparse.ArgumentParser(description="Score thresholds across held-back articles.")
    parser.add_argument("checkpoint", help="folder or packed file")
    parser.add_argument("dataset", help="questions about several articles, none of them trained on")
    parser.add_argument(
        "--store", action="store_true", help="store the mean of the thresholds fitted on the others, in float16"
    )
    args = parser.parse_args()
    checkpoint, model = load_checkpoint(args.checkpoint)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    examples = read_dataset(args.dataset)
    evaluation = evaluate(network_from_model(model), maker, examples, decode_settings(checkpoint), quiet=False)
    titles = sorted({example.title for example in examples})
    rows = []
    for title in titles:
        part = of_articles(evaluation, [title])
        others = of_articles(evaluation, [other for other in titles if other != title]).tuned_threshold()
        thresholds = (others, checkpoint.no_answer_threshold, part.tuned_threshold())
        rows.append((title, len(part.examples), others, *(part.scores(value)["f1"] for value in thresholds)))
    total = sum(row[1] for row in rows)
    means = [sum(row[1] * row[place] for row in rows) / total for place in (3, 4, 5)]
    print(f"{'article':<24}{'questions':>10}{'fitted on others':>18}{'F1':>8}{'stored':>8}{'best':>8}")
    for name, count, threshold, *f1 in (*rows, ("all", total, checkpoint.no_answer_threshold, *means)):
        print(f"{name:<24}{count:>10,}{threshold:>18.2f}" + "".join(f"{value:>8.2f}" for value in f1))
    mean = statistics.mean(row[2] for row in rows)
    print(f"mean of the thresholds fitted on the others: {mean:.2f}")
    if args.store:
        with_mean = dataclasses.replace(checkpoint, no_answer_threshold=mean)
        save_checkpoint(with_mean, model, Path(args.checkpoint), dtype="float16")


if __name__ == "__main__":
    main()
