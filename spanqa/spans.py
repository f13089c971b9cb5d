"""Logits to answers: an exact search over every span of the context.

With S(c) the best start + end logit of character span c over all windows and token spans that give it, and N the
smallest null score (start + end logit of [CLS]) over windows, the no-answer margin is N - max S, as in BERT's
SQuAD 2.0 script; a span's score is its share of exp(S / T) among the spans, times how likely there is an answer
(`ScoreScale`). With word boundaries only the spans of whole words count, in the order, the margin and the scores alike;
where a context has none (each of its words is longer than an answer may be, or than a window), all of its spans count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa import contract
from spanqa.errors import InputError, LogitsError, SettingsError
from spanqa.grid import SpanGrid
from spanqa.score_scale import ScoreScale
from spanqa.search import search
from spanqa.windows import Windows

UNFITTED = ScoreScale()
"""A score is a share among all spans and the null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """A model's decoding defaults.

    Args:
        no_answer_threshold: There is an answer where the margin is at most this.
        max_answer_tokens: Longest answer in word pieces.
        temperature: T of the scores; 1 unless fitted.
        answer_slope: Of the log-odds of an answer over the margin, for the scores; None unless fitted.
        answer_offset: The log-odds at margin 0.
        word_boundaries: Whether answers begin and end where words do.
    """

    no_answer_threshold: float = 0.0
    max_answer_tokens: int = contract.DEFAULT_MAX_ANSWER_TOKENS
    temperature: float = 1.0
    answer_slope: float | None = None
    answer_offset: float = 0.0
    word_boundaries: bool = False

    def __post_init__(self) -> None:
        if not np.isfinite(self.no_answer_threshold):
            raise SettingsError(f"no_answer_threshold must be a finite number, got {self.no_answer_threshold}")
        if self.max_answer_tokens < 1:
            raise SettingsError(f"max_answer_tokens must be at least 1, got {self.max_answer_tokens}")
        if not isinstance(self.word_boundaries, bool):
            raise SettingsError(f"word_boundaries is {self.word_boundaries!r}: give true or false")
        _ = self.scale

    @property
    def scale(self) -> ScoreScale:
        """How scores are made of logits."""
        return ScoreScale(self.temperature, self.answer_slope, self.answer_offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of the context.

    Args:
        text: `context[char_start:char_end]`, unchanged.
        char_start: First code point.
        char_end: End, exclusive.
        logit: Start + end logit, S.
        score: Probability in 0..1, as `ScoreScale` makes it.
    """

    text: str
    char_start: int
    char_end: int
    logit: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What the windows of one question say.

    Args:
        spans: The best spans, best first; at least one.
        null_logit: N, the logits' score of "no answer".
        no_answer_score: Probability of "no answer", 0..1: what all spans leave.
    """

    spans: tuple[Span, ...]
    null_logit: float
    no_answer_score: float

    @property
    def no_answer_margin(self) -> float:
        """Null score minus the best span's: the higher, the less likely an answer."""
        return self.null_logit - self.spans[0].logit

    def has_answer(self, threshold: float) -> bool:
        """Whether the best span is the answer: margin <= threshold."""
        return self.no_answer_margin <= threshold


def decode(
    windows: Windows,
    context: str,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    *,
    n_best: int = 1,
    max_answer_tokens: int = contract.DEFAULT_MAX_ANSWER_TOKENS,
    scale: ScoreScale = UNFITTED,
    word_boundaries: bool = False,
    distinct: bool = False,
) -> Decoded:
    """Find the best answer spans of one context.

    Args:
        windows: The windows that the encoder read, in order.
        context: The text that they were cut from.
        start_logits: `float32 (n_windows, length)`, length at least that of the longest window; what lies
            beyond a window's end is never an answer.
        end_logits: Same shape and dtype.
        n_best: Most spans returned, at least 1.
        max_answer_tokens: Longest span in word pieces, at least 1; what is more than the windows' room is cut to it.
        scale: How scores are made of logits; does not change the order.
        word_boundaries: Whether spans that begin or end inside a word are left out.
        distinct: Whether the spans returned do not overlap: greedily, each the best that overlaps none before it.

    Returns:
        The best spans (logit descending, then char_start, then char_end) and the null score.

    Raises:
        InputError: If n_best or max_answer_tokens is below 1.
        LogitsError: If the logits do not fit the windows, or are not finite.
    """
    _check(windows, start_logits, end_logits, n_best, max_answer_tokens)
    null_logit = float((start_logits[:, 0] + end_logits[:, 0]).min())
    band = min(max_answer_tokens, windows.room, len(windows.document))
    for whole_words in (True, False) if word_boundaries else (False,):
        grid = SpanGrid(windows, start_logits, end_logits, band=band, word_boundaries=whole_words)
        best, top, mass = search(grid, n_best=n_best, temperature=scale.temperature, distinct=distinct)
        if len(best.logit):
            break
    likely = scale.answer_probability(null_logit - top, mass)
    # The best span alone adds 1 to the sum: below 1 there is none.
    scores = likely / max(mass, 1.0) * np.exp((best.logit.astype(np.float64) - top) / scale.temperature)
    columns = zip(best.char_start.tolist(), best.char_end.tolist(), best.logit.tolist(), scores.tolist(), strict=True)
    return Decoded(
        spans=tuple(
            Span(text=context[start:end], char_start=start, char_end=end, logit=logit, score=score)
            for start, end, logit, score in columns
        ),
        null_logit=null_logit,
        no_answer_score=1.0 - likely,
    )


def _check(
    windows: Windows,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    n_best: int,
    max_answer_tokens: int,
) -> None:
    longest = int(windows.seq_lengths.max())
    shape = start_logits.shape
    if len(shape) != 2 or shape != end_logits.shape or shape[0] != len(windows) or shape[1] < longest:
        raise LogitsError(
            f"{len(windows)} windows of up to {longest} tokens need start and end logits of shape "
            f"({len(windows)}, at least {longest}), got {shape} and {end_logits.shape}"
        )
    # A sum is finite only where all of its terms are, and costs half of looking at each.
    if not np.isfinite(start_logits.sum() + end_logits.sum()):
        raise LogitsError("the network's logits are not finite (NaN or infinite): the model is broken or overflowed")
    if n_best < 1:
        raise InputError(f"n_best must be at least 1, got {n_best}")
    if max_answer_tokens < 1:
        raise InputError(f"max_answer_tokens must be at least 1 word piece, got {max_answer_tokens}")
