"""Write heldout16.json: the 6,078 questions of SQuAD 2.0's development set that the shipped model never saw.

They are those on 16 of its 35 articles; the model was trained on 17 others, and two set its threshold.

    python benchmarks/heldout16.py heldout16.json
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from spanqa.files import write_atomically

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main() -> None:
    """Pick the articles."""
    parser = argparse.ArgumentParser(description="Write the held-out questions of SQuAD 2.0's development set.")
    parser.add_argument("output", type=Path, help="file to write")
    args = parser.parse_args()
    titles = set(json.loads((TESTS / "integration" / "heldout16_titles.json").read_text(encoding="utf-8")))
    with gzip.open(TESTS / "data" / "squad" / "dev-v2.0.json.gz", "rt", encoding="utf-8") as file:
        document = json.load(file)
    articles = [article for article in document["data"] if article["title"] in titles]
    write_atomically(args.output, json.dumps({"version": document["version"], "data": articles}, ensure_ascii=False))
    n_questions = sum(len(paragraph["qas"]) for article in articles for paragraph in article["paragraphs"])
    print(f"{args.output}: {n_questions:,} questions on {len(articles)} articles")


if __name__ == "__main__":
    main()
