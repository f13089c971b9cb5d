"""The card of an adapted checkpoint: what it read, how, and what that did to its perplexity."""

from __future__ import annotations

from pathlib import Path

from spanqa_client.reports.card import TO_FILL, card_from_sections, cell
from spanqa_training.adaptation.vocabulary_report import report_lines
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.spec.schema import Spec


def card_from_adapted(checkpoint: Checkpoint, spec: Spec, *, name: str) -> str:
    """Write the card of an adapted checkpoint, in Markdown.

    Args:
        checkpoint: The model, with its provenance and metrics.
        spec: The spec that it was adapted with.
        name: The model's name.
    """
    encoder = checkpoint.encoder
    return card_from_sections(
        name=name,
        what=(
            "An encoder whose language was adapted to a domain, to be trained on questions: `spanqa train -m`. "
            "Its head for questions is the base model's and does not fit it any more.\n"
            f"{encoder.family_name}, {encoder.num_layers} layers, width {encoder.hidden_size}, "
            f"{encoder.num_heads} heads, vocabulary of {encoder.vocab_size:,}."
        ),
        data=_data(checkpoint, spec),
        recipe=_recipe(checkpoint, spec),
        scores=_scores(checkpoint),
    )


def _data(checkpoint: Checkpoint, spec: Spec) -> list[str]:
    facts = checkpoint.provenance["adaptation"]
    files = ", ".join(cell(Path(file).name) for file in spec.training_ds.file)
    other = ", ".join(cell(Path(file).name) for file in spec.validation_ds.file)
    size = f"{facts['n_documents']:,} texts, {facts['n_pieces']:,} word pieces"
    lines = ["| used for | files | size | source and licence |", "|---|---|---|---|"]
    lines.append(f"| adapting | {files} | {size} | {TO_FILL} |")
    if facts["n_held_out_documents"]:
        where = other or f"of the same, {facts['held_out_share']:.0%} by hash"
        lines.append(f"| held out | {where} | {facts['n_held_out_documents']:,} texts | {TO_FILL} |")
    return lines


def _recipe(checkpoint: Checkpoint, spec: Spec) -> list[str]:
    trainer, optim, facts = spec.trainer, spec.optim, checkpoint.provenance["adaptation"]
    length = f"{trainer.max_steps:,} steps" if trainer.max_steps else f"{trainer.max_epochs} epochs"
    source = checkpoint.provenance.get("source", "unknown")
    return [
        f"- started from: {cell(str(checkpoint.provenance.get('name', source)))} ({cell(str(source))}); masked-LM head "
        f"{facts['masked_lm_head']}; fingerprint {facts['base_fingerprint'][:12]}",
        f"- masked language model, whole words, {facts['masked_share']:.0%} of the pieces, drawn anew in each epoch",
        f"- {length}, sequences of at most {facts['max_seq_length']} pieces, batches of "
        f"{spec.training_ds.batch('sequences')} on each of {trainer.gpus or 1} processes, "
        f"{trainer.accumulate_grad_batches} summed before a step",
        f"- {optim.name}, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}; {optim.sched.name}",
        f"- {facts['precision']} on {facts['device']}, gradients clipped at {trainer.gradient_clip_val:g} (0: not), "
        f"seed {trainer.seed}",
        "- every setting is in spec.yaml",
    ]


def _scores(checkpoint: Checkpoint) -> list[str]:
    found = checkpoint.metrics["held_out"]
    lines = [f"{TO_FILL} nothing was held out, so nothing was measured."]
    if found:
        lines = ["Masked words of the held-out texts, the same before and after.", "", "| | loss | perplexity |"]
        lines += ["|---|---|---|"]
        lines += [
            f"| {when} | {found[when]['loss']:.4f} | {found[when]['perplexity']:.2f} |" for when in ("before", "after")
        ]
    return [*lines, "", "```", *report_lines(checkpoint.metrics["vocabulary"]), "```"]
