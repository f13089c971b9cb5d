"""How well a masked language model tells the masked words of held-out text: the same words whenever it is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch.nn import functional

from spanqa_training.adaptation.language_model import MaskedLanguageModel
from spanqa_training.adaptation.masking import Sequences, share_of_held_out
from spanqa_training.console import tell
from spanqa_training.run.progress import Progress

_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well the masked pieces were told.

    Args:
        loss: Mean cross-entropy, in nats.
        n_masked: Pieces asked for.
    """

    loss: float
    n_masked: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss: among how many equally likely pieces the model hesitates, so to speak."""
        return math.exp(min(self.loss, 700.0))

    def values(self) -> dict[str, Any]:
        """Give the score as JSON values."""
        return {"loss": round(self.loss, 6), "perplexity": round(self.perplexity, 4), "masked": self.n_masked}


@dataclass(slots=True, kw_only=True)
class HeldOut:
    """Scores a model on held-out sequences, each process its share.

    Args:
        fabric: The process's Fabric.
        model: The model in training.
        sequences: What is held out; with none nothing is scored.
        numbers: Which of the sequences are scored.
        last: The last score.
    """

    fabric: Fabric
    model: MaskedLanguageModel
    sequences: Sequences
    numbers: range
    last: Score | None = None

    def check(self, progress: Progress, stopping: Callable[[], bool]) -> dict[str, Any] | None:
        """Score the model in the middle or at the end of an epoch.

        Args:
            progress: Where the run is.
            stopping: Asked before each batch; the scoring ends where any process is to stop.

        Returns:
            What is remembered of it; None where it was ended.
        """
        entry: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "train_loss": round(progress.loss, 6),
            "lr": progress.lr,
        }
        if self.numbers:
            self.last = self.score(stopping)
            if self.last is None:
                return None
            entry |= entry_of(self.last)
        shown = [f"{name} {entry[name]:.4g}" for name in ("train_loss", "val_loss", "perplexity") if name in entry]
        self.say(f"epoch {progress.epoch}, step {progress.step:,} of {progress.n_steps:,}: {', '.join(shown)}")
        return entry

    def say(self, message: str) -> None:
        """Tell the user something, once."""
        if self.fabric.global_rank == 0:
            tell(message)

    def score(self, stopping: Callable[[], bool] = lambda: False) -> Score | None:
        """Score the model as it is, in float32; None where a process was asked to stop."""
        self.model.eval()
        mine = list(self.numbers)[self.fabric.global_rank :: self.fabric.world_size]
        # Sums over batches in float64: the order of the processes' shares must not show in six digits.
        sums = torch.zeros(3, dtype=torch.float64)
        for low in range(0, len(mine), _BATCH):
            if stopping():
                sums[2] = 1
                break
            share = share_of_held_out(self.sequences, np.array(mine[low : low + _BATCH], dtype=np.int64))
            share = share.moved(lambda tensor: tensor.to(self.fabric.device))
            with torch.inference_mode():
                scores = self.model(*share.inputs, share.places)
                sums[0] += functional.cross_entropy(scores, share.labels, reduction="sum").double().cpu()
            sums[1] += len(share.labels)
        if self.fabric.world_size > 1:
            sums = self.fabric.all_reduce(sums.to(self.fabric.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
        loss, n_masked, stopped = sums.tolist()
        return None if stopped else Score(loss=loss / n_masked, n_masked=int(n_masked))


def entry_of(score: Score) -> dict[str, Any]:
    """Give a score as the log and the picture have it."""
    return {"val_loss": round(score.loss, 6), "perplexity": round(score.perplexity, 4)}


def numbers_to_score(n_sequences: int, most: int) -> range:
    """Choose sequences that stand evenly over all, so that a large held-out part costs no more than a small one."""
    return range(0, n_sequences, -(-n_sequences // most)) if n_sequences else range(0)
