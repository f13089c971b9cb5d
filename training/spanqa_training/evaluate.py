"""Offline evaluation: the served decoder over a model's logits, and SQuAD metrics of what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from spanqa.spans import Decoded, DecodeSettings, decode
from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker, Windows, batch_windows
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import gold_from_examples, raw_scores, score_predictions
from spanqa_client.thresholds import tune_threshold
from spanqa_training.model import SpanModel

_TOKENS_PER_BATCH = 6144
"""Padded tokens in one evaluation batch: large enough to keep two cores or a GPU busy, small enough for a laptop."""

Network = Callable[[Batch], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Encoder input to start and end logits, each `float32 (n_windows, length)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Decoded answers to a dataset.

    Args:
        examples: The questions, in order.
        decoded: What the model says to each.
    """

    examples: Sequence[Example]
    decoded: Sequence[Decoded]

    def predictions(self, threshold: float) -> dict[str, str]:
        """Answer text by question id; empty where the margin is above the threshold."""
        pairs = zip(self.examples, self.decoded, strict=True)
        return {e.id: d.spans[0].text if d.has_answer(threshold) else "" for e, d in pairs}

    def margins(self) -> dict[str, float]:
        """No-answer margin by question id."""
        return {e.id: d.no_answer_margin for e, d in zip(self.examples, self.decoded, strict=True)}

    def tuned_threshold(self) -> float:
        """The threshold with the best F1 on these questions, within their margins (never infinite)."""
        questions = gold_from_examples(self.examples)
        _, f1 = raw_scores(questions, self.predictions(math.inf))
        margins = [d.no_answer_margin for d in self.decoded]
        best = tune_threshold(
            margins=margins,
            answered_scores=[score or 0.0 for score in f1],
            null_scores=[float(not question.answers) for question in questions],
        )
        return min(max(best.threshold, min(margins) - 1.0), max(margins) + 1.0)

    def scores(self, threshold: float, *, intervals: bool = False) -> dict[str, Any]:
        """SQuAD metrics at a threshold, as percentages and counts; with 95 % bootstrap intervals on request."""
        questions = gold_from_examples(self.examples)
        report = score_predictions(questions, self.predictions(threshold))
        scores: dict[str, Any] = dict(report.scores)
        if intervals:
            found = bootstrap_intervals(questions, report.exact, report.f1)
            scores["intervals_95"] = {name: list(interval) for name, interval in found.items()}
        return scores

    def forced_scores(self) -> Mapping[str, float]:
        """SQuAD metrics of the answerable questions when every question is answered with its best span."""
        scores = self.scores(math.inf)
        return {name.removeprefix("HasAns_"): value for name, value in scores.items() if name.startswith("HasAns_")}


def network_from_model(model: SpanModel, device: str | torch.device = "cpu") -> Network:
    """Make a plain function of a torch model."""
    model.eval()

    @torch.inference_mode()
    def network(batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        start, end = model(*(torch.from_numpy(array).to(device) for array in arrays))
        return start.float().cpu().numpy(), end.float().cpu().numpy()

    return network


def window_logits(
    network: Network, all_windows: Sequence[Windows], *, quiet: bool = True, rows_per_batch: int | None = None
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Run a network over the windows of many questions, in batches of similar length.

    Args:
        network: The network.
        all_windows: Windows of each question.
        quiet: Whether to hide the progress bar.
        rows_per_batch: Most windows in a batch; by default as many as fit a fixed number of tokens.

    Returns:
        For each question its start and end logits, each `float32 (n_windows, length)`.
    """
    logits = [
        (
            np.zeros((len(windows), int(windows.seq_lengths.max())), dtype=np.float32),
            np.zeros((len(windows), int(windows.seq_lengths.max())), dtype=np.float32),
        )
        for windows in all_windows
    ]
    rows = [(q, w) for q, windows in enumerate(all_windows) for w in range(len(windows))]
    lengths = [int(length) for windows in all_windows for length in windows.seq_lengths]
    order = sorted(range(len(rows)), key=lambda row: -lengths[row])
    with tqdm(total=len(rows), unit="window", disable=True if quiet else None) as bar:
        while order:
            n_rows = rows_per_batch or max(1, _TOKENS_PER_BATCH // lengths[order[0]])
            taken, order = order[:n_rows], order[n_rows:]
            batch = batch_windows([(all_windows[rows[row][0]], rows[row][1]) for row in taken])
            start, end = network(batch)
            for place, row in enumerate(taken):
                question, window = rows[row]
                logits[question][0][window, : lengths[row]] = start[place, : lengths[row]]
                logits[question][1][window, : lengths[row]] = end[place, : lengths[row]]
            bar.update(len(taken))
    return logits


def evaluate(
    network: Network,
    maker: WindowMaker,
    examples: Sequence[Example],
    settings: DecodeSettings,
    *,
    quiet: bool = True,
    rows_per_batch: int | None = None,
) -> Evaluation:
    """Answer a dataset offline, with the windows and the decoder that serve.

    Args:
        network: The network.
        maker: Its tokenizer and window settings.
        examples: The questions.
        settings: Longest answer and temperature.
        quiet: Whether to hide the progress bar.
        rows_per_batch: Most windows in a batch.
    """
    all_windows = maker.windows_of_many([(example.question, example.context) for example in examples])
    logits = window_logits(network, all_windows, quiet=quiet, rows_per_batch=rows_per_batch)
    decoded = [
        decode(
            windows,
            example.context,
            start,
            end,
            max_answer_tokens=min(settings.max_answer_tokens, windows.room),
            temperature=settings.temperature,
        )
        for windows, example, (start, end) in zip(all_windows, examples, logits, strict=True)
    ]
    return Evaluation(examples=examples, decoded=decoded)
