"""The accuracy gate: a network is served only if its answers score as the checkpoint's do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spanqa.spans import DecodeSettings
from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker
from spanqa_build.parity import run_onnx, session_from_onnx
from spanqa_training.checkpoint import Checkpoint
from spanqa_training.evaluate import Network, evaluate

MAX_F1_LOSS = 0.5
"""Most F1 points that an optimised network may lose against float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How a network answers a dataset at the model's threshold.

    Args:
        n_questions: Questions asked.
        exact: Exact match in percent.
        f1: F1 in percent.
        forced_f1: F1 of the answerable questions in percent when every question is answered.
    """

    n_questions: int
    exact: float
    f1: float
    forced_f1: float


def accuracy_of(network: Network, checkpoint: Checkpoint, examples: Sequence[Example], *, quiet: bool) -> Accuracy:
    """Score a network, one unpadded window a run, as the CPU encoder does it."""
    settings = DecodeSettings(
        no_answer_threshold=checkpoint.no_answer_threshold,
        max_answer_tokens=checkpoint.max_answer_tokens,
        temperature=checkpoint.temperature,
    )
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    evaluation = evaluate(network, maker, examples, settings, quiet=quiet, rows_per_batch=1)
    scores = evaluation.scores(checkpoint.no_answer_threshold)
    return Accuracy(
        n_questions=len(examples),
        exact=scores["exact"],
        f1=scores["f1"],
        forced_f1=float(evaluation.forced_scores().get("f1", 0.0)),
    )


def network_from_onnx(path: Path) -> Network:
    """Make a plain function of an ONNX file, on all cores."""
    session = session_from_onnx(path)

    def network(batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return run_onnx(session, batch)

    return network
