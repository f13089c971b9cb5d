"""The Hugging Face pipeline's decoding in steps away from ours, each with a name, over one network's logits.

The last step is what transformers 5.2.0 does (pipelines/question_answering.py, its fast tokenizers); where an answer
changes between two steps, that step is why the pipeline says something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa.spans import Decoded, DecodeSettings, decode
from spanqa.windows import Batch, WindowMaker, Windows, WindowSettings, batch_windows

UNEXPLAINED = "not explained"
N_CANDIDATES = 12
"""Spans that the pipeline keeps of each window where it widens them: twice top_k and ten."""
SPACES = "white space before words"
"""Where a tokenizer's words begin with the space before them, as those of DeBERTa's Metaspace do, answers do too."""
STEPS = (
    "spans inside words",
    "windows cut elsewhere",
    "probabilities within a window",
    "widened to words afterwards",
    "spans of one text added up",
    "words cut by a window's edge",
    SPACES,
)
"""What the pipeline does and we do not, in the order in which `answers_by_step` goes."""

Answer = tuple[str, int]
"""An answer's text and where it starts; empty and 0 for none."""
Network = Callable[[Batch], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A span of the pipeline's: the product of its two probabilities, its window, its first and last piece therein."""

    score: float
    window: int
    first: int
    last: int


def answers_by_step(
    question: str,
    context: str,
    *,
    maker: WindowMaker,
    backend: Any,
    network: Network,
    settings: DecodeSettings,
    overlap: int,
) -> list[Answer]:
    """Answer a question as we do, then with each step of the pipeline's added.

    Args:
        question: The question.
        context: The context.
        maker: The model's windows.
        backend: The tokenizers library's tokenizer of the exported folder, which knows its words; it is set to cut.
        network: Encoder input to logits.
        settings: The model's decoding; no answer where the margin is above 0, as in the pipeline.
        overlap: Pieces that two windows of the pipeline share.

    Returns:
        One answer more than there are STEPS.
    """
    own = maker.windows(question, context)
    answers = [
        _exact(own, context, network, settings),
        _exact(own, context, network, replace(settings, word_boundaries=False)),
    ]
    theirs = _windows_with_overlap(question, context, maker, overlap)
    answers.append(_exact(theirs, context, network, replace(settings, word_boundaries=False)))
    candidates, null = _candidates(theirs, network, settings.max_answer_tokens)
    chars = theirs.document.chars
    plain = []
    for one in candidates:
        first, last = (piece + theirs.starts[one.window] for piece in (one.first, one.last))
        plain.append((one.score, int(chars[first, 0]), int(chars[last, 1])))
    answers.append(_best(plain, null, context))
    backend.no_truncation()
    whole = backend.encode(question, context)
    backend.enable_truncation(maker.settings.max_seq_length, stride=overlap, strategy="only_second")
    cut = backend.encode(question, context)
    words = _widened(candidates, [whole] * len(theirs), theirs.context_offset + theirs.starts)
    parts = _widened(candidates, [cut, *cut.overflowing], np.full(len(theirs), theirs.context_offset))
    visible, of_parts = ([_without_spaces(one, context) for one in spans] for spans in (words, parts))
    answers.append(_best(visible, null, context))
    for spans in (visible, of_parts, parts):
        answers.append(_best(_added_up(spans, context), null, context))
    return answers


def reason_of(steps: Sequence[Answer], theirs: Answer) -> str | None:
    """Name the steps at which the answer changed; None where it is the same in the end."""
    if steps[0] == theirs:
        return None
    if steps[-1] != theirs:
        return UNEXPLAINED
    return ", ".join(name for name, (one, next_) in zip(STEPS, pairwise(steps), strict=True) if one != next_)


def certainty_of(
    question: str, context: str, *, maker: WindowMaker, network: Network, settings: DecodeSettings
) -> float:
    """The share that our answer, or that there is none, has of all spans of whole words and none together, 0 to 1."""
    decoded = _decoded(maker.windows(question, context), context, network, settings)
    share = decoded.spans[0].score
    return share if decoded.has_answer(0.0) else share * float(np.exp(decoded.no_answer_margin))


def _exact(windows: Windows, context: str, network: Network, settings: DecodeSettings) -> Answer:
    decoded = _decoded(windows, context, network, settings)
    best = decoded.spans[0]
    return (best.text, best.char_start) if decoded.has_answer(0.0) else ("", 0)


def _decoded(windows: Windows, context: str, network: Network, settings: DecodeSettings) -> Decoded:
    start_logits, end_logits = _logits(windows, network)
    return decode(
        windows,
        context,
        start_logits,
        end_logits,
        max_answer_tokens=settings.max_answer_tokens,
        word_boundaries=settings.word_boundaries,
    )


def _logits(windows: Windows, network: Network) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    length = int(windows.seq_lengths.max())
    logits = np.zeros((2, len(windows), length), dtype=np.float32)
    for row, n_tokens in enumerate(windows.seq_lengths.tolist()):
        start, end = network(batch_windows([(windows, row)]))
        logits[0, row, :n_tokens], logits[1, row, :n_tokens] = start[0], end[0]
    return logits[0], logits[1]


def _windows_with_overlap(question: str, context: str, maker: WindowMaker, overlap: int) -> Windows:
    """The pipeline cuts no question, and steps by a window's room less the overlap."""
    n_question = len(maker.tokenizer.pieces(question))
    room = maker.settings.max_seq_length - n_question - maker.tokenizer.pair.n_special
    settings = WindowSettings(
        max_seq_length=maker.settings.max_seq_length, max_query_length=n_question, doc_stride=room - overlap
    )
    return WindowMaker(maker.tokenizer, settings).windows(question, context)


def _candidates(windows: Windows, network: Network, max_answer_tokens: int) -> tuple[list[_Candidate], float]:
    """Spans of every window by the product of their probabilities in it, and the smallest product of "no answer"."""
    candidates = []
    null = float("inf")
    starts, ends = _logits(windows, network)
    for row, n_context in enumerate(windows.lengths.tolist()):
        offset = windows.context_offset
        places = np.array([0, *range(offset, offset + n_context)])
        start, end = (_softmax(logits[row, places]) for logits in (starts, ends))
        null = min(null, float(start[0] * end[0]))
        products = np.tril(np.triu(start[1:, None] * end[None, 1:]), max_answer_tokens - 1).reshape(-1)
        n_kept = min(N_CANDIDATES, len(products))
        kept = np.argpartition(-products, n_kept - 1)[:n_kept]
        for index in kept[np.argsort(-products[kept])].tolist():
            low, high = divmod(index, n_context)
            if products[index] > 0:
                candidates.append(_Candidate(score=float(products[index]), window=row, first=low, last=high))
    return candidates, null


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), dtype=np.float32)


