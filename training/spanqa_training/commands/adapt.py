"""`spanqa adapt`: continued training of a checkpoint's language on plain text, resumed where it was interrupted."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from spanqa_training.commands.arguments import Request, add_overrides, add_spec_options, note, request_from_args
from spanqa_training.console import tell

if TYPE_CHECKING:
    from spanqa_training.adaptation.adaptation_run import AdaptationRun
    from spanqa_training.adaptation.language_model import MaskedLanguageModel
    from spanqa_training.checkpoints.checkpoint import Checkpoint
    from spanqa_training.spec.schema import Spec

INTERRUPTED = 130
HELD_OUT_SHARE = 0.05
SHORTEST = 16
"""Tokens of a sequence: fewer are no context to tell a word from."""
_SAVE_TO = "adapted-model.tlt"
_INDEX = "index"
_FOR_QUESTIONS = (
    *("doc_stride", "max_query_length", "max_answer_length", "word_boundaries", "version_2_with_negative"),
    *("null_score_diff_threshold", "keep_doc_spans", "use_cache"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    parser.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        default=HELD_OUT_SHARE,
        help="share of the texts to measure on, where validation_ds.file names none (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Adapt, measure on held-out text before and after, and write RESULTS/checkpoints/adapted-model.tlt."""
    from spanqa_training.adaptation.adaptation_run import adapt_process
    from spanqa_training.errors import SpecError, check_spec
    from spanqa_training.run.launch import run_processes
    from spanqa_training.run.loop import STATE_FOLDER
    from spanqa_training.run.place import place_from_environment
    from spanqa_training.run.state import sole_run

    request = request_from_args(args, uses={"training_ds", "validation_ds", "optim", "save_to"})
    if place_from_environment() or (request.spec.trainer.num_nodes or 1) > 1:
        raise SpecError("spanqa adapt runs on one machine: start it without torchrun, with -g N for its GPUs")
    metric = request.spec.trainer.early_stopping_metric
    check_spec(metric in (None, "val_loss"), "trainer.early_stopping_metric", "val_loss for adapt", metric)
    if not 0 <= args.held_out < 1:
        raise SpecError(f"--held-out {args.held_out}: give a share of the texts from 0 up to, not including, 1")
    with sole_run(request.results / STATE_FOLDER):
        run = _run_from_request(request, held_out_share=args.held_out, quiet=args.quiet)
        finished = run_processes(run.spec.trainer, adapt_process, run)
    if finished is None:
        tell("interrupted before training began: the same command starts it")
    if not finished:
        return INTERRUPTED
    tell(str(run.target), sys.stdout)
    return 0


def _run_from_request(request: Request, *, held_out_share: float, quiet: bool) -> AdaptationRun:
    """Prepare a run: model, head, and the texts as sequences."""
    from spanqa_training.adaptation.adaptation_run import AdaptationRun
    from spanqa_training.adaptation.sequence_file import special_ids
    from spanqa_training.adaptation.text_index import build_text_index
    from spanqa_training.adaptation.texts import iter_texts
    from spanqa_training.adaptation.vocabulary_report import VocabularyReport, report_lines
    from spanqa_training.checkpoints.checkpoint import check_target
    from spanqa_training.commands.prepare import checked_name, fingerprint_of_weights, note_precision
    from spanqa_training.errors import SpecError
    from spanqa_training.run.training_run import CHECKPOINTS

    spec = request.spec
    texts = spec.require_files("training_ds")
    save_to = checked_name(spec.save_to or _SAVE_TO)
    check_target(request.results / CHECKPOINTS / save_to)
    note_precision(spec)
    _note_unused(request)
    checkpoint, model, head = _base(request)
    special_ids(checkpoint.tokenizer())
    length = _sequence_length(spec, checkpoint)
    vocabulary = VocabularyReport()
    other = iter_texts(spec.validation_ds.file, num_samples=spec.validation_ds.num_samples, warn=note)
    index, counts = build_text_index(
        iter_texts(texts.file, num_samples=texts.num_samples, warn=note),
        other if spec.validation_ds.file else float(held_out_share),
        tokenizer=checkpoint.tokenizer(),
        max_seq_length=length,
        folder=request.results / _INDEX,
        on_words=vocabulary.add,
    )
    for line in report_lines(vocabulary.values()):
        tell(line)
    tell(
        f"{counts.n_documents:,} texts, {counts.n_pieces:,} word pieces, {counts.n_sequences:,} sequences; "
        f"{counts.n_held_out_documents:,} texts held out"
    )
    if not counts.n_held_out_sequences:
        if spec.trainer.early_stopping_patience:
            what = "needs held-out texts, which decide when to stop: give validation_ds.file, or --held-out above 0"
            raise SpecError(f"trainer.early_stopping_patience: {what}")
        note("nothing is held out, so nothing is measured: give validation_ds.file, or several texts and --held-out")
    return AdaptationRun(
        spec=spec,
        checkpoint=checkpoint,
        model=model,
        index=index,
        counts=counts,
        max_seq_length=length,
        held_out_share=held_out_share,
        origin={"base model": fingerprint_of_weights(model, model.config), "text": index.name},
        vocabulary=vocabulary.values(),
        head=head,
        results=request.results,
        save_to=save_to,
        key=request.key,
        quiet=quiet,
    )


def _base(request: Request) -> tuple[Checkpoint, MaskedLanguageModel, str]:
    """Open the base model with its masked-LM head, or a fresh one, and say which."""
    import dataclasses

    from spanqa_training.adaptation.language_model import MaskedLanguageModel
    from spanqa_training.spec.files import spec_yaml
    from spanqa_training.weights.model_sources import base_model, lm_head_of, restored_path

    spec = request.spec
    path = restored_path(spec, request.results)
    # The windows of questions stay the base model's, whatever the length of the sequences here.
    windows = dataclasses.replace(spec.model.dataset, max_seq_length=None, doc_stride=None, max_query_length=None)
    own = dataclasses.replace(spec, model=dataclasses.replace(spec.model, dataset=windows))
    checkpoint, encoder = base_model(own, key=request.key, results=request.results, warn=note)
    model = MaskedLanguageModel(encoder, spec.trainer.seed)
    kept = lm_head_of(path, key=request.key)
    if kept:
        model.take_lm_head(kept)
    else:
        tell(f"{path} has no masked-LM head: a fresh one is trained with the encoder")
    if "trained_on" in checkpoint.provenance:
        tell("the head for questions is kept as it was, and fits no more: train the adapted checkpoint on questions")
    head = "taken over" if kept else f"fresh, seed {spec.trainer.seed}"
    return dataclasses.replace(checkpoint, spec=spec_yaml(spec)), model, head


def _sequence_length(spec: Spec, checkpoint: Checkpoint) -> int:
    from spanqa_training.errors import check_spec

    length = spec.model.dataset.max_seq_length or checkpoint.windows.max_seq_length
    most = checkpoint.encoder.max_positions
    check_spec(
        SHORTEST <= length <= most, "model.dataset.max_seq_length", f"in {SHORTEST}..{most}, the model's", length
    )
    return length


def _note_unused(request: Request) -> None:
    """Tell of what the spec says to other commands."""
    from spanqa_training.commands.prepare import note_unused

    note_unused(request)
    keys = [*(f"model.dataset.{name}" for name in _FOR_QUESTIONS), "trainer.save_top_k"]
    idle = [key for key in keys if key in request.given]
    idle += sorted(key for key in request.given if key.startswith("model.token_classifier."))
    if idle:
        note(f"without effect on this command: {', '.join(idle)}")
