"""A served model under steady load while its processes are killed, stopped, starved and rolled over.

Faults without a roll-over of their own meet one. Every question goes through our client and must be answered once, as
the undisturbed server answers it. Without `--scenario` all scenarios run. `--repository DIR` takes a real model instead
of a table of logits, which is faster.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_setting import heldout_examples, parser_of, print_result
from fault_files import FILE_SCENARIOS
from fault_kills import KILL_SCENARIOS
from fault_senders import SENDER_SCENARIOS
from fault_setting import Item, Setting, Verdict
from table_model import write_table_repository
from tqdm import tqdm

from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_server.server import Server

SCENARIOS: dict[str, Callable[[Setting, Verdict], None]] = {**KILL_SCENARIOS, **FILE_SCENARIOS, **SENDER_SCENARIOS}


def undisturbed(repository: Path, items: Sequence[Item], *, quiet: bool) -> list[Answer]:
    """Ask a server that nothing happens to."""
    with Server(repository) as server, QAClient(server.url) as client:
        bar = tqdm(total=len(items), unit="q", desc="undisturbed", disable=True if quiet else None)
        answers = []
        for answer in client.ask_many(items, timeout_s=120):
            answers.append(answer)
            bar.update()
        bar.close()
    return answers


def run(name: str, setting: Setting) -> Verdict:
    """Run one scenario; what it did not foresee is a failure of it."""
    verdict, start = Verdict(name=name), time.monotonic()
    try:
        SCENARIOS[name](setting, verdict)
    except Exception as error:  # the next scenario must still run
        verdict.failures.append(f"{type(error).__name__}: {error}")
    verdict.figures["seconds"] = round(time.monotonic() - start, 1)
    return verdict


def _table(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("scenario", "held", "seconds", "figures")]
    for one in verdicts:
        held = "skipped" if one.skipped else "no" if one.failures else "yes"
        figures = ", ".join(f"{name} {value}" for name, value in one.figures.items() if name != "seconds")
        rows.append((one.name, held, f"{one.figures['seconds']:.0f}", figures))
    return rows


def main() -> int:
    """Run the scenarios and print; the exit status is 1 where a promise failed."""
    parser = parser_of(__doc__)
    parser.add_argument("--repository", type=Path, metavar="DIR", help="a repository (default: a table of logits)")
    parser.add_argument("--questions", type=int, default=5000, metavar="N", help="for kills (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of stubs (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of moments and victims (default: %(default)s)"
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, action="append", metavar="NAME", help=f"one of {', '.join(SCENARIOS)}"
    )
    args = parser.parse_args()
    examples = heldout_examples(args.questions)
    items = [(example.question, example.context) for example in examples]
    verdicts: list[Verdict] = []

    told: list[str] = []

    def say(line: str) -> None:
        told.append(f"{name}: told: {line}")
        if not args.quiet and sys.stderr.isatty():
            tqdm.write(f"  {line}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="spanqa-faults-") as work:
        origin = args.repository or Path(work) / "table"
        if args.repository is None:
            write_table_repository(origin)
        expected = undisturbed(origin, items, quiet=args.quiet)
        names = args.scenario or list(SCENARIOS)
        for name in tqdm(names, unit="scenario", disable=True if args.quiet else None):
            repository = Path(work) / name
            shutil.copytree(origin, repository)
            setting = Setting(
                repository=repository,
                items=items,
                expected=expected,
                rng=random.Random(args.seed),  # noqa: S311 (moments, no secrets)
                n_kills=args.kills,
                say=say,
                rolls=True,
            )
            verdicts.append(run(name, setting))
            if not verdicts[-1].failures:
                told[:] = [line for line in told if not line.startswith(f"{name}: ")]
            shutil.rmtree(repository)
    result: dict[str, Any] = {"scenarios": [vars(verdict) for verdict in verdicts]}
    print_result({"questions": args.questions, **result}, _table(verdicts), as_json=args.json)
    for line in told:
        print(line, file=sys.stderr)
    for verdict in verdicts:
        for failure in verdict.failures:
            print(f"{verdict.name}: {failure}", file=sys.stderr)
        if verdict.skipped:
            print(f"{verdict.name}: skipped: {verdict.skipped}", file=sys.stderr)
    return 1 if any(verdict.failures for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
