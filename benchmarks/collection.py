"""Collections: recall by how passages are cut and weighed, time of a query, rate and size of an index.

The collection is made of the contexts of the SQuAD files that are given, each a document; the questions are the
held-out ones that have an answer. `--grow N` makes N texts of five sentences each, drawn at random from these contexts.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import numpy as np
from bench_setting import heldout_examples, parser_of, print_result
from tqdm import tqdm

from spanqa.examples import Example
from spanqa.sentences import sentence_spans
from spanqa_retrieval.document import Document, Passage
from spanqa_retrieval.evaluation import find_all, recall
from spanqa_retrieval.indexing import Report, update_index
from spanqa_retrieval.passages import passages_of
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import find_sources
from spanqa_retrieval.tantivy_engine import TantivyIndex, create_index
from spanqa_retrieval.words import Words

KS = (1, 5, 20)
WHOLE = IndexSettings(passage_words=1000, overlap_sentences=0)
VARIANTS = {
    "as spanqa cuts them": IndexSettings(),
    "whole paragraphs": WHOLE,
    "50 words": IndexSettings(passage_words=50),
    "200 words": IndexSettings(passage_words=200),
    "no sentence in common": IndexSettings(overlap_sentences=0),
    "titles left out": IndexSettings(title_weight=0.0),
    "titles weighing 0.3": IndexSettings(title_weight=0.3),
    "titles weighing 2": IndexSettings(title_weight=2.0),
    "words left as they are": IndexSettings(stemmer="none"),
}
BM25 = [(k1, b) for k1 in (0.6, 0.9, 1.2, 1.6, 2.0) for b in (0.3, 0.4, 0.6, 0.75, 0.9)]
"""tantivy's own are 1.2 and 0.75, and cannot be changed: what others would give is worked out here."""


def main() -> None:
    """Index the files in each way, search, and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="SQuAD files")
    parser.add_argument("--questions", metavar="N", type=int, default=1500, help="(default: %(default)s)")
    parser.add_argument("--grow", metavar="N", type=int, help="only: N passages, their rate, size and queries")
    args = parser.parse_args()
    examples = [example for example in heldout_examples() if example.answers][: args.questions]
    with tempfile.TemporaryDirectory() as folder:
        if args.grow:
            rows = grown(args.files, args.grow, Path(folder), examples, args.quiet)
        else:
            rows = [variant(name, chosen, args.files, Path(folder), examples) for name, chosen in VARIANTS.items()]
            rows += fitted_bm25(args.files, examples)
    head = tuple(rows[0])
    table = [head, *(tuple(_said(row.get(name)) for name in head) for row in rows)]
    print_result({"rows": rows, "questions": len(examples)}, table, as_json=args.json)


def variant(
    name: str, chosen: IndexSettings, files: Sequence[Path], folder: Path, examples: Sequence[Example]
) -> dict[str, Any]:
    """Index the files in one way and search it for all questions."""
    report = Report()
    index = create_index(folder / name.replace(" ", "_"), chosen)
    began = time.perf_counter()
    update_index(index, find_sources(files, report.skipped.append), report)
    seconds = time.perf_counter() - began
    return {"way": name, **measured(index, report, seconds, examples)}


def measured(index: TantivyIndex, report: Report, seconds: float, examples: Sequence[Example]) -> dict[str, Any]:
    """Give what an index gives and takes."""
    found = find_all(index, examples, KS[-1])
    context = recall(found, KS)["context"]
    answer = recall(found, KS)["answer"]
    ms = [one.search_ms for one in found]
    return {
        "passages": report.n_passages,
        **{f"context @{k}": value for k, value in zip(KS, context, strict=True)},
        **{f"answer @{k}": value for k, value in zip(KS, answer, strict=True)},
        "ms p50": median(ms),
        "ms p99": quantiles(ms, n=100)[98],
        "passages/s": report.n_passages / seconds,
        "bytes / text": index.n_bytes() / max(report.n_chars, 1),
    }


def grown(
    files: Sequence[Path], n_passages: int, folder: Path, examples: Sequence[Example], quiet: bool
) -> list[dict[str, Any]]:
    """Make a large collection as JSON Lines, index it, and search it for all questions."""
    made = folder / "grown.jsonl"
    with made.open("w", encoding="utf-8") as file:
        rows = tqdm(recombined(files, n_passages), total=n_passages, disable=True if quiet else None)
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    report = Report()
    index = create_index(folder / "grown", IndexSettings())
    began = time.perf_counter()
    update_index(index, find_sources([*files, made], report.skipped.append), report)
    row = measured(index, report, time.perf_counter() - began, examples)
    return [{"way": f"{n_passages:,} grown", **row, "MB": index.n_bytes() / 1e6}]


def recombined(files: Sequence[Path], n_passages: int) -> Iterator[dict[str, str]]:
    """Give texts of five sentences from five contexts, with the title of the first."""
    sentences = [
        (document.title, document.text[start:end])
        for document in documents(files)
        for start, end in sentence_spans(document.text)
    ]
    drawn = random.Random(7)  # noqa: S311 - no secret
    for number in range(n_passages):
        chosen = [drawn.choice(sentences) for _ in range(5)]
        text = " ".join(sentence for _, sentence in chosen)
        yield {"id": f"grown-{number}", "title": chosen[0][0], "text": text}


def documents(files: Sequence[Path]) -> Iterator[Document]:
    """Give the documents of SQuAD files."""
    for source in find_sources(files, print):
        yield from read_documents(source, print)


def fitted_bm25(files: Sequence[Path], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Fit k1 and b on half of the questions, and give the other half's recall with these, and with tantivy's."""
    passages = [passage for document in documents(files) for passage in passages_of(document, IndexSettings())]
    scorer = Bm25(passages)
    fit, rest = examples[::2], examples[1::2]
    best = max(BM25, key=lambda pair: mean(scorer.recall(fit, *pair)))
    rows = []
    for name, pair in (("BM25 worked out, tantivy's k1 1.2, b 0.75", (1.2, 0.75)), (f"fitted k1, b: {best}", best)):
        found = scorer.recall(rest, *pair)
        rows.append({"way": name, "passages": len(passages), **dict(zip([f"context @{k}" for k in KS], found))})  # noqa: B905
    return rows


