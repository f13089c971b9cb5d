"""`spanqa evaluate-collection`: recall, and answers end to end, on questions whose answers are known."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from spanqa.contract import MAX_ROWS
from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.errors import InputError
from spanqa.examples import Example
from spanqa_client.commands.arguments import add_server
from spanqa_client.commands.connecting import add_connection, client_from
from spanqa_retrieval.asking import Asking
from spanqa_retrieval.commands.arguments import add_index
from spanqa_retrieval.evaluation import Asked, find_all, fitted, read_all, recall, scores_at, scores_of_own, times
from spanqa_retrieval.opening import open_index

KS = (1, 2, 3, 5, 10, 20)
SEED = 16


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("dataset", metavar="DATASET", help=f"questions with their contexts: {DATASET_FORMATS}")
    add_index(parser)
    add_server(parser)
    add_connection(parser)
    parser.add_argument("--search-only", action="store_true", help="recall and times of the search; no server is asked")
    parser.add_argument(
        "--top-k", metavar="K", type=int, default=KS[-1], help=f"most passages, 1..{MAX_ROWS} (default: %(default)s)"
    )
    parser.add_argument("--questions", metavar="N", type=int, help="ask N of the questions, chosen at random by a seed")
    parser.add_argument(
        "--threshold", metavar="X", type=float, help="answer where a margin is at most X (default: the model's)"
    )
    parser.add_argument(
        "--concurrency", metavar="N", type=int, default=4, help="questions in flight (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Search, read where that is wanted, and print the tables."""
    if not 1 <= args.top_k <= MAX_ROWS:
        raise InputError(f"--top-k is {args.top_k}: give a whole number from 1 to {MAX_ROWS}")
    for name in ("questions", "concurrency"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: give a whole number of at least 1")
    examples = _chosen(read_dataset(args.dataset), args.questions)
    if sum(bool(example.answers) for example in examples) < 2:
        raise InputError(f"{args.dataset}: fewer than two of the questions have an answer: give a dataset with more")
    ks = [k for k in KS if k < args.top_k] + [args.top_k]
    found = find_all(open_index(args.index), examples, args.top_k)
    result: dict[str, Any] = {"questions": len(examples), "k": ks, "recall": recall(found, ks)}
    if args.search_only:
        result["search_ms"] = times(found)["search_ms"]
    else:
        result |= _end_to_end(_read(args, found), ks)
    print(json.dumps(result, indent=2) if args.json else report_text(result))
    return 0


def report_text(result: dict[str, Any]) -> str:
    """Lay the result out to read."""
    lines = [f"{result['questions']:,} questions", ""]
    head = ["k", *(f"{name} found %" for name in result["recall"])]
    columns = [result["k"], *result["recall"].values()]
    if "by_k" in result:
        head += ["EM answerable", "F1 answerable", "F1 all"]
        keys = ("has_answer_exact", "has_answer_f1", "f1")
        columns += [[scores.get(key, float("nan")) for scores in result["by_k"]] for key in keys]
    lines.append("  ".join(head))
    for row in zip(*columns, strict=True):
        cells = [str(row[0]), *(f"{value:.2f}" for value in row[1:])]
        lines.append("  ".join(f"{cell:>{len(name)}}" for cell, name in zip(cells, head, strict=True)))
    if "own" in result:
        own, best = result["own"], result["fitted"]
        lines += [
            "",
            f"the same reader, given each question's own context: EM {own['has_answer_exact']:.2f}, "
            f"F1 {own['has_answer_f1']:.2f} on answerable questions",
            f"fitted on one half of the questions: k {best['k']}, weight {best['weight']:g}; on the other half: "
            f"F1 {best['has_answer_f1']:.2f} where its own contexts give {best['own_has_answer_f1']:.2f}",
            f"median times: search {result['search_ms']:.2f} ms, reading {result['k'][-1]} passages "
            f"{result['read_ms']:.0f} ms",
        ]
    else:
        lines += ["", f"median time of a search: {result['search_ms']:.2f} ms"]
    return "\n".join(lines)


def _chosen(examples: Sequence[Example], n_questions: int | None) -> list[Example]:
    if n_questions is None or n_questions >= len(examples):
        return list(examples)
    return random.Random(SEED).sample(list(examples), n_questions)  # noqa: S311 - no secret


def _read(args: argparse.Namespace, found: Sequence[Asked]) -> list[Asked]:
    asking = Asking(top_k=args.top_k, no_answer_threshold=args.threshold)
    with client_from(args) as client:
        client.check()
        asked = read_all(client, found, asking, concurrency=args.concurrency)
        return list(tqdm(asked, total=len(found), unit="q", disable=True if args.quiet else None))


def _end_to_end(asked: Sequence[Asked], ks: Sequence[int]) -> dict[str, Any]:
    held_back, rest = asked[::2], asked[1::2] or asked
    k, weight = fitted(held_back, ks)
    chosen = scores_at(rest, k, weight)
    own = scores_of_own(rest).get("has_answer_f1", float("nan"))
    return {
        "by_k": [scores_at(asked, at, 0.0) for at in ks],
        "own": scores_of_own(asked),
        "fitted": {"k": k, "weight": weight, **chosen, "own_has_answer_f1": own},
        **times(asked),
    }
