"""`spanqa ask --index`: one question to a collection."""

from __future__ import annotations

import argparse
import json
import sys

from spanqa_client.answer import Span
from spanqa_client.commands.connecting import client_from
from spanqa_client.highlight import highlighted
from spanqa_retrieval.asking import DEFAULT_TOP_K, DEFAULT_WEIGHT, Asking
from spanqa_retrieval.collection import Collection, CollectionAnswer, FoundAnswer
from spanqa_retrieval.commands.arguments import filters
from spanqa_retrieval.document import printable


def run(args: argparse.Namespace) -> int:
    """Ask and print the answers."""
    asking = Asking(
        top_k=DEFAULT_TOP_K if args.top_k is None else args.top_k,
        top_n=args.top_n,
        weight=DEFAULT_WEIGHT if args.weight is None else args.weight,
        filters=filters(args.where),
        no_answer_threshold=args.threshold,
        max_answer_tokens=args.max_answer_tokens,
    )
    with client_from(args) as client:
        answer = Collection.open(args.index, client).ask(args.question, asking, timeout_s=args.timeout_s)
    if args.json:
        print(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2))
    else:
        print(answer_text(answer, bold=sys.stdout.isatty()))
    return 0


def answer_text(answer: CollectionAnswer, *, bold: bool) -> str:
    """Lay a collection's answer out to read.

    Args:
        answer: The answer.
        bold: Whether spans are marked by a terminal's bold type rather than by brackets.
    """
    if not answer.n_passages:
        return "no answer (no passage asked for has a word of the question)"
    if not answer.answers:
        return f"no answer (the {answer.n_passages} passages read hold no span to choose from)"
    lines = ["(the question was too long: its end was cut off)"] if answer.question_truncated else []
    if not answer.has_answer:
        lines.append(f"no answer in the {answer.n_passages} passages read; closest:")
    for rank, found in enumerate(answer.answers, start=1):
        number = f"{rank}. " if len(answer.answers) > 1 else ""
        lines += [f"{number}{_marked(found, bold=bold)}", f"  {_place(found)}"]
    return "\n".join(lines)


def _marked(found: FoundAnswer, *, bold: bool) -> str:
    span = Span(
        text=found.text,
        score=found.score,
        char_start=found.char_start - found.sentence_start,
        char_end=found.char_end - found.sentence_start,
        logit=-found.no_answer_margin,
    )
    return highlighted(found.sentence, span, bold=bold)


def _place(found: FoundAnswer) -> str:
    title = f" ({found.title})" if found.title and found.title not in found.document else ""
    page = f", page {found.page}" if found.page else ""
    place = f"{printable(found.document)}{printable(title)}{page}, characters {found.char_start} to {found.char_end}"
    return f"{place}; margin {found.no_answer_margin:+.2f}, retrieval {found.retrieval_score:.1f}"
