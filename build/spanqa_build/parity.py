"""How far a built network is from its checkpoint, on real windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from spanqa.contract import ATTENTION_MASK, END_LOGITS, INPUT_IDS, START_LOGITS, TOKEN_TYPE_IDS
from spanqa.spans import Decoded, decode
from spanqa.windows import Batch, WindowMaker, Windows, batch_windows
from spanqa_build.errors import ParityError
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.evaluation import window_logits
from spanqa_training.model import SpanModel

Logits = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Start and end logits, each `float32 (n_windows, length)`."""
Network = Callable[[Batch], Logits]
"""Runs one batch of windows."""

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What differs between two networks.

    Args:
        n_questions: Questions asked of both.
        n_windows: Windows that both read.
        max_difference: Largest absolute difference of any logit.
        window_quantiles: Quantiles (0.5, 0.9, 0.99) over windows of each one's largest absolute difference.
        spans_changed: Questions whose best span is another.
        answers_changed: Questions answered differently at the model's threshold: with another span, or with "no
            answer" in place of one or the reverse.
        max_margin_difference: Largest absolute difference of a no-answer margin.
        logit_error: Root of the mean squared difference of all logits, over the standard deviation of the right ones.
    """

    n_questions: int
    n_windows: int
    max_difference: float
    window_quantiles: tuple[float, ...]
    spans_changed: int
    answers_changed: int
    max_margin_difference: float
    logit_error: float = 0.0

    def require(self, *, max_difference: float, answers_changed: int = 0) -> None:
        """Refuse a network that differs more.

        Raises:
            ParityError: It does.
        """
        if not self.max_difference <= max_difference or self.answers_changed > answers_changed:
            raise ParityError(
                f"logits differ by up to {self.max_difference:.2g} (allowed: {max_difference:.2g}) and"
                f" {self.answers_changed} of {self.n_questions} answers changed (allowed: {answers_changed}):"
                " the network is not the checkpoint's"
            )


def session_from_onnx(network: str | Path | bytes, *, intra_op_threads: int = 0) -> onnxruntime.InferenceSession:
    """Load an ONNX network on the CPU.

    Args:
        network: A file, or its content.
        intra_op_threads: Threads of one call; 0 takes every core.

    Raises:
        ParityError: ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    try:
        source = network if isinstance(network, bytes) else str(network)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each status and no common base
        name = "the packed network" if isinstance(network, bytes) else network
        raise ParityError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}") from error


def run_onnx(session: onnxruntime.InferenceSession, batch: Batch) -> Logits:
    """Run one batch through an ONNX Runtime session."""
    feeds = {
        INPUT_IDS.name: batch.input_ids,
        ATTENTION_MASK.name: batch.attention_mask,
        TOKEN_TYPE_IDS.name: batch.token_type_ids,
    }
    start, end = session.run([START_LOGITS.name, END_LOGITS.name], feeds)
    return start, end


@torch.inference_mode()
def run_torch(model: SpanModel, batch: Batch) -> Logits:
    """Run one batch through a torch model on the CPU."""
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    start, end = model(*map(torch.from_numpy, arrays))
    return start.numpy(), end.numpy()


def question_logits(network: Network, windows: Windows, *, rows_per_call: int = 1) -> Logits:
    """Run the windows of one question.

    Args:
        network: Runs a batch.
        windows: The question's windows.
        rows_per_call: Most windows of a batch; a batch is padded to its longest.

    Returns:
        Logits `float32 (n_windows, longest)`; zero beyond a window's end.
    """
    longest = int(windows.seq_lengths.max())
    start = np.zeros((len(windows), longest), dtype=np.float32)
    end = np.zeros_like(start)
    for first in range(0, len(windows), rows_per_call):
        indices = range(first, min(first + rows_per_call, len(windows)))
        batch_start, batch_end = network(batch_windows([(windows, index) for index in indices]))
        for row, index in enumerate(indices):
            length = windows.seq_lengths[index]
            start[index, :length] = batch_start[row, :length]
            end[index, :length] = batch_end[row, :length]
    return start, end


