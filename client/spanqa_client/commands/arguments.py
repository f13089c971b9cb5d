"""The arguments that the commands which ask a server have in common."""

from __future__ import annotations

import argparse
from typing import Any

from spanqa.contract import DEFAULT_TOP_N, MAX_TOP_N, QUESTION_ANSWERING
from spanqa_client.options import DEFAULT_TIMEOUT_S
from spanqa_client.servers import DEFAULT_URL


def add_server(parser: argparse.ArgumentParser) -> None:
    """Declare which server and which model are asked."""
    parser.add_argument(
        "--url",
        metavar="H:P",
        default=DEFAULT_URL,
        help="the server's gRPC port; several with commas between them (default: %(default)s)",
    )
    parser.add_argument("--model", metavar="NAME", default=QUESTION_ANSWERING, help="the model (default: %(default)s)")


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Declare how questions are to be answered; `answering` reads it."""
    parser.add_argument(
        "--top-n",
        metavar="N",
        type=int,
        default=DEFAULT_TOP_N,
        help=f"most spans of a question, 1..{MAX_TOP_N} (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        metavar="X",
        type=float,
        help="answer where the no-answer margin is at most X (default: the model's)",
    )
    parser.add_argument(
        "--max-answer-tokens",
        metavar="N",
        type=int,
        help="longest answer in word pieces, cut to what a window holds (default: the model's)",
    )
    parser.add_argument("--distinct", action="store_true", help="spans of one question that do not overlap")


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Declare how long a question may take."""
    parser.add_argument(
        "--timeout-s",
        metavar="S",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        help="for a question, retries included (default: %(default)s)",
    )


def add_collection(parser: argparse.ArgumentParser) -> None:
    """Declare how a collection is asked; what is left out is None."""
    parser.add_argument(
        "--top-k", metavar="K", type=int, help="with --index: passages that are read, 1..32 (default: 5)"
    )
    parser.add_argument(
        "--where",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="with --index: only documents with this metadata; given twice with one key, either value will do",
    )
    parser.add_argument(
        "--weight",
        metavar="W",
        type=float,
        help="with --index: what the index's own score counts beside the reader's, 0..1 (default: 0)",
    )


def answering(args: argparse.Namespace) -> dict[str, Any]:
    """Give what `add_answering` declared as keywords of `QAClient.ask`, `ask_many` and `Options`."""
    return {
        "top_n": args.top_n,
        "no_answer_threshold": args.threshold,
        "max_answer_tokens": args.max_answer_tokens,
        "distinct": args.distinct,
    }
