"""`spanqa evaluate`: SQuAD metrics of a checkpoint on a dataset, offline, with the windows and decoder that serve."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spanqa.errors import SettingsError
from spanqa.spans import DecodeSettings
from spanqa.squad import read_squad
from spanqa.windows import WindowMaker
from spanqa_training.checkpoint import load_checkpoint, save_checkpoint
from spanqa_training.evaluate import Evaluation, evaluate, network_from_model


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-m", "--model", required=True, help="checkpoint folder")
    parser.add_argument("dataset", help="SQuAD 1.1 or 2.0 file")
    parser.add_argument("--threshold", type=float, help="no-answer threshold (default: the model's own)")
    parser.add_argument("--max-seq-length", type=int, help="longest window (default: the model's own)")
    parser.add_argument(
        "--fit-threshold", action="store_true", help="tune the threshold here and store it in the model"
    )
    parser.add_argument("--intervals", action="store_true", help="with 95 %% bootstrap intervals over paragraphs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Answer every question and print the scores at several thresholds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint, model = load_checkpoint(args.model, device)
    windows = checkpoint.windows
    if args.max_seq_length:
        if args.max_seq_length > checkpoint.encoder.max_positions:
            raise SettingsError(
                f"--max-seq-length {args.max_seq_length}: the model has {checkpoint.encoder.max_positions} positions"
            )
        windows = dataclasses.replace(windows, max_seq_length=args.max_seq_length)
    examples = read_squad(args.dataset)
    evaluation = evaluate(
        network_from_model(model, device),
        WindowMaker(checkpoint.tokenizer(), windows),
        examples,
        DecodeSettings(max_answer_tokens=checkpoint.max_answer_tokens, temperature=checkpoint.temperature),
        quiet=args.quiet,
    )
    threshold = checkpoint.no_answer_threshold if args.threshold is None else args.threshold
    report = _report(args, evaluation, threshold)
    print(json.dumps(report, indent=2) if args.json else _table(report))
    if args.fit_threshold:
        fitted = dataclasses.replace(
            checkpoint,
            windows=windows,
            no_answer_threshold=report["best_threshold"]["threshold"],
            metrics={**checkpoint.metrics, "threshold_fitted_on": Path(args.dataset).name},
        )
        save_checkpoint(fitted, model, args.model)
    return 0


def _report(args: argparse.Namespace, evaluation: Evaluation, threshold: float) -> dict[str, Any]:
    best = evaluation.tuned_threshold()
    report: dict[str, Any] = {"dataset": args.dataset, "model": args.model}
    for name, value in (("model_threshold", threshold), ("threshold_0", 0.0), ("best_threshold", best)):
        report[name] = {"threshold": value, **evaluation.scores(value, intervals=args.intervals)}
    report["forced_answerable"] = dict(evaluation.forced_scores())
    return report


def _table(report: Mapping[str, Any]) -> str:
    rows = [("", "threshold", "EM", "F1", "HasAns F1", "NoAns F1", "questions")]
    for name in ("model_threshold", "threshold_0", "best_threshold"):
        scores = report[name]
        low_high = scores.get("intervals_95", {}).get("f1")
        interval = f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""
        rows.append(
            (
                name.replace("_", " "),
                f"{scores['threshold']:.3f}",
                f"{scores['exact']:.2f}",
                f"{scores['f1']:.2f}{interval}",
                f"{scores['HasAns_f1']:.2f}" if "HasAns_f1" in scores else "-",
                f"{scores['NoAns_f1']:.2f}" if "NoAns_f1" in scores else "-",
                f"{scores['total']:,}",
            )
        )
    forced = report["forced_answerable"]
    if forced:
        rows.append(
            ("always answering", "-", f"{forced['exact']:.2f}", f"{forced['f1']:.2f}", "", "", f"{forced['total']:,}")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, "", "The best threshold is fitted on these very questions: an upper bound, not a score."])
