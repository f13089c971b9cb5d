"""`spanqa demo`: serve, ask, score and stop, in one go."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.squad import Example
from spanqa_client.answer import Answer
from spanqa_client.client import DEFAULT_CONCURRENCY, QAClient
from spanqa_client.highlight import highlighted
from spanqa_client.served import ServedRun, summary_from_run
from spanqa_server.errors import RepositoryError
from spanqa_server.repository import SOURCE_TREE
from spanqa_server.server import Server

DATASET = SOURCE_TREE / "data" / "heldout200.json"
"""Held-out questions that come with the source tree."""
SHOWN_IDS = (
    "56de4c324396321400ee27ac",
    "57115b2850c2381900b54a81",
    "5733a5f54776f41900660f47",
    "5730035e04bcaa1900d77001",
    "5acfe9d477cf76001a68645e",  # the same passage, and no answer in it
)
"""The questions shown one by one; where the dataset lacks them, some are taken evenly from all of it."""
N_SHOWN_ANSWERABLE = 4
LINE_WIDTH = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="model repository (default: ./model_repository, or ours)"
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        default=DATASET,
        metavar="FILE",
        help=f"what to score: {DATASET_FORMATS} (default: the source tree's)",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=DEFAULT_CONCURRENCY,
        metavar="N",
        help="questions in flight while scoring (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 where every question was answered, 1 where some were not.
    """
    if not args.dataset.is_file():
        raise RepositoryError(f"there is no dataset {args.dataset}: run from a source tree, or name one with --dataset")
    examples = read_dataset(args.dataset)
    _tell(args, "starting the server ...")
    start = time.monotonic()
    with Server(args.repository, report=lambda line: _tell(args, line)) as server:
        print(f"Triton is ready after {time.monotonic() - start:.1f} s: gRPC {server.url}, HTTP {server.http_url}")
        with QAClient(server.url) as client:
            for example in shown_examples(examples):
                _show(example, client.ask(example.question, example.context))
            n_failed = _score(args, client, examples)
        _tell(args, "stopping the server ...")
        start = time.monotonic()
    print(f"\nStopped cleanly in {time.monotonic() - start:.1f} s.")
    return 1 if n_failed else 0


def _tell(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(f"spanqa: {line}", file=sys.stderr, flush=True)


def shown_examples(examples: Sequence[Example], ids: Sequence[str] = SHOWN_IDS) -> list[Example]:
    """Choose the questions to show: those with the ids, or else some that have an answer and one that has none.

    Args:
        examples: The dataset.
        ids: Ids of questions, in the order to show them.
    """
    by_id = {example.id: example for example in examples}
    if ids and all(key in by_id for key in ids):
        return [by_id[key] for key in ids]
    answerable = [example for example in examples if example.answers]
    step = max(1, len(answerable) // N_SHOWN_ANSWERABLE)
    unanswerable = [example for example in examples if not example.answers]
    return answerable[::step][:N_SHOWN_ANSWERABLE] + unanswerable[:1]


def _show(example: Example, answer: Answer) -> None:
    gold = " / ".join(dict.fromkeys(gold.text for gold in example.answers)) or "no answer in this passage"
    print(f"\n{example.title}\n  question   {example.question}")
    if answer.has_answer and answer.best_span:
        print(f"  answer     {answer.text}  (score {answer.score:.2f}, {answer.latency_ms:.0f} ms)")
        sentence = highlighted(example.context, answer.best_span, bold=sys.stdout.isatty())
        print(textwrap.fill(sentence, LINE_WIDTH, initial_indent=" " * 13, subsequent_indent=" " * 13))
    else:
        print(f"  answer     no answer  (margin {answer.no_answer_margin:.1f}, {answer.latency_ms:.0f} ms)")
    print(f"  annotated  {gold}", flush=True)


def _score(args: argparse.Namespace, client: QAClient, examples: Sequence[Example]) -> int:
    """Ask everything, print the scores and the speed, and return how many questions failed."""
    items = [(example.question, example.context) for example in examples]
    answers: dict[str, Answer] = {}
    errors: dict[str, str] = {}
    print(flush=True)
    start = time.monotonic()
    outcomes = client.ask_many(items, concurrency=args.concurrency, on_error="return", progress=not args.quiet)
    for example, outcome in zip(examples, outcomes, strict=True):
        if isinstance(outcome, Answer):
            answers[example.id] = outcome
        else:
            errors[example.id] = str(outcome)
    served = ServedRun(examples=examples, answers=answers, errors=errors, seconds=time.monotonic() - start)
    for line in _summary(summary_from_run(served), args.concurrency):
        print(line, flush=True)
    if errors:
        print(f"spanqa: warning: {len(errors)} questions failed: {next(iter(errors.values()))}", file=sys.stderr)
    return len(errors)


def _summary(summary: dict[str, float], concurrency: int) -> Iterator[str]:
    yield f"{summary['answered']:.0f} held-out questions through the server, {concurrency} at a time"
    yield f"  exact match  {summary['exact']:.1f}"
    yield f"  F1           {summary['f1']:.1f}"
    if "questions_per_s" in summary:
        yield f"  speed        {summary['questions_per_s']:.0f} questions/s"
