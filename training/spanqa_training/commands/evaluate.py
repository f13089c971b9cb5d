"""`spanqa evaluate`: SQuAD metrics of a checkpoint, offline with the windows and decoder that serve, or of a server."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanqa.datasets import DATASET_FORMATS
from spanqa.files import write_atomically
from spanqa_client.reports.calibration import said_of_fit
from spanqa_client.reports.options import (
    add_report_options,
    check_report_inputs,
    check_report_options,
    wants_report,
    write_report_files,
)
from spanqa_client.reports.report import report_from_run
from spanqa_client.reports.runs import Run, Said
from spanqa_client.reports.score_table import as_json, scores_from_report, table_from_scores
from spanqa_client.reports.served import add_served_options, run_from_server
from spanqa_training.commands.arguments import ANSWERING_KEYS, Request, add_spec_options, note, request_from_args
from spanqa_training.errors import SpecError

if TYPE_CHECKING:
    from spanqa.score_scale import ScoreScale
    from spanqa_client.reports.calibration import FittedScale
    from spanqa_training.checkpoints.checkpoint import Checkpoint
    from spanqa_training.inference.evaluation import Evaluation
    from spanqa_training.model import SpanModel
    from spanqa_training.spec.schema import Spec

REPORT_FILE = "evaluation.json"
EXIT_SOME_FAILED = 1
FIT_SCORES = ("--fit-scores", "--fit-temperature")
"""The option's name, and the one that it had when a temperature was all that was fitted."""
_OFFLINE = {"model": "-m", "spec": "-e", "results": "-r", "gpus": "-g", "key": "-k"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    parser.add_argument("--threshold", type=float, help="no-answer threshold (default: the model's own)")
    parser.add_argument(
        "--fit-threshold", action="store_true", help="tune the threshold here and store it in the model"
    )
    parser.add_argument(
        *FIT_SCORES,
        action="store_true",
        help="fit the scale of the scores here, so that a score says how often it is right, and store it in the model",
    )
    parser.add_argument("--intervals", action="store_true", help="with 95 %% bootstrap intervals over paragraphs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_report_options(parser)
    add_served_options(parser)
    parser.add_argument(
        "items",
        nargs="*",
        metavar="DATASET | key=value",
        help=f"the questions: {DATASET_FORMATS} (default: the spec's test_ds.file), and keys of the spec to replace",
    )


def run(args: argparse.Namespace) -> int:
    """Answer every question, print the scores at several thresholds, and write the files asked for."""
    if args.threshold is not None and not math.isfinite(args.threshold):
        raise SpecError(f"--threshold {args.threshold}: give a finite number")
    check_report_options(args)
    return _served(args) if args.url else _offline(args)


def _served(args: argparse.Namespace) -> int:
    from spanqa.datasets import read_datasets

    given = [option for name, option in _OFFLINE.items() if getattr(args, name) is not None]
    given += [option for option, is_given in _fits(args) if is_given]
    if given:
        raise SpecError(f"--url asks a server, and {', '.join(given)} is for a checkpoint: leave one of them out")
    if not args.items:
        raise SpecError("there is nothing to evaluate on: give a dataset")
    examples = read_datasets(args.items)
    check_report_inputs(args, examples, args.items)
    answered, n_failed = run_from_server(args, examples, args.items)
    report = write_report_files(args, answered, examples, args.items) or report_from_run(answered, examples)
    scores = {"dataset": args.items, "url": args.url, **scores_from_report(report, intervals=args.intervals)}
    print(json.dumps(as_json(scores), indent=2) if args.json else table_from_scores(scores))
    return EXIT_SOME_FAILED if n_failed else 0


def _offline(args: argparse.Namespace) -> int:
    from spanqa.datasets import read_datasets
    from spanqa.windows import WindowMaker
    from spanqa_training.checkpoints.model_card import card_from_evaluation
    from spanqa_training.inference.decode_settings import decode_settings, threshold_from_spec
    from spanqa_training.inference.evaluation import devices, evaluate, network_from_model
    from spanqa_training.inference.score_fit import LEAST_TO_FIT, scale_from_evaluation
    from spanqa_training.weights.model_sources import open_model, restored_path

    request, files = _request(args)
    spec = request.spec
    path = restored_path(spec, request.results)
    checkpoint, model = open_model(path, key=request.key)
    _check_fits(args, path, checkpoint, spec)
    checkpoint = dataclasses.replace(checkpoint, windows=spec.window_settings(checkpoint.windows))
    places = devices(spec.trainer.gpus or None, cpu=spec.trainer.accelerator == "cpu" or spec.trainer.gpus == 0)
    settings = decode_settings(checkpoint, spec)
    examples = read_datasets(files, num_samples=spec.test_ds.num_samples)
    if args.fit_scores and len(examples) < LEAST_TO_FIT:
        raise SpecError(f"{FIT_SCORES[0]}: {len(examples)} questions are too few: give at least {LEAST_TO_FIT}")
    check_report_inputs(args, examples, list(files))
    evaluation = evaluate(
        network_from_model(model, *places),
        WindowMaker(checkpoint.tokenizer(), checkpoint.windows),
        examples,
        settings,
        quiet=args.quiet,
        rows_per_batch=spec.test_ds.batch_size if "test_ds.batch_size" in request.given else None,
        n_threads=len(places),
        keep_inputs=wants_report(args) or args.fit_scores,
    )
    asked = threshold_from_spec(spec) if args.threshold is None else args.threshold
    threshold = checkpoint.no_answer_threshold if asked is None else asked
    fitted = scale_from_evaluation(evaluation, settings) if evaluation.inputs else None
    report = {"dataset": list(files), "model": str(path), **_scores(evaluation, threshold, intervals=args.intervals)}
    print(json.dumps(as_json(report), indent=2) if args.json else table_from_scores(report))
    if args.results:
        text = json.dumps(as_json(report), indent=2) + "\n"
        write_atomically(request.results / REPORT_FILE, text, make_folder=True)
    answered = _run_from_evaluation(evaluation, path, files, threshold, settings.scale)
    name = Path(path).stem
    write_report_files(
        args,
        answered,
        evaluation.examples,
        files,
        fitted=fitted,
        card=lambda found: card_from_evaluation(checkpoint, found, name=name),
    )
    if args.fit_threshold or args.fit_scores:
        changed = _fitted(args, checkpoint, report["best_threshold"]["threshold"], fitted, files)
        _store(checkpoint, changed, model, path, request)
        if args.fit_scores and fitted:
            note(said_of_fit(fitted))
    return 0


def _fits(args: argparse.Namespace) -> tuple[tuple[str, bool], ...]:
    """The options that store something in the model, and whether they are given."""
    return ("--fit-threshold", args.fit_threshold), (FIT_SCORES[0], args.fit_scores)


def _check_fits(args: argparse.Namespace, path: Path, checkpoint: Checkpoint, spec: Spec) -> None:
    """Refuse to store in a model what cannot be stored, or does not hold for it."""
    from spanqa_training.checkpoints.checkpoint import is_checkpoint
    from spanqa_training.inference.decode_settings import decode_settings

    is_own = spec.window_settings(checkpoint.windows) == checkpoint.windows
    is_own = is_own and decode_settings(checkpoint, spec) == decode_settings(checkpoint)
    for option, is_given in _fits(args):
        if is_given and not is_checkpoint(path):
            raise SpecError(f"{option}: {path} is no checkpoint to store it in: take it over with spanqa import")
        if is_given and not is_own:
            raise SpecError(
                f"{option}: is stored in {path}, and model.dataset asks for other windows or answers than that model's "
                "own, for which it would not hold: leave those keys out"
            )


def _fitted(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    threshold: float,
    fitted: FittedScale | None,
    files: Sequence[str],
) -> Checkpoint:
    """The checkpoint with what was fitted."""
    names = [Path(file).name for file in files]
    metrics = dict(checkpoint.metrics)
    if args.fit_threshold:
        checkpoint = dataclasses.replace(checkpoint, no_answer_threshold=threshold)
        metrics["threshold_fitted_on"] = names
    if args.fit_scores:
        if fitted is None:
            raise SpecError(f"{FIT_SCORES[0]}: needs questions about at least two paragraphs: give a larger dataset")
        checkpoint = checkpoint.with_scale(fitted.scale)
        metrics["scores_fitted_on"] = names
        # What models of before said of their temperature.
        metrics.pop("temperature_fitted_on", None)
    return dataclasses.replace(checkpoint, metrics=metrics)


def _store(before: Checkpoint, fitted: Checkpoint, model: SpanModel, path: Path, request: Request) -> None:
    from spanqa_training.checkpoints.checkpoint import load_lm_head, save_checkpoint

    lm_head = load_lm_head(path, request.key)
    save_checkpoint(fitted, model, path, dtype=_stored_dtype(model), key=request.key, lm_head=lm_head)
    if fitted.no_answer_threshold != before.no_answer_threshold:
        note(f"no-answer threshold {before.no_answer_threshold:.4f} -> {fitted.no_answer_threshold:.4f} in {path}")
    if fitted.scale != before.scale:
        note(f"scale of the scores {before.scale} -> {fitted.scale} in {path}")


def _run_from_evaluation(
    evaluation: Evaluation, path: Path, files: Sequence[str], threshold: float, scale: ScoreScale
) -> Run:
    said = {}
    for example, decoded, n_windows in zip(evaluation.examples, evaluation.decoded, evaluation.n_windows, strict=True):
        best = decoded.spans[0]
        said[example.id] = Said(
            text=best.text,
            answered=decoded.has_answer(threshold),
            char_start=best.char_start,
            char_end=best.char_end,
            margin=decoded.no_answer_margin,
            score=best.score,
            n_windows=n_windows,
        )
    facts = {"dataset": ", ".join(Path(file).name for file in files), "date": date.today().isoformat()}
    return Run(name=Path(path).stem, facts=facts, said=said, threshold=threshold, scale=scale)


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


def _scores(evaluation: Evaluation, threshold: float, *, intervals: bool) -> Mapping[str, Any]:
    best = evaluation.tuned_threshold()
    scores: dict[str, Any] = {}
    for name, value in (("model_threshold", threshold), ("threshold_0", 0.0), ("best_threshold", best)):
        scores[name] = {"threshold": value, **evaluation.scores(value, intervals=intervals)}
    scores["forced_answerable"] = evaluation.forced_scores(intervals=intervals)
    return scores
