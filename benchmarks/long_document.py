"""A document of 40,000 words asked ten times: is the fact at its end found, how long does it take, does memory grow."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench_setting import DATASET, add_repository, heldout_examples, parser_of, print_result
from tqdm import tqdm

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_server.server import Server

ALWAYS = 1e9
"""A no-answer threshold above every margin."""


def _resident_mib(server: Server) -> float:
    pids = [server.triton_pid, *(stub.pid for stub in server.stubs())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _shared_mib() -> float:
    regions = Path("/dev/shm").glob(f"spanqa_{os.getpid()}_*")  # noqa: S108 (POSIX shared memory lives there)
    return sum(path.stat().st_blocks * 512 for path in regions) / 2**20


def _known_fact(client: QAClient) -> tuple[Example, Answer]:
    """The question, out of a hundred short ones, that the served model answers rightly and most surely."""
    short = [example for example in heldout_examples() if example.answers and len(example.context) < 700][:100]
    answers = client.ask_many([(one.question, one.context) for one in short], no_answer_threshold=ALWAYS)
    right = [
        (answer.no_answer_margin, place, answer)
        for place, (example, answer) in enumerate(zip(short, answers, strict=True))
        if answer.text in {gold.text for gold in example.answers}
    ]
    if not right:
        raise SystemExit("the model answers none of a hundred questions rightly")
    _, place, answer = min(right)
    return short[place], answer


def asked(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ask as often as told, and give what each time took and left."""
    paragraphs = list(dict.fromkeys(example.context for example in read_dataset(DATASET)))
    rows: list[dict[str, Any]] = []
    with Server(args.repository) as server, QAClient(server.url) as client:
        fact, alone = _known_fact(client)
        words = " \n".join(paragraph for paragraph in paragraphs if paragraph != fact.context).split()
        document = " ".join([*words[: args.words - len(fact.context.split())], fact.context])
        at = len(document) - len(fact.context)
        for number in tqdm(range(args.times), unit="time", disable=True if args.quiet else None):
            began = time.perf_counter()
            answer = client.ask(fact.question, document, no_answer_threshold=ALWAYS, timeout_s=600)
            rows.append(
                {
                    "time": number + 1,
                    "seconds": time.perf_counter() - began,
                    "is_right": (answer.char_start, answer.text) == (at + alone.char_start, alone.text),
                    "resident_mib": _resident_mib(server),
                    "shared_mib": _shared_mib(),
                }
            )
    return rows


def main() -> int:
    """Ask and print; the exit status is 1 where the answer is not the one at the end of the document."""
    parser = parser_of(__doc__)
    add_repository(parser)
    parser.add_argument("--words", type=int, default=40_000, metavar="N", help="its length (default: %(default)s)")
    parser.add_argument("--times", type=int, default=10, metavar="N", help="how often asked (default: %(default)s)")
    args = parser.parse_args()
    rows = asked(args)
    table = [("time", "seconds", "right", "resident MiB", "shared MiB")]
    table += [
        (
            str(row["time"]),
            f"{row['seconds']:.1f}",
            "yes" if row["is_right"] else "no",
            f"{row['resident_mib']:.0f}",
            f"{row['shared_mib']:.1f}",
        )
        for row in rows
    ]
    print_result({"words": args.words, "long_document": rows}, table, as_json=args.json)
    return 0 if all(row["is_right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
