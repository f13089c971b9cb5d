"""`spanqa ask`: one question to a server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from spanqa.errors import InputError
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_client.commands.arguments import add_answering, add_collection, add_server, add_timeout, answering
from spanqa_client.highlight import highlighted


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("question", metavar="QUESTION", help="the question")
    context = parser.add_mutually_exclusive_group(required=True)
    context.add_argument("--context", metavar="TEXT", help="the text to answer from; - reads stdin")
    context.add_argument("--context-file", metavar="FILE", help="a UTF-8 file with that text; - reads stdin")
    context.add_argument(
        "--index", metavar="INDEX", help="a collection, made by `spanqa index`: the best of its passages are read"
    )
    add_server(parser)
    add_answering(parser)
    add_timeout(parser)
    add_collection(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Ask and print the answer."""
    if args.index is not None:
        # Collections are a room, and an extra, of their own.
        from spanqa_retrieval.commands.asking import run as run_collection

        return run_collection(args)
    for option in ("top_k", "where", "weight"):
        if getattr(args, option) not in (None, []):
            raise InputError(f"--{option.replace('_', '-')} goes with --index: leave it out for one text")
    context = _context(args.context, args.context_file)
    with QAClient(args.url, model_name=args.model) as client:
        answer = client.ask(args.question, context, timeout_s=args.timeout_s, **answering(args))
    if args.json:
        print(json.dumps(answer.to_dict(context), ensure_ascii=False, indent=2))
    else:
        print(answer_text(context, answer, bold=sys.stdout.isatty()))
    return 0


def answer_text(context: str, answer: Answer, *, bold: bool) -> str:
    """Lay an answer out to read.

    Args:
        context: The context that was asked.
        answer: Its answer.
        bold: Whether spans are marked by a terminal's bold type rather than by brackets.
    """
    lines = []
    if answer.question_truncated:
        lines.append("(the question was too long: its end was cut off)")
    best = answer.best_span
    margin = f"no-answer margin {answer.no_answer_margin:+.2f}"
    if best is None:
        lines.append("no answer (the text holds no span to choose from)")
    elif answer.has_answer:
        lines += [highlighted(context, best, bold=bold), f"  score {best.score:.3f}, {margin}"]
    else:
        lines += [
            f"no answer ({margin})",
            f"  closest, score {best.score:.3f}: {highlighted(context, best, bold=bold)}",
        ]
    for rank, span in enumerate(answer.alternatives, start=2):
        lines.append(f"  {rank}. score {span.score:.3f}: {highlighted(context, span, bold=bold)}")
    return "\n".join(lines)


def _context(text: str | None, file: str | None) -> str:
    try:
        if "-" in (text, file):
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(file).read_bytes().decode("utf-8-sig") if file is not None else text or ""
    except UnicodeDecodeError as error:
        raise InputError(f"the context's byte {error.start} is not UTF-8: convert it to UTF-8 first") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
