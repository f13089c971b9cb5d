"""`spanqa score`: SQuAD metrics of a prediction file."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.errors import DataError
from spanqa.squad import read_json
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import DEFAULT_NA_PROB_THRESH, Report, gold_from_examples, score_predictions
from spanqa_client.predictions import predictions_from_document, read_na_probs
from spanqa_client.reports.official import scores_from_run
from spanqa_client.reports.options import (
    add_report_options,
    check_report_inputs,
    check_report_options,
    write_report_files,
)
from spanqa_client.reports.runs import Run, Said, is_run, run_from_document


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_FORMATS)
    parser.add_argument(
        "predictions", metavar="PREDICTIONS", help='JSON {"id": "text"}, "" for no answer; or a run of --save-run'
    )
    parser.add_argument("--na-probs", metavar="FILE", help='JSON {"id": number}: no-answer probabilities or margins')
    parser.add_argument(
        "--na-prob-thresh",
        metavar="X",
        type=float,
        default=DEFAULT_NA_PROB_THRESH,
        help="a number above X in --na-probs makes the prediction no answer (default: %(default)s)",
    )
    parser.add_argument("--intervals", action="store_true", help="95%% intervals, by resampling paragraphs")
    parser.add_argument("--json", action="store_true", help="print JSON under the official script's keys")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Score the predictions, print the result on stdout and warnings on stderr."""
    if math.isnan(args.na_prob_thresh):
        raise DataError("--na-prob-thresh is nan: give a number")
    check_report_options(args)
    examples = read_dataset(args.dataset)
    check_report_inputs(args, examples, [args.dataset])
    questions = gold_from_examples(examples)
    document = read_json(args.predictions)
    if is_run(document):
        if args.na_probs:
            raise DataError(f"{args.predictions}: is a run, which holds its margins: leave out --na-probs")
        if args.na_prob_thresh != DEFAULT_NA_PROB_THRESH:
            raise DataError(f"{args.predictions}: is a run, which holds its threshold: leave out --na-prob-thresh")
        run = run_from_document(args.predictions, document)
        report = scores_from_run(run, questions)
    else:
        predictions = predictions_from_document(args.predictions, document)
        na_probs = read_na_probs(args.na_probs) if args.na_probs else None
        report = score_predictions(questions, predictions, na_probs=na_probs, na_prob_thresh=args.na_prob_thresh)
        run = _run_from_files(args, predictions, na_probs)
    intervals = bootstrap_intervals(questions, report.exact, report.f1) if args.intervals else {}
    for warning in report.warnings():
        print(f"spanqa: warning: {warning}", file=sys.stderr)
    print(json.dumps(_json(report, intervals), indent=2) if args.json else score_table(report, intervals))
    write_report_files(args, run, examples, [args.dataset])
    return 0


def _run_from_files(
    args: argparse.Namespace, predictions: Mapping[str, str], na_probs: Mapping[str, float] | None
) -> Run:
    """Prediction files as a run; places and scores are not in them."""
    margins = na_probs or {}
    threshold = args.na_prob_thresh if na_probs else None
    # In the order of the no-answer file: among equal values the official sweep depends on it.
    ids = [*(key for key in margins if key in predictions), *(key for key in predictions if key not in margins)]
    said = {
        key: Said(
            text=predictions[key],
            answered=predictions[key] != "" and (threshold is None or margins.get(key, 0.0) <= threshold),
            margin=margins.get(key),
        )
        for key in ids
    }
    return Run(
        name=Path(args.predictions).name.removesuffix(".gz").removesuffix(".json"),
        facts={"dataset": Path(args.dataset).name},
        said=said,
        threshold=threshold,
        is_probability=all(0 <= value <= 1 for value in margins.values()),
    )


def score_table(report: Report, intervals: dict[str, tuple[float, float]]) -> str:
    """Lay a report out to read, the intervals beside their numbers."""
    scores = report.scores

    def cell(key: str) -> str:
        text = f"{scores[key]:6.2f}"
        return f"{text} [{intervals[key][0]:.2f}, {intervals[key][1]:.2f}]" if key in intervals else text

    names = {"": "all", "HasAns_": "answerable", "NoAns_": "unanswerable"}
    rows = [("", "exact", "F1", "questions")]
    for prefix, name in names.items():
        if f"{prefix}total" in scores:
            total = f"{int(scores[f'{prefix}total']):,}"
            rows.append((name, cell(f"{prefix}exact"), cell(f"{prefix}f1"), total))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    for title, values, prefix in (("official sweep", scores, "best"), ("tuned", report.tuned, "tuned")):
        if f"{prefix}_exact" in values:
            exact, f1 = (f"{values[f'{prefix}_{name}']:.2f}" for name in ("exact", "f1"))
            at_exact, at_f1 = (f"{values[f'{prefix}_{name}_thresh']:.6g}" for name in ("exact", "f1"))
            lines.append(f"best threshold ({title}): exact {exact} at {at_exact}, F1 {f1} at {at_f1}")
    return "\n".join(lines)


def _json(report: Report, intervals: dict[str, tuple[float, float]]) -> dict[str, Any]:
    # JSON knows no infinity; a tuned threshold can be one.
    tuned = {key: value if math.isfinite(value) else str(value) for key, value in report.tuned.items()}
    document: dict[str, Any] = {**report.scores, **tuned}
    document |= {"missing": len(report.missing), "unknown": len(report.unknown)}
    if intervals:
        document["intervals"] = {key: list(interval) for key, interval in intervals.items()}
    return document
