"""SQuAD 2.0's metrics written down plainly, pair by pair, as the rival that `score.py` times.

The algorithm, in the words of its definition: a prediction is compared with each gold answer that is not empty once
normalised (with the empty text where none is left); both texts of every pair are normalised (lower case, no ASCII
punctuation, no articles, single blanks); exact match is equality, F1 that of the two bags of words; a question counts
its best pair, and the scores are the means in percent.

    python benchmarks/plain_score.py DATASET PREDICTIONS
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections import Counter
from pathlib import Path

PUNCTUATION = frozenset(string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """Lower-case, delete punctuation, replace articles by blanks, and join the words by single blanks."""
    text = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def exact_match(predicted: str, gold: str) -> float:
    """1 where the two are equal once normalised, else 0."""
    return float(normalised(predicted) == normalised(gold))


def f1(predicted: str, gold: str) -> float:
    """F1 of two bags of words; where one is empty, whether both are."""
    predicted_words, gold_words = normalised(predicted).split(), normalised(gold).split()
    if not predicted_words or not gold_words:
        return float(predicted_words == gold_words)
    n_common = sum((Counter(predicted_words) & Counter(gold_words)).values())
    if not n_common:
        return 0.0
    precision, recall = n_common / len(predicted_words), n_common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def main() -> int:
    """Read the two files named on the command line and print the two means as JSON."""
    dataset, predictions = (json.loads(Path(path).read_text("utf-8")) for path in sys.argv[1:3])
    n_questions, exact_sum, f1_sum = 0, 0.0, 0.0
    for article in dataset["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                texts = [answer["text"] for answer in question["answers"] if normalised(answer["text"])] or [""]
                predicted = predictions[question["id"]]
                n_questions += 1
                exact_sum += max(exact_match(predicted, text) for text in texts)
                f1_sum += max(f1(predicted, text) for text in texts)
    print(json.dumps({"exact": 100 * exact_sum / n_questions, "f1": 100 * f1_sum / n_questions, "total": n_questions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
