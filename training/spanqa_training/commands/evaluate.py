"""`spanqa evaluate`: SQuAD metrics of a checkpoint on a dataset, offline, with the windows and decoder that serve."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanqa.datasets import DATASET_FORMATS
from spanqa.files import write_atomically
from spanqa_training.commands.arguments import ANSWERING_KEYS, Request, add_spec_options, note, request_from_args
from spanqa_training.errors import SpecError

if TYPE_CHECKING:
    from spanqa_training.inference.evaluation import Evaluation
    from spanqa_training.model import SpanModel

REPORT_FILE = "evaluation.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    parser.add_argument("--threshold", type=float, help="no-answer threshold (default: the model's own)")
    parser.add_argument(
        "--fit-threshold", action="store_true", help="tune the threshold here and store it in the model"
    )
    parser.add_argument("--intervals", action="store_true", help="with 95 %% bootstrap intervals over paragraphs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "items",
        nargs="*",
        metavar="DATASET | key=value",
        help=f"the questions: {DATASET_FORMATS} (default: the spec's test_ds.file), and keys of the spec to replace",
    )


def run(args: argparse.Namespace) -> int:
    """Answer every question and print the scores at several thresholds."""
    from spanqa.datasets import read_datasets
    from spanqa.windows import WindowMaker
    from spanqa_training.checkpoints.checkpoint import is_checkpoint, load_lm_head, save_checkpoint
    from spanqa_training.inference.decode_settings import decode_settings, threshold_from_spec
    from spanqa_training.inference.evaluation import devices, evaluate, network_from_model
    from spanqa_training.weights.model_sources import open_model, restored_path

    if args.threshold is not None and not math.isfinite(args.threshold):
        raise SpecError(f"--threshold {args.threshold}: give a finite number")
    request, files = _request(args)
    spec = request.spec
    path = restored_path(spec, request.results)
    checkpoint, model = open_model(path, key=request.key)
    if args.fit_threshold and not is_checkpoint(path):
        raise SpecError(f"--fit-threshold: {path} is no checkpoint to store it in: take it over with spanqa import")
    checkpoint = dataclasses.replace(checkpoint, windows=spec.window_settings(checkpoint.windows))
    places = devices(spec.trainer.gpus or None, cpu=spec.trainer.accelerator == "cpu" or spec.trainer.gpus == 0)
    evaluation = evaluate(
        network_from_model(model, *places),
        WindowMaker(checkpoint.tokenizer(), checkpoint.windows),
        read_datasets(files, num_samples=spec.test_ds.num_samples),
        decode_settings(checkpoint, spec),
        quiet=args.quiet,
        rows_per_batch=spec.test_ds.batch_size if "test_ds.batch_size" in request.given else None,
        n_threads=len(places),
    )
    asked = threshold_from_spec(spec) if args.threshold is None else args.threshold
    threshold = checkpoint.no_answer_threshold if asked is None else asked
    report = {"dataset": list(files), "model": str(path), **_scores(evaluation, threshold, intervals=args.intervals)}
    print(json.dumps(report, indent=2) if args.json else _table(report))
    if args.results:
        text = json.dumps(report, indent=2) + "\n"
        write_atomically(request.results / REPORT_FILE, text, make_folder=True)
    if args.fit_threshold:
        fitted = dataclasses.replace(
            checkpoint,
            no_answer_threshold=report["best_threshold"]["threshold"],
            metrics={**checkpoint.metrics, "threshold_fitted_on": [Path(file).name for file in files]},
        )
        lm_head = load_lm_head(path, request.key)
        save_checkpoint(fitted, model, path, dtype=_stored_dtype(model), key=request.key, lm_head=lm_head)
        note(f"no-answer threshold {checkpoint.no_answer_threshold:.4f} -> {fitted.no_answer_threshold:.4f} in {path}")
    return 0


def _stored_dtype(model: SpanModel) -> str:
    """The smallest precision that holds a model's weights as they are: float16 for one that was stored so."""
    exact = all(weight.equal(weight.half().float()) for weight in model.cpu().state_dict().values())
    return "float16" if exact else "float32"


def _request(args: argparse.Namespace) -> tuple[Request, Sequence[str]]:
    """Tell datasets from overrides; the former replace the spec's."""
    args.overrides = [item for item in args.items if ("=" in item or item.startswith("~")) and not os.path.exists(item)]
    datasets = [item for item in args.items if item not in args.overrides]
    if datasets:
        # What the spec says of its own file, `???` perhaps, is not meant.
        args.overrides.append(f"test_ds.file={json.dumps(datasets)}")
    request = request_from_args(args, uses={"test_ds"}, reads=ANSWERING_KEYS, results_required=False)
    unread = sorted({"test_ds.output_prediction_file", "test_ds.output_nbest_file"} & request.given)
    if unread:
        note(f"without effect on this command: {', '.join(unread)} (spanqa infer writes answers)")
    if not request.spec.test_ds.file:
        raise SpecError("there is nothing to evaluate on: give a dataset, or a spec with test_ds.file")
    return request, request.spec.test_ds.file


def _scores(evaluation: Evaluation, threshold: float, *, intervals: bool) -> dict[str, Any]:
    best = evaluation.tuned_threshold()
    scores: dict[str, Any] = {}
    for name, value in (("model_threshold", threshold), ("threshold_0", 0.0), ("best_threshold", best)):
        scores[name] = {"threshold": value, **evaluation.scores(value, intervals=intervals)}
    scores["forced_answerable"] = dict(evaluation.forced_scores())
    return scores


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