class Bm25:
    """BM25 over texts and titles as tantivy adds them up, with any k1 and b; for some thousand passages."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages, self._words = passages, Words("english")
        self._fields = [self._postings([passage.text for passage in passages])]
        self._fields.append(self._postings([passage.title for passage in passages]))

    def _postings(self, texts: Sequence[str]) -> tuple[dict[str, tuple[Any, Any]], Any]:
        lengths = np.zeros(len(texts))
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for place, text in enumerate(texts):
            words = self._words.of(text)
            lengths[place] = len(words)
            for word, count in Counter(words).items():
                postings[word].append((place, count))
        arrays = {word: tuple(np.array(column) for column in zip(*found)) for word, found in postings.items()}  # noqa: B905
        return arrays, lengths / max(lengths.mean(), 1e-9)

    def recall(self, examples: Sequence[Example], k1: float, b: float) -> list[float]:
        """Give the part of the questions, in percent, whose context is among the best."""
        ranks = []
        for example in examples:
            scores = np.zeros(len(self._passages))
            for word in set(self._words.of(example.question)):
                for postings, lengths in self._fields:
                    if word not in postings:
                        continue
                    places, counts = postings[word]
                    idf = np.log(1 + (len(self._passages) - len(places) + 0.5) / (len(places) + 0.5))
                    norm = k1 * (1 - b + b * lengths[places])
                    scores[places] += idf * (k1 + 1) * counts / (counts + norm)
            best = np.argsort(-scores, kind="stable")[: KS[-1]]
            ranks.append(next((rank for rank, at in enumerate(best) if self._is_own(at, example)), KS[-1]))
        return [100 * mean(rank < k for rank in ranks) for k in KS]

    def _is_own(self, place: int, example: Example) -> bool:
        return " ".join(self._passages[place].text.split()) in " ".join(example.context.split())


def _said(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