def compare(
    reference: Network,
    candidate: Network,
    checkpoint: Checkpoint,
    pairs: Sequence[tuple[str, str]],
    *,
    rows_per_call: int = 1,
    quiet: bool = True,
) -> Parity:
    """Ask two networks the same questions.

    Args:
        reference: What is right, usually the checkpoint in torch.
        candidate: What was built.
        checkpoint: Gives the tokenizer, window and decoding settings of both.
        pairs: Questions and their contexts; at least one.
        rows_per_call: Most windows of a call of the candidate.
        quiet: Whether to hide the progress bar.
    """
    contexts = [context for _, context in pairs]
    all_windows = WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows_of_many(list(pairs))
    right = answers_from_logits(checkpoint, all_windows, contexts, window_logits(reference, all_windows, quiet=quiet))
    logits = window_logits(candidate, all_windows, quiet=quiet, rows_per_batch=rows_per_call)
    return parity_of(right, answers_from_logits(checkpoint, all_windows, contexts, logits), checkpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a network says to some questions.

    Args:
        windows: Windows of each question.
        logits: Logits of each.
        decoded: Its best span and null score.
    """

    windows: Sequence[Windows]
    logits: Sequence[Logits]
    decoded: Sequence[Decoded]


def answers_from_logits(
    checkpoint: Checkpoint, all_windows: Sequence[Windows], contexts: Sequence[str], logits: Sequence[Logits]
) -> Answers:
    """Decode the logits of some questions with the checkpoint's settings."""
    decoded = [
        decode(
            windows,
            context,
            *one,
            max_answer_tokens=checkpoint.max_answer_tokens,
            scale=checkpoint.scale,
            word_boundaries=checkpoint.word_boundaries,
        )
        for windows, context, one in zip(all_windows, contexts, logits, strict=True)
    ]
    return Answers(windows=all_windows, logits=logits, decoded=decoded)


def parity_of(right: Answers, built: Answers, checkpoint: Checkpoint) -> Parity:
    """Hold what one network says against what another does."""
    threshold = checkpoint.no_answer_threshold
    differences: list[float] = []
    for right_logits, built_logits in zip(right.logits, built.logits, strict=True):
        parts = (abs(a - b).max(axis=1) for a, b in zip(right_logits, built_logits, strict=True))
        differences += np.maximum(*parts).tolist()
    pairs = list(zip(right.decoded, built.decoded, strict=True))
    return Parity(
        n_questions=len(pairs),
        n_windows=len(differences),
        max_difference=max(differences),
        window_quantiles=tuple(np.quantile(differences, QUANTILES).tolist()),
        spans_changed=sum(_place(one) != _place(other) for one, other in pairs),
        answers_changed=sum(
            (_place(one) if one.has_answer(threshold) else None)
            != (_place(other) if other.has_answer(threshold) else None)
            for one, other in pairs
        ),
        max_margin_difference=max(abs(one.no_answer_margin - other.no_answer_margin) for one, other in pairs),
        logit_error=_logit_error(right.logits, built.logits),
    )


def _logit_error(right: Sequence[Logits], built: Sequence[Logits]) -> float:
    wanted, got = (np.concatenate([part.ravel() for one in logits for part in one]) for logits in (right, built))
    real = wanted != 0  # what lies beyond a window's end is 0 in both
    spread = float(wanted[real].std(dtype=np.float64)) if real.any() else 0.0
    error = float(np.sqrt(np.mean(np.square(wanted[real] - got[real], dtype=np.float64)))) if real.any() else 0.0
    return error / spread if spread else float(error > 0)


def _place(decoded: Decoded) -> tuple[int, int]:
    return decoded.spans[0].char_start, decoded.spans[0].char_end
