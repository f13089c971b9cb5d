"""`spanqa predict`: all questions of a dataset through a server."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.errors import InputError
from spanqa.files import check_apart, write_atomically
from spanqa.squad import Example
from spanqa_client.answer import Answer
from spanqa_client.answer_files import CSV, format_of, write_rows
from spanqa_client.commands.arguments import add_answering, add_server, add_timeout, answering
from spanqa_client.commands.connecting import add_connection, client_from
from spanqa_client.options import DEFAULT_CONCURRENCY, Options
from spanqa_client.served import (
    ServedRun,
    jsonl_from_run,
    na_probs_from_run,
    nbest_from_run,
    predictions_from_run,
    summary_from_run,
    versions_from_run,
)

EXIT_SOME_FAILED = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("dataset", metavar="DATASET", help=f"{DATASET_FORMATS}; answers optional")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help='write predictions: {"id": "text"}, "" for no answer; rows with offsets and scores for the suffixes .csv, '
        ".parquet and .jsonl",
    )
    parser.add_argument(
        "--spreadsheet",
        action="store_true",
        help="put an apostrophe before cells of a .csv that a spreadsheet would run: those that begin with = + - @",
    )
    parser.add_argument(
        "--na-probs", metavar="FILE", help='write {"id": no-answer margin} for `spanqa score --na-probs`'
    )
    parser.add_argument("--jsonl", metavar="FILE", help="write one line a question: answer, offsets, scores")
    parser.add_argument(
        "--nbest",
        metavar="FILE",
        help='write {"id": [{"text", "score", "char_start", "char_end", "logit"}, ...]}: --top-n spans, best first',
    )
    parser.add_argument(
        "--forced", action="store_true", help="predictions hold the best span even where there is no answer"
    )
    add_server(parser)
    add_answering(parser)
    add_timeout(parser)
    add_connection(parser)
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=int,
        default=DEFAULT_CONCURRENCY,
        help="questions in flight (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask everything, write the files asked for, print the summary; 1 where some questions got no response."""
    Options(**answering(args))  # refused before a long dataset is read
    rows_format = format_of(args.output) if args.output else None
    if args.spreadsheet and rows_format != CSV:
        raise InputError("--spreadsheet goes with -o FILE.csv: leave it out for anything else")
    check_apart(
        args.dataset, {"-o": args.output, "--na-probs": args.na_probs, "--nbest": args.nbest, "--jsonl": args.jsonl}
    )
    examples = read_dataset(args.dataset, require_answers=False)
    served = _serve(args, examples)
    if rows_format:
        n_formulas = write_rows(args.output, served, forced=args.forced, spreadsheet=args.spreadsheet)
        if n_formulas and not args.spreadsheet:
            print(
                f"spanqa: warning: {args.output}: a spreadsheet would run {n_formulas:,} cells: write it with "
                "--spreadsheet where it is to be opened in one",
                file=sys.stderr,
            )
    elif args.output:
        write_atomically(args.output, json.dumps(predictions_from_run(served, forced=args.forced), ensure_ascii=False))
    if args.na_probs:
        write_atomically(args.na_probs, json.dumps(na_probs_from_run(served)))
    if args.nbest:
        write_atomically(args.nbest, json.dumps(nbest_from_run(served), ensure_ascii=False))
    if args.jsonl:
        write_atomically(args.jsonl, jsonl_from_run(served))
    if served.errors:
        name, error = next(iter(served.errors.items()))
        n_failed, n_all = len(served.errors), len(examples)
        print(f"spanqa: warning: {n_failed:,} of {n_all:,} questions failed; {name}: {error}", file=sys.stderr)
    summary, versions = summary_from_run(served), versions_from_run(served)
    if args.json:
        print(json.dumps({**summary, "model_versions": versions}, indent=2))
    else:
        print(summary_text(summary, versions))
    return EXIT_SOME_FAILED if served.errors else 0


def summary_text(summary: dict[str, float], versions: dict[str, int]) -> str:
    """Lay a summary out to read, the model's versions with their responses where there was more than one."""
    lines = []
    if "f1" in summary:
        parts = [f"exact {summary['exact']:.2f}", f"F1 {summary['f1']:.2f}"]
        parts += [
            f"{key.replace('_f1', '')} F1 {summary[key]:.2f}" for key in ("HasAns_f1", "NoAns_f1") if key in summary
        ]
        lines.append(", ".join(parts))
    if "forced_HasAns_f1" in summary:
        lines.append(f"answering always: F1 {summary['forced_HasAns_f1']:.2f} on answerable questions")
    if "tuned_f1" in summary:
        at = f" at {summary['tuned_f1_thresh']:.4f}" if "tuned_f1_thresh" in summary else ""
        lines.append(f"best threshold: F1 {summary['tuned_f1']:.2f}{at}")
    lines.append(f"{int(summary['answered']):,} responses in {summary['seconds']:.1f} s")
    if summary["answered"]:
        lines[-1] += (
            f": {summary['questions_per_s']:.1f} questions/s, latency p50 {summary['latency_p50_ms']:.1f} ms, "
            f"p95 {summary['latency_p95_ms']:.1f} ms"
        )
    if len(versions) > 1:
        parts = [f"{version} ({n_answers:,})" for version, n_answers in versions.items()]
        lines.append(f"answered by {len(versions)} versions of the model: {', '.join(parts)}")
    return "\n".join(lines)


def _serve(args: argparse.Namespace, examples: Sequence[Example]) -> ServedRun:
    with client_from(args) as client:
        client.check(timeout_s=args.timeout_s)  # a server that is not there ends it here
        started = time.perf_counter()
        outcomes = client.ask_many(
            [(example.question, example.context) for example in examples],
            concurrency=args.concurrency,
            on_error="return",
            progress=not args.quiet,
            timeout_s=args.timeout_s,
            **answering(args),
        )
        answers: dict[str, Answer] = {}
        errors: dict[str, str] = {}
        for example, outcome in zip(examples, outcomes, strict=True):
            if isinstance(outcome, Answer):
                answers[example.id] = outcome
            else:
                errors[example.id] = str(outcome)
        return ServedRun(examples=examples, answers=answers, errors=errors, seconds=time.perf_counter() - started)
