"""The options of every command that reports on a run, and the files that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spanqa.errors import DataError
from spanqa.files import check_apart, write_atomically
from spanqa.squad import Example
from spanqa_client.reports.runs import Run, read_run, write_run

# The statistics need numpy, which takes its time: only where a report is asked for.
if TYPE_CHECKING:
    from spanqa_client.reports.calibration import FittedScale
    from spanqa_client.reports.report import EvaluationReport

RUN_SUFFIX = ".run.json"


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Declare --report, --card, --save-run, --against and --slice."""
    group = parser.add_argument_group("report")
    group.add_argument(
        "--report", metavar="FILE.html", help=f"write a page with plots and every question, and FILE{RUN_SUFFIX} beside"
    )
    group.add_argument("--card", metavar="FILE.md", help="write a model card with the scores, intervals and errors")
    group.add_argument("--save-run", metavar="FILE.json", help="write what was said to each question, for --against")
    group.add_argument("--against", metavar="RUN", help="compare with a run that --report or --save-run wrote")
    group.add_argument(
        "--slice",
        metavar="COLUMN | NAME=FILE",
        action="append",
        default=[],
        help="scores by a column of the dataset, or by a JSON object {id: value} or a CSV file with the column id",
    )


def check_report_options(args: argparse.Namespace) -> None:
    """Refuse, before anything is computed, what could not be written in the end.

    Raises:
        DataError: An option has no effect, or a folder is not there.
    """
    if not (args.report or args.card) and (args.against or args.slice):
        raise DataError("--against and --slice are for a report: give --report FILE.html or --card FILE.md")
    for path in (args.report, args.card, args.save_run):
        if path and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise DataError(f"{path}: cannot be written there: give a file in a folder that exists")
    beside = str(run_beside(args.report)) if args.report else None
    for read in (args.against,) if args.against else ():
        check_apart(
            read, {"--report": args.report, "its run": beside, "--save-run": args.save_run, "--card": args.card}
        )
        read_run(read)
    check_apart("", {"--report": args.report, "its run": beside, "--card": args.card, "--save-run": args.save_run})


def check_report_inputs(args: argparse.Namespace, examples: Sequence[Example], datasets: Sequence[str | Path]) -> None:
    """Refuse, before anything is computed, columns that are not there and a run over other questions.

    Args:
        args: What `add_report_options` declared.
        examples: The questions.
        datasets: The files that they come from.

    Raises:
        DataError: A column or the run does not fit.
    """
    if not args.slice and not args.against:
        return
    from spanqa_client.reports.columns import column_from_argument

    for argument in args.slice:
        column_from_argument(argument, datasets)
    if args.against:
        said = read_run(args.against).said
        lacking = [example.id for example in examples if example.id not in said]
        if lacking:
            raise DataError(
                f"{args.against}: lacks {len(lacking):,} of {len(examples):,} questions, such as {lacking[0]}: give a "
                "run over the same dataset"
            )


def run_beside(page: str) -> Path:
    """Give where the run of a page is written: beside it, under its name."""
    path = Path(page)
    name = path.name.removesuffix(path.suffix) if path.suffix.lower() in (".html", ".htm") else path.name
    return path.with_name(name + RUN_SUFFIX)


def wants_report(args: argparse.Namespace) -> bool:
    """Whether a page or a card is asked for."""
    return bool(args.report or args.card)


def write_report_files(
    args: argparse.Namespace,
    run: Run,
    examples: Sequence[Example],
    datasets: Sequence[str | Path],
    *,
    fitted: FittedScale | None = None,
    card: Callable[[EvaluationReport], str] | None = None,
) -> EvaluationReport | None:
    """Write the files that the options ask for.

    Args:
        args: What `add_report_options` declared.
        run: The run.
        examples: The questions.
        datasets: The files that they come from.
        fitted: A scale of the scores that was fitted.
        card: Makes the card; by default one of a model of which only its answers are known.

    Returns:
        The report; None where none was asked for.

    Raises:
        DataError: A file cannot be read or written.
    """
    if args.save_run:
        write_run(args.save_run, run)
    if not wants_report(args):
        return None
    from spanqa_client.reports.card import card_from_report
    from spanqa_client.reports.columns import column_from_argument
    from spanqa_client.reports.page import page_from_report
    from spanqa_client.reports.report import report_from_run

    columns = dict(column_from_argument(argument, datasets) for argument in args.slice)
    against = read_run(args.against) if args.against else None
    report = report_from_run(run, examples, against=against, columns=columns, fitted=fitted)
    if args.report:
        write_atomically(args.report, page_from_report(report))
        write_run(run_beside(args.report), run)
    if args.card:
        write_atomically(args.card, (card or card_from_report)(report))
    return report
