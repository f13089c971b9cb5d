"""Offline evaluation: the served decoder over a model's logits, and SQuAD metrics of what it answers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from spanqa.spans import Decoded, DecodeSettings, decode
from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker, Windows, batch_windows
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import answerable_only, gold_from_examples, raw_scores, score_predictions
from spanqa_client.thresholds import tune_threshold
from spanqa_training.data.labels import window_labels
from spanqa_training.data.windowing import windows_of_examples
from spanqa_training.errors import RunError
from spanqa_training.model import SpanModel

_TOKENS_PER_BATCH = 6144
"""Padded tokens in one evaluation batch: large enough to keep two cores or a GPU busy, small enough for a laptop."""

Logits = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Start and end logits, each `float32 (n_windows, length)`."""

Network = Callable[[Batch], Logits]
"""Encoder input to logits; several threads may call it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Decoded answers to a dataset.

    Args:
        examples: The questions, in order.
        decoded: What the model says to each.
        losses: Each window's loss against the first gold answer, as in training.
        inputs: Windows and logits of each question; none unless they were to be kept.
        n_windows: How many windows each question has.
    """

    examples: Sequence[Example]
    decoded: Sequence[Decoded]
    losses: Sequence[float] = ()
    inputs: Sequence[tuple[Windows, Logits]] = field(default=(), repr=False)
    n_windows: Sequence[int] = ()

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

    def forced_scores(self, *, intervals: bool = False) -> dict[str, Any]:
        """As `scores`, of the answerable questions, when every question is answered with its best span."""
        scores = self.scores(math.inf, intervals=intervals)
        forced = answerable_only(scores)
        if forced and intervals:
            forced["intervals_95"] = answerable_only(scores["intervals_95"])
        return forced


def devices(n: int | None, *, cpu: bool = False) -> list[torch.device]:
    """Choose devices to evaluate on.

    Args:
        n: GPUs; None for one, or the CPU where there is none. On a CPU, batches in work at once.
        cpu: Whether to use the CPU in any case.

    Raises:
        RunError: More GPUs are asked for than there are.
    """
    n_gpus = torch.cuda.device_count()
    if cpu or not n_gpus:
        return [torch.device("cpu")] * (n or 1)
    if (n or 1) > n_gpus:
        raise RunError(f"{n} GPUs are asked for and {n_gpus} are there: lower -g")
    return [torch.device("cuda", index) for index in range(n or 1)]


def network_from_model(model: SpanModel, *places: str | torch.device) -> Network:
    """Make a plain function of a torch model.

    Args:
        model: The model; it is moved to the first place.
        places: Devices that each take one batch at a time; the CPU by default.
    """
    first, *others = [torch.device(place) for place in places] or [torch.device("cpu")]
    model.eval().to(first)
    free: SimpleQueue[tuple[SpanModel, torch.device]] = SimpleQueue()
    free.put((model, first))
    for place in others:
        free.put((model if place == first else copy.deepcopy(model).to(place), place))

    @torch.inference_mode()
    def network(batch: Batch) -> Logits:
        replica, place = free.get()
        try:
            arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            start, end = replica(*(torch.from_numpy(array).to(place) for array in arrays))
            return start.float().cpu().numpy(), end.float().cpu().numpy()
        finally:
            free.put((replica, place))

    return network


def window_logits(
    network: Network,
    all_windows: Sequence[Windows],
    *,
    quiet: bool = True,
    rows_per_batch: int | None = None,
    n_threads: int = 1,
) -> list[Logits]:
    """Run a network over the windows of many questions, in batches of similar length.

    Args:
        network: The network.
        all_windows: Windows of each question.
        quiet: Whether to hide the progress bar.
        rows_per_batch: Most windows in a batch; by default as many as fit a fixed number of tokens.
        n_threads: Batches in work at once.

    Returns:
        For each question its start and end logits, each `float32 (n_windows, length)`.
    """
    shapes = [(len(windows), int(windows.seq_lengths.max())) for windows in all_windows]
    logits = [(np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)) for shape in shapes]
    rows = [(q, w) for q, windows in enumerate(all_windows) for w in range(len(windows))]
    lengths = [int(length) for windows in all_windows for length in windows.seq_lengths]

    def fill(taken: Sequence[int]) -> int:
        start, end = network(batch_windows([(all_windows[rows[row][0]], rows[row][1]) for row in taken]))
        for place, row in enumerate(taken):
            question, window = rows[row]
            logits[question][0][window, : lengths[row]] = start[place, : lengths[row]]
            logits[question][1][window, : lengths[row]] = end[place, : lengths[row]]
        return len(taken)

    batches = _batches(lengths, rows_per_batch)
    with tqdm(total=len(rows), unit="window", disable=True if quiet else None) as bar:
        if n_threads == 1:
            for batch in batches:
                bar.update(fill(batch))
            return logits
        with ThreadPoolExecutor(n_threads) as pool:
            for n_done in pool.map(fill, batches):
                bar.update(n_done)
    return logits


def _batches(lengths: Sequence[int], rows_per_batch: int | None) -> Iterator[list[int]]:
    """Rows of each batch, the longest first, so that too little memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        n_rows = rows_per_batch or max(1, _TOKENS_PER_BATCH // lengths[order[0]])
        taken, order = order[:n_rows], order[n_rows:]
        yield taken


def evaluate(
    network: Network,
    maker: WindowMaker,
    examples: Sequence[Example],
    settings: DecodeSettings,
    *,
    quiet: bool = True,
    rows_per_batch: int | None = None,
    n_threads: int = 1,
    keep_inputs: bool = False,
) -> Evaluation:
    """Answer a dataset offline, with the windows and the decoder that serve.

    Args:
        network: The network.
        maker: Its tokenizer and window settings.
        examples: The questions.
        settings: Longest answer, scale of the scores and word boundaries.
        quiet: Whether to hide the progress bar.
        rows_per_batch: Most windows in a batch.
        n_threads: Batches in work at once.
        keep_inputs: Whether windows and logits are kept, to decode them again.

    Raises:
        DataError: A question or a context holds no word.
    """
    all_windows = windows_of_examples(examples, maker)
    logits = window_logits(network, all_windows, quiet=quiet, rows_per_batch=rows_per_batch, n_threads=n_threads)
    decoded: list[Decoded] = []
    losses: list[float] = []
    for windows, example, (start, end) in zip(all_windows, examples, logits, strict=True):
        decoded.append(
            decode(
                windows,
                example.context,
                start,
                end,
                max_answer_tokens=settings.max_answer_tokens,
                scale=settings.scale,
                word_boundaries=settings.word_boundaries,
            )
        )
        losses += _losses(windows, example, start, end)
    return Evaluation(
        examples=examples,
        decoded=decoded,
        losses=losses,
        inputs=list(zip(all_windows, logits, strict=True)) if keep_inputs else (),
        n_windows=[len(windows) for windows in all_windows],
    )


def _losses(
    windows: Windows, example: Example, start: NDArray[np.float32], end: NDArray[np.float32]
) -> Iterator[float]:
    """Each window's mean cross-entropy of start and end (Devlin et al. 2018, section 4.2)."""
    for index, (label_start, label_end) in enumerate(window_labels(windows, example)):
        length = int(windows.seq_lengths[index])
        parts = ((start[index, :length], label_start), (end[index, :length], label_end))
        yield float(np.mean([np.logaddexp.reduce(row.astype(np.float64)) - row[label] for row, label in parts]))
