"""One run of adaptation: every process trains its share, the first writes the checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from spanqa.files import write_atomically
from spanqa_training.adaptation.card import card_from_adapted
from spanqa_training.adaptation.held_out import HeldOut, Score, entry_of, numbers_to_score
from spanqa_training.adaptation.language_model import MaskedLanguageModel
from spanqa_training.adaptation.masking import MASKED_SHARE, MASKED_WORDS
from spanqa_training.adaptation.sequence_file import SequenceFile, special_ids
from spanqa_training.adaptation.text_index import TextCounts
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
from spanqa_training.checkpoints.keys import Key
from spanqa_training.run.allocator import keep_freed_memory
from spanqa_training.run.launch import handled, precision_of
from spanqa_training.run.log_picture import svg_from_run
from spanqa_training.run.loop import STATE_FOLDER, Trainer
from spanqa_training.run.training_run import CARD_FILE, CHECKPOINTS, CURVES_FILE
from spanqa_training.spec.schema import Spec

METRICS_FILE = "metrics.json"
MOST_SCORED = 2_000
"""Held-out sequences that are scored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationRun:
    """All that a process of a run needs; it reaches spawned processes through a pipe.

    Args:
        spec: The run's spec.
        checkpoint: The model that adapting starts from.
        model: Its weights, with the head of the masked language model.
        index: Folder of the texts' index.
        counts: What it holds.
        max_seq_length: Tokens of a sequence at most, special tokens included.
        held_out_share: Share of the texts that is held out, where no other texts are.
        origin: SHA-256 of what the run starts from, by name.
        vocabulary: What the vocabulary report found.
        head: Where the head of the masked language model comes from.
        results: The folder of results.
        save_to: Name of the checkpoint to write.
        key: Encrypts what is written; None without.
        quiet: Whether to hide progress.
    """

    spec: Spec
    checkpoint: Checkpoint
    model: MaskedLanguageModel
    index: Path
    counts: TextCounts
    max_seq_length: int
    held_out_share: float
    origin: Mapping[str, str]
    vocabulary: Mapping[str, Any]
    head: str
    results: Path
    save_to: str
    key: Key | None = dataclasses.field(default=None, repr=False)
    quiet: bool = False

    @property
    def target(self) -> Path:
        """The checkpoint to write."""
        return self.results / CHECKPOINTS / self.save_to


def adapt_process(fabric: Fabric, run: AdaptationRun) -> bool:
    """Adapt as one process of a run.

    Returns:
        True when the checkpoint is written, False when the run was interrupted and its state saved.

    Raises:
        SpanqaError: Whatever ends the run.
    """
    if fabric.device.type == "cpu":
        keep_freed_memory()
    # Spawned processes get the weights in memory that they share: each trains a copy of its own.
    model = run.model if fabric.world_size == 1 else copy.deepcopy(run.model)
    special, seed = special_ids(run.checkpoint.tokenizer()), run.spec.trainer.seed
    with (
        SequenceFile(run.index, "training", special, seed) as sequences,
        SequenceFile(run.index, "held_out", special, seed) as held_out,
    ):
        numbers = numbers_to_score(run.counts.n_held_out_sequences, MOST_SCORED)
        scorer = HeldOut(fabric=fabric, model=model, sequences=held_out, numbers=numbers)
        trainer = Trainer(
            fabric,
            model,
            sequences,
            sequences.lengths,
            spec=run.spec,
            dataset=run.spec.training_ds,
            results=run.results,
            key=run.key,
            origin=run.origin,
            quiet=run.quiet,
            objective=MASKED_WORDS,
        )
        with handled(lambda *_: trainer.stop()):
            finished = _begun(trainer, scorer, run) and trainer.run(partial(scorer.check, stopping=trainer.stopping))
        if not finished:
            scorer.say(f"interrupted: the same command resumes from {run.results / STATE_FOLDER}")
            return False
        after = _final_score(run, model, scorer)
    if fabric.global_rank == 0:
        _save(run, model, trainer, after, fabric)
    fabric.barrier()
    return True


def _begun(trainer: Trainer, scorer: HeldOut, run: AdaptationRun) -> bool:
    """Say where a run goes on, or score the base model where it begins; False where that was stopped."""
    if trainer.complete:
        scorer.say(
            f"the run is complete already and nothing is trained: {run.target} is written again from its state; for "
            "another run give another -r"
        )
    elif any(trainer.resumed_at):
        scorer.say(f"resuming at epoch {trainer.resumed_at[0] + 1}, batch {trainer.resumed_at[1]}")
    if scorer.numbers and not trainer.log:
        before = scorer.score(trainer.stopping)
        if before is None:
            return False
        trainer.remember({"step": 0, "epoch": 0, **entry_of(before), "masked": before.n_masked})
        scorer.say(f"before adapting: val_loss {before.loss:.4g}, perplexity {before.perplexity:.4g}")
    return True


def _final_score(run: AdaptationRun, model: MaskedLanguageModel, scorer: HeldOut) -> Score | None:
    """The score of the weights as they are stored."""
    rounded = run.spec.trainer.checkpoint_dtype == "float16"
    if rounded:
        model.half().float()
    if not scorer.numbers:
        return None
    return scorer.score() if rounded or scorer.last is None else scorer.last


def _save(
    run: AdaptationRun, model: MaskedLanguageModel, trainer: Trainer, after: Score | None, fabric: Fabric
) -> None:
    before = next(({"loss": one["val_loss"], **one} for one in trainer.log if one["step"] == 0), None)
    held_out = None
    if before and after:
        held_out = {"before": {key: before[key] for key in ("loss", "perplexity", "masked")}, "after": after.values()}
    facts = {
        **dataclasses.asdict(run.counts),
        "texts": [Path(file).name for file in run.spec.training_ds.file],
        "held_out_share": run.held_out_share,
        "masked_share": MASKED_SHARE,
        "masked_lm_head": run.head,
        "max_seq_length": run.max_seq_length,
        "base_fingerprint": run.origin["base model"],
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "CPU",
        "precision": precision_of(run.spec.trainer, fabric.device.type),
        "checks": trainer.log,
    }
    checkpoint = dataclasses.replace(
        run.checkpoint,
        # What was fitted for another encoder says nothing about this one.
        no_answer_threshold=0.0,
        temperature=1.0,
        answer_slope=None,
        answer_offset=0.0,
        metrics={"held_out": held_out, "vocabulary": dict(run.vocabulary)},
        provenance={**run.checkpoint.provenance, "adaptation": facts},
    )
    card = card_from_adapted(checkpoint, run.spec, name=run.target.stem)
    dtype = run.spec.trainer.checkpoint_dtype
    save_checkpoint(checkpoint, model.encoder, run.target, dtype=dtype, key=run.key, card=card, lm_head=model.lm_head())
    metrics = json.dumps(checkpoint.metrics, indent=2, ensure_ascii=False) + "\n"
    picture = svg_from_run(run.results, title=run.target.stem)
    for name, text in ((CARD_FILE, card), (CURVES_FILE, picture), (METRICS_FILE, metrics)):
        if text:
            write_atomically(run.results / name, text)
