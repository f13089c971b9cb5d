"""`spanqa infer`: answer a dataset offline and write prediction.txt, nbest.txt and predictions.jsonl."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spanqa_training.commands.arguments import (
    ANSWERING_KEYS,
    Request,
    add_overrides,
    add_spec_options,
    request_from_args,
)

if TYPE_CHECKING:
    from spanqa.squad import Example
    from spanqa_training.checkpoints.checkpoint import Checkpoint
    from spanqa_training.inference.evaluation import Network


INFERENCE_KEYS = ANSWERING_KEYS | {"model.dataset.n_best_size"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    add_output_options(parser)
    add_overrides(parser)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that write predictions."""
    parser.add_argument("--distinct", action="store_true", help="the n best spans of a question do not overlap")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Answer infer_ds and write the three files."""
    from spanqa_training.inference.evaluation import devices, network_from_model
    from spanqa_training.weights.model_sources import open_model, restored_path

    request = request_from_args(args, uses={"infer_ds"}, reads=INFERENCE_KEYS)
    request.spec.require_files("infer_ds")
    checkpoint, model = open_model(restored_path(request.spec, request.results), key=request.key)
    trainer = request.spec.trainer
    places = devices(trainer.gpus or None, cpu=trainer.accelerator == "cpu" or trainer.gpus == 0)
    report = infer(
        request,
        checkpoint,
        network_from_model(model, *places),
        distinct_spans=args.distinct,
        n_threads=len(places),
        quiet=args.quiet,
    )
    show(args, report)
    return 0


def infer(
    request: Request,
    checkpoint: Checkpoint,
    network: Network,
    *,
    distinct_spans: bool = False,
    n_threads: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Answer infer_ds with a network.

    Args:
        request: The spec and the folder of results.
        checkpoint: The model's tokenizer, windows and decode settings.
        network: Its network.
        distinct_spans: Whether the spans of a question do not overlap.
        n_threads: Batches in work at once.
        quiet: Whether to hide the progress bar.

    Returns:
        What was written, as JSON values.
    """
    from spanqa.windows import WindowMaker
    from spanqa_training.inference.decode_settings import decode_settings, threshold_from_spec
    from spanqa_training.inference.prediction_files import PREDICTIONS_FILE, PredictionFiles, answered

    spec, dataset = request.spec, request.spec.infer_ds
    checkpoint = dataclasses.replace(checkpoint, windows=spec.window_settings(checkpoint.windows))
    asked = threshold_from_spec(spec)
    threshold = checkpoint.no_answer_threshold if asked is None else asked
    files = PredictionFiles(
        predictions=request.results / dataset.output_prediction_file,
        nbest=request.results / dataset.output_nbest_file,
        records=request.results / PREDICTIONS_FILE,
    )
    n_questions = files.write(
        answered(
            network,
            WindowMaker(checkpoint.tokenizer(), checkpoint.windows),
            _examples(dataset.file, dataset.num_samples),
            decode_settings(checkpoint, spec),
            n_best=spec.model.dataset.n_best_size,
            distinct_spans=distinct_spans,
            rows_per_batch=dataset.batch_size if "infer_ds.batch_size" in request.given else None,
            n_threads=n_threads,
            quiet=quiet,
        ),
        threshold=threshold,
    )
    return {
        "questions": n_questions,
        "no_answer_threshold": threshold,
        **{field.name: str(getattr(files, field.name)) for field in dataclasses.fields(files)},
    }


def _examples(files: Sequence[str], num_samples: int) -> Iterator[Example]:
    """The questions of some files, one by one; only the first `num_samples` where that is not -1."""
    from itertools import chain, islice

    from spanqa.datasets import iter_dataset

    examples = chain.from_iterable(iter_dataset(file, require_answers=False) for file in files)
    return islice(examples, None if num_samples == -1 else num_samples)


def show(args: argparse.Namespace, report: dict[str, Any]) -> None:
    """Print what was written."""
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{report['questions']:,} questions, no answer where the margin is above {report['no_answer_threshold']:.3f}")
    for name in ("predictions", "nbest", "records"):
        print(f"  {report[name]}")
