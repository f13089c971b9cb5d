"""`spanqa ask`: one question to a server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from spanqa.errors import InputError
from spanqa_client.answer import Answer, Span
from spanqa_client.commands.arguments import add_answering, add_collection, add_server, add_timeout, answering
from spanqa_client.commands.connecting import add_connection, client_from
from spanqa_client.contexts import ContextAnswers
from spanqa_client.highlight import highlighted, highlighted_html


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("question", metavar="QUESTION", help="the question")
    context = parser.add_mutually_exclusive_group(required=True)
    context.add_argument("--context", metavar="TEXT", help="the text to answer from; - reads stdin")
    context.add_argument(
        "--context-file",
        metavar="FILE",
        action="append",
        help="a UTF-8 file with that text, - reads stdin; given several times, what they all say is ranked",
    )
    context.add_argument(
        "--index", metavar="INDEX", help="a collection, made by `spanqa index`: the best of its passages are read"
    )
    add_server(parser)
    add_answering(parser)
    add_timeout(parser)
    add_collection(parser)
    add_connection(parser)
    parser.add_argument("--whole", action="store_true", help="show the answer in the whole text, not in its sentence")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON")
    shape.add_argument("--html", action="store_true", help="print a piece of HTML, the answer in a <mark> element")


def run(args: argparse.Namespace) -> int:
    """Ask and print the answer."""
    if args.index is not None:
        _check_for_collection(args)
        # Collections are a room, and an extra, of their own.
        from spanqa_retrieval.commands.asking import run as run_collection

        return run_collection(args)
    for option in ("top_k", "where", "weight"):
        if getattr(args, option) not in (None, []):
            raise InputError(f"--{option.replace('_', '-')} goes with --index: leave it out for one text")
    if len(args.context_file or ()) > 1:
        return _ask_files(args)
    context = _context(args.context, args.context_file[0] if args.context_file else None)
    with client_from(args) as client:
        answer = client.ask(args.question, context, timeout_s=args.timeout_s, **answering(args))
    if args.json:
        print(json.dumps(answer.to_dict(context), ensure_ascii=False, indent=2))
    elif args.html:
        span = answer.best_span if answer.has_answer else None
        print(highlighted_html(context, span, whole=args.whole) if span else "")
    else:
        print(answer_text(context, answer, bold=sys.stdout.isatty(), whole=args.whole))
    return 0


def _ask_files(args: argparse.Namespace) -> int:
    """Ask about several files, and print the answers of them all in one order."""
    if args.whole or args.html or args.context_file.count("-") > 1:
        raise InputError("--whole, --html and a second - go with one text: leave them out for several")
    contexts = [_context(None, file) for file in args.context_file]
    options = answering(args)
    del options["distinct"]  # answers of one text never overlap here
    with client_from(args) as client:
        found = client.ask_contexts(args.question, contexts, timeout_s=args.timeout_s, **options)
    if args.json:
        printed = found.to_dict()
        for answer in printed["answers"]:
            answer["file"] = args.context_file[answer["context_index"]]
        print(json.dumps(printed, ensure_ascii=False, indent=2))
    else:
        print(ranked_text(args.context_file, contexts, found, bold=sys.stdout.isatty()))
    return 0


def ranked_text(names: Sequence[str], contexts: Sequence[str], found: ContextAnswers, *, bold: bool) -> str:
    """Lay the answers of several contexts out to read.

    Args:
        names: What each context is called.
        contexts: The contexts that were asked.
        found: Their answers.
        bold: As in `answer_text`.
    """
    lines = ["(the question was too long: its end was cut off)"] if found.question_truncated else []
    if not found.has_answer:
        lines.append(f"no answer in {len(contexts)} texts{'; closest:' if found.answers else ''}")
    for answer in found.answers:
        span = Span(**{name: getattr(answer, name) for name in Span.__slots__})
        lines.append(highlighted(contexts[answer.context_index], span, bold=bold))
        lines.append(f"  {names[answer.context_index]}, no-answer margin {answer.no_answer_margin:+.2f}")
    return "\n".join(lines)


def answer_text(context: str, answer: Answer, *, bold: bool, whole: bool = False) -> str:
    """Lay an answer out to read.

    Args:
        context: The context that was asked.
        answer: Its answer.
        bold: Whether spans are marked by a terminal's bold type rather than by brackets.
        whole: Whether the answer is shown in the whole context; alternatives stand in their sentences.
    """
    lines = []
    if answer.question_truncated:
        lines.append("(the question was too long: its end was cut off)")
    best = answer.best_span
    margin = f"no-answer margin {answer.no_answer_margin:+.2f}"
    if best is None:
        lines.append("no answer (the text holds no span to choose from)")
    elif answer.has_answer:
        lines += [highlighted(context, best, bold=bold, whole=whole), f"  score {best.score:.3f}, {margin}"]
    else:
        lines += [
            f"no answer ({margin})",
            f"  closest, score {best.score:.3f}: {highlighted(context, best, bold=bold)}",
        ]
    for rank, span in enumerate(answer.alternatives, start=2):
        lines.append(f"  {rank}. score {span.score:.3f}: {highlighted(context, span, bold=bold)}")
    return "\n".join(lines)


def _check_for_collection(args: argparse.Namespace) -> None:
    """Refuse options that asking a collection would not heed."""
    if args.whole or args.html:
        raise InputError("--whole and --html go with one text: leave them out with --index")


def _context(text: str | None, file: str | None) -> str:
    try:
        if "-" in (text, file):
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(file).read_bytes().decode("utf-8-sig") if file is not None else text or ""
    except UnicodeDecodeError as error:
        raise InputError(f"the context's byte {error.start} is not UTF-8: convert it to UTF-8 first") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
