"""A model card: what a run knows of its model, and the sections that only people can fill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanqa_client.reports.card import TO_FILL, card_from_sections, cell, score_lines, with_interval
from spanqa_client.reports.report import EvaluationReport
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.spec.schema import DataSpec, Spec

_DATA_HEAD = ("| used for | files | size | source and licence |", "|---|---|---|---|")
_SIZES = {"n_questions": "questions", "n_unanswerable": "without an answer", "n_windows": "windows"}


def card_from_checkpoint(checkpoint: Checkpoint, spec: Spec, dataset: DataSpec, *, name: str) -> str:
    """Write the card of a trained checkpoint, in Markdown.

    Args:
        checkpoint: The model, with its provenance and metrics.
        spec: The spec that it was trained with.
        dataset: The section of the training data.
        name: The model's name.
    """
    return card_from_sections(
        name=name,
        what=_what(checkpoint),
        data=_data(checkpoint, spec, dataset),
        recipe=_recipe(checkpoint, spec, dataset),
        scores=_scores(checkpoint.metrics.get("validation")),
    )


def card_from_evaluation(checkpoint: Checkpoint, report: EvaluationReport, *, name: str) -> str:
    """Write the card of a checkpoint with the scores of a report.

    Args:
        checkpoint: The model; what it does not know of its training is left to fill.
        report: Its evaluation.
        name: The model's name.
    """
    facts = checkpoint.provenance
    files = ", ".join(map(cell, facts.get("trained_on", [])))
    sizes = [f"{facts[key]:,} {noun}" for key, noun in _SIZES.items() if key in facts]
    evaluated = f"{len(report.outcomes):,} questions"
    rows = [("training", files or TO_FILL, ", ".join(sizes) or TO_FILL)]
    rows.append(("evaluation", cell(report.run.facts.get("dataset", "")) or TO_FILL, evaluated))
    source = cell(str(facts.get("name", facts.get("source", "unknown"))))
    recipe = [f"- started from: {source}"]
    recipe.append("- every setting is in spec.yaml" if checkpoint.spec else f"- {TO_FILL} how it was trained")
    return card_from_sections(
        name=name,
        what=_what(checkpoint),
        data=[*_DATA_HEAD, *(f"| {use} | {names} | {size} | {TO_FILL} |" for use, names, size in rows)],
        recipe=recipe,
        scores=score_lines(report),
    )


def _what(checkpoint: Checkpoint) -> str:
    encoder = checkpoint.encoder
    return (
        "Marks the span of a passage that answers a question, or says that the passage holds none.\n"
        f"{encoder.family_name}, {encoder.num_layers} layers, width {encoder.hidden_size}, {encoder.num_heads} heads, "
        f"vocabulary of {encoder.vocab_size:,}; windows of {checkpoint.windows.max_seq_length} word pieces, step "
        f"{checkpoint.windows.doc_stride}, questions of at most {checkpoint.windows.max_query_length}."
    )


def _data(checkpoint: Checkpoint, spec: Spec, dataset: DataSpec) -> list[str]:
    facts = checkpoint.provenance
    sizes = (
        f"{facts['n_questions']:,} questions, {facts['n_unanswerable']:,} without an answer, "
        f"{facts['n_windows']:,} windows"
    )
    rows = [("training", dataset.file, sizes)]
    if before := _trained_on_before(checkpoint, dataset):
        rows.append(("training, of the checkpoint it started from", before, "see that one's card"))
    if spec.validation_ds.file:
        total = checkpoint.metrics["validation"]["model_threshold"]["total"]
        rows.append(("validation", spec.validation_ds.file, f"{total:,} questions"))
    lines = [*_DATA_HEAD]
    for purpose, files, size in rows:
        lines.append(f"| {purpose} | {', '.join(Path(file).name for file in files)} | {size} | {TO_FILL} |")
    return lines


def _recipe(checkpoint: Checkpoint, spec: Spec, dataset: DataSpec) -> list[str]:
    trainer, optim, schedule = spec.trainer, spec.optim, spec.optim.sched
    length = f"{trainer.max_steps:,} steps" if trainer.max_steps else f"{trainer.max_epochs} epochs"
    warmup = schedule.warmup_steps if schedule.warmup_steps is not None else f"{schedule.warmup_ratio or 0.0:g} of all"
    base = checkpoint.provenance
    source = base.get("source", "unknown")
    trained = ", trained before" if _trained_on_before(checkpoint, dataset) else ""
    return [
        f"- started from: {base.get('name', source)} ({source}){trained}; fingerprint {base['base_fingerprint'][:12]}",
        f"- {length}, batches of {dataset.batch('windows')} on each of {trainer.gpus or 1} processes, "
        f"{trainer.accumulate_grad_batches} summed before a step",
        f"- {optim.name}, learning rate {optim.lr:g}, betas {', '.join(map(str, optim.betas))}, weight decay "
        f"{optim.weight_decay:g}; {schedule.name}, warm-up steps {warmup}",
        f"- {base['precision']} on {base['device']}, gradients clipped at {trainer.gradient_clip_val:g} (0: not), "
        f"seed {trainer.seed}",
        "- every setting is in spec.yaml",
    ]


def _trained_on_before(checkpoint: Checkpoint, dataset: DataSpec) -> tuple[str, ...]:
    """Names of the files that earlier runs trained it on."""
    names: list[str] = checkpoint.provenance["trained_on"]
    return tuple(dict.fromkeys(names[: len(names) - len(dataset.file)]))


def _scores(validation: Mapping[str, Any] | None) -> list[str]:
    if not validation:
        return [f"{TO_FILL} there was no validation data, so nothing was measured."]
    lines = [
        f"On the validation data, which also chose the threshold ({validation['threshold']:.3f}) where there was none; "
        "in brackets 95 % bootstrap intervals over paragraphs.",
        "",
        "| | EM | F1 | questions |",
        "|---|---|---|---|",
    ]
    for label, key in (
        ("the model's threshold", "model_threshold"),
        ("threshold 0", "threshold_0"),
        ("always answering, answerable questions", "forced_answerable"),
    ):
        scores = validation[key]
        if scores:
            intervals = scores.get("intervals_95", {})
            cells = [with_interval(scores[name], intervals.get(name)) for name in ("exact", "f1")]
            lines.append(f"| {label} | {cells[0]} | {cells[1]} | {scores['total']:,} |")
    return lines
