"""A dataset's questions asked of a server, as a run."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from spanqa.contract import QUESTION_ANSWERING
from spanqa.errors import SpanqaError
from spanqa.squad import Example
from spanqa_client.answer import Answer
from spanqa_client.reports.runs import Run, Said


def add_served_options(parser: argparse.ArgumentParser) -> None:
    """Declare --url, and how to connect where the packages for it are installed."""
    parser.add_argument(
        "--url", metavar="H:P", help="ask a server's gRPC port instead of a checkpoint; several with commas between"
    )
    parser.add_argument("--concurrency", metavar="N", type=int, default=16, help="with --url: questions in flight")
    parser.add_argument("--timeout-s", metavar="S", type=float, default=30.0, help="with --url: for a question")
    if importlib.util.find_spec("tritonclient") is not None:
        from spanqa_client.commands.connecting import add_connection

        add_connection(parser)


def run_from_server(
    args: argparse.Namespace, examples: Sequence[Example], files: Sequence[str | Path]
) -> tuple[Run, int]:
    """Ask a server every question.

    Args:
        args: What `add_served_options` declared, with `threshold` and `quiet` beside it.
        examples: The questions.
        files: The files that they come from, for the report.

    Returns:
        The run, and how many questions got no response; these it lacks.

    Raises:
        SpanqaError: The packages for it are not installed, or the server cannot be asked.
    """
    if importlib.util.find_spec("tritonclient") is None:
        raise SpanqaError("asking a server needs the package tritonclient: pip install 'spanqa[client]'")
    from spanqa_client.commands.connecting import client_from

    args.model = QUESTION_ANSWERING
    said: dict[str, Said] = {}
    versions: dict[str, None] = {}
    errors: list[tuple[str, SpanqaError]] = []
    with client_from(args) as client:
        client.check(timeout_s=args.timeout_s)
        outcomes = client.ask_many(
            [(example.question, example.context) for example in examples],
            concurrency=args.concurrency,
            on_error="return",
            progress=not args.quiet,
            timeout_s=args.timeout_s,
            no_answer_threshold=args.threshold,
        )
        for example, outcome in zip(examples, outcomes, strict=True):
            if isinstance(outcome, Answer):
                said[example.id] = _said(outcome)
                versions[outcome.model_version] = None
            else:
                errors.append((example.id, outcome))
    if errors:
        (name, error), n_failed = errors[0], len(errors)
        print(f"spanqa: warning: {n_failed:,} of {len(examples):,} questions failed; {name}: {error}", file=sys.stderr)
    facts = {
        "dataset": ", ".join(Path(file).name for file in files),
        "model": f"{QUESTION_ANSWERING}, version {', '.join(versions) or 'unknown'}",
        "date": date.today().isoformat(),
    }
    return Run(name=args.url, facts=facts, said=said, threshold=args.threshold), len(errors)


def _said(answer: Answer) -> Said:
    best = answer.best_span
    if best is None:
        return Said(text="", answered=False, margin=answer.no_answer_margin, score=0.0)
    return Said(
        text=best.text,
        answered=answer.has_answer,
        char_start=best.char_start,
        char_end=best.char_end,
        margin=answer.no_answer_margin,
        score=best.score,
    )