def _widened(
    candidates: Sequence[_Candidate], encodings: Sequence[Any], offsets: NDArray[Any]
) -> list[tuple[float, int, int]]:
    """Spans from the first character of their first word to the last of their last, words as the tokenizer has them.

    Args:
        candidates: The spans.
        encodings: What knows the words, for each window; a window's own has no more of a word than lies in it.
        offsets: The place therein of each window's first context piece.
    """
    found = []
    for one in candidates:
        encoding = encodings[one.window]
        low, high = (piece + int(offsets[one.window]) for piece in (one.first, one.last))
        first, last = encoding.token_to_word(low), encoding.token_to_word(high)
        if first is None or last is None:
            chars = encoding.offsets[low][0], encoding.offsets[high][1]
        else:
            chars = encoding.word_to_chars(first, 1)[0], encoding.word_to_chars(last, 1)[1]
        found.append((one.score, int(chars[0]), int(chars[1])))
    return found


def _without_spaces(span: tuple[float, int, int], context: str) -> tuple[float, int, int]:
    score, low, high = span
    text = context[low:high]
    return score, low + len(text) - len(text.lstrip()), high - len(text) + len(text.rstrip())


def _added_up(spans: list[tuple[float, int, int]], context: str) -> list[tuple[float, int, int]]:
    """Spans of the same text, capitals or not, as the first of them with all their scores."""
    found: dict[str, tuple[float, int, int]] = {}
    for score, low, high in spans:
        text = context[low:high].lower()
        before = found.get(text)
        found[text] = (before[0] + score, *before[1:]) if before else (score, low, high)
    return list(found.values())


def _best(spans: list[tuple[float, int, int]], null: float, context: str) -> Answer:
    score, low, high = max(spans, key=lambda span: span[0])
    return (context[low:high], low) if score >= null else ("", 0)
