"""From the arguments of `spanqa train` to a run: spec, model, training windows and validation questions."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from spanqa.datasets import read_datasets
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_training.checkpoints.checkpoint import Checkpoint, check_target
from spanqa_training.commands.arguments import Request, note, request_from_args
from spanqa_training.console import tell
from spanqa_training.data.bad_examples import LEFT_OUT_FILE, copy_left_out, stop_naming_check_data
from spanqa_training.data.window_index import build_or_open_index
from spanqa_training.data.windowing import windows_of_examples
from spanqa_training.errors import SpecError
from spanqa_training.inference.decode_settings import decode_settings
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.optimization.optimizers import WITH_BETAS
from spanqa_training.optimization.schedules import unread_settings
from spanqa_training.run.launch import accelerator_of, precision_of
from spanqa_training.run.place import Place, check_nodes, place_from_environment
from spanqa_training.run.training_run import CHECKPOINTS, TrainingRun
from spanqa_training.spec.files import spec_yaml
from spanqa_training.spec.schema import PRECISIONS, DataSpec, Spec
from spanqa_training.weights.model_sources import base_model

_INDEX = "index"
_ENDINGS = (".tlt", "")
_OF_NEW_MODELS = (
    *(f"model.language_model.{name}" for name in ("pretrained_model_name", "lm_checkpoint", "config_file", "config")),
    "model.tokenizer",
    "model.dataset.do_lower_case",
)
"""Keys and sections that say what a new model is made of."""


def run_from_request(args: argparse.Namespace, *, section: str, save_to: str) -> TrainingRun:
    """Prepare a training run.

    Args:
        args: Parsed arguments.
        section: The section of the training data.
        save_to: Name of the checkpoint, where the spec gives none.

    Raises:
        SpanqaError: Something is missing, malformed or contradictory; nothing is trained.
    """
    request = request_from_args(args, uses={section, "validation_ds", "optim", "save_to"})
    spec = request.spec
    place = place_from_environment()
    check_nodes(spec.trainer, place)
    dataset = spec.require_files(section)
    if section == "finetuning_ds" and not spec.restore_from:
        raise SpecError("restore_from: must be the checkpoint to fine-tune, got nothing: give -m CHECKPOINT")
    if spec.trainer.early_stopping_patience and not spec.validation_ds.file:
        raise SpecError("trainer.early_stopping_patience: needs validation_ds.file, which decides when to stop")
    save_to = checked_name(spec.save_to or save_to)
    check_target(request.results / CHECKPOINTS / save_to)
    note_precision(spec)
    validation = read_datasets(spec.validation_ds.file, num_samples=spec.validation_ds.num_samples)
    note_unused(request)
    checkpoint, model = base_model(spec, key=request.key, results=request.results, warn=note)
    asked = decode_settings(checkpoint, spec)
    checkpoint = dataclasses.replace(
        checkpoint,
        max_answer_tokens=asked.max_answer_tokens,
        word_boundaries=spec.model.dataset.word_boundaries is not False,
        spec=spec_yaml(spec),
    )
    # What cannot be validated is told before training, not after its first epoch.
    windows_of_examples(validation, WindowMaker(checkpoint.tokenizer(), checkpoint.windows))
    index = _index(request, section, dataset, checkpoint, args.quiet, place)
    return TrainingRun(
        spec=spec,
        dataset=dataset,
        checkpoint=checkpoint,
        model=model,
        index=index,
        origin=_origin(index, validation, model),
        validation=validation,
        validation_rows=spec.validation_ds.batch_size if "validation_ds.batch_size" in request.given else None,
        results=request.results,
        save_to=save_to,
        key=request.key,
        quiet=args.quiet,
    )


def checked_name(name: str) -> str:
    """Give the name of a checkpoint back when it can be one.

    Raises:
        SpecError: It cannot.
    """
    if Path(name).name != name or Path(name).suffix not in _ENDINGS:
        raise SpecError(f"save_to: must be a name, alone for a folder or with .tlt for one file, got {name!r}")
    return name


def note_unused(request: Request) -> None:
    """Tell of what the spec says to other commands, or about a new model where a restored one is trained."""
    if "model.dataset.n_best_size" in request.given:
        note("without effect on this command: model.dataset.n_best_size (spanqa infer reads it)")
    optim = request.spec.optim
    unread = unread_settings(optim.sched)
    if unread:
        note(f"{optim.sched.name} does not read {', '.join(f'optim.sched.{name}' for name in unread)}")
    if "optim.betas" in request.given and optim.name not in WITH_BETAS:
        note(f"{optim.name} does not read optim.betas")
    if not request.spec.restore_from:
        return
    idle = [section for section in _OF_NEW_MODELS if any(f"{key}.".startswith(f"{section}.") for key in request.given)]
    if idle:
        note(f"the model is restored from {request.spec.restore_from}, so these are without effect: {', '.join(idle)}")


def note_precision(spec: Spec) -> None:
    """Tell of a precision that this machine has no way to train in."""
    precision = precision_of(spec.trainer, accelerator_of(spec.trainer))
    if precision == PRECISIONS[spec.trainer.precision]:
        return
    taken = "bf16" if precision == PRECISIONS["bf16"] else "float32, as its cores have no bfloat16"
    note(f"trainer.precision {spec.trainer.precision} needs a GPU: training in {taken} on the CPU")


def _index(
    request: Request, section: str, dataset: DataSpec, checkpoint: Checkpoint, quiet: bool, place: Place | None
) -> Path:
    """Index the training windows below the results; gives the index's folder."""
    settings = request.spec.model.dataset
    with build_or_open_index(
        dataset.file,
        WindowMaker(checkpoint.tokenizer(), checkpoint.windows),
        folder=request.results / _INDEX,
        keep_doc_spans=settings.keep_doc_spans,
        num_samples=dataset.num_samples,
        allow_unanswerable=settings.version_2_with_negative is not False,
        on_defect=stop_naming_check_data(dataset.file, section=section),
        skip_bad=dataset.bad_examples == "skip",
        quiet=quiet,
    ) as index:
        # Of several processes in one folder the first alone writes.
        n_left_out = 0 if place and place.rank else copy_left_out(index.folder, request.results)
        if n_left_out:
            note(f"bad examples left out of training: {n_left_out:,}, listed in {request.results / LEFT_OUT_FILE}")
        tell(
            f"{index.n_questions:,} questions, {index.n_unanswerable:,} without an answer; "
            f"{index.n_windows:,} windows, {index.n_positive:,} with one"
        )
        return index.folder


def fingerprint_of_weights(model: nn.Module, config: EncoderConfig) -> str:
    """Give the SHA-256 of a model's architecture and weights, as hexadecimal digits."""
    weights = hashlib.sha256(repr(config).encode())
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return weights.hexdigest()


def _origin(index: Path, validation: Sequence[Example], model: SpanModel) -> dict[str, str]:
    """SHA-256 of what a run starts from, by the name that its user knows it by."""
    return {
        "base model": fingerprint_of_weights(model, model.config),
        # The index is named by its content.
        "training data": index.name,
        "validation data": hashlib.sha256(repr(list(validation)).encode()).hexdigest(),
    }
