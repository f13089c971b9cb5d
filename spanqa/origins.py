"""Where a span's logit comes from: the window that gave it, and its start and end logits there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import LogitsError
from spanqa.spans import Span
from spanqa.windows import Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of a span.

    Args:
        window: Index of the window; the first of equals.
        start_logit: Start logit of its first piece there.
        end_logit: End logit of its last piece there.
    """

    window: int
    start_logit: float
    end_logit: float


def origin_of_span(
    windows: Windows,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    span: Span,
    *,
    max_answer_tokens: int,
) -> Origin:
    """Find the window whose logits a span's S is.

    Args:
        windows: The windows that the encoder read.
        start_logits: `float32 (n_windows, length)`.
        end_logits: Same.
        span: A span that `decode` gave of them.
        max_answer_tokens: What it was decoded with.

    Raises:
        LogitsError: The span is not of these windows.
    """
    # Several pieces may share a character (a Hangul syllable in parts), so a span may have several firsts and lasts.
    starts, ends = windows.document.chars.T
    firsts = np.flatnonzero((starts == span.char_start) & (starts < ends))
    lasts = np.flatnonzero((ends == span.char_end) & (starts < ends))
    for window, (low, length) in enumerate(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True)):
        shift = windows.context_offset - low
        for first in firsts:
            for last in lasts:
                if not (low <= first <= last < low + length and last - first < max_answer_tokens):
                    continue
                start, end = start_logits[window, first + shift], end_logits[window, last + shift]
                # The best of these need not be the span's: with word boundaries not all of them may be answers.
                if start + end == np.float32(span.logit):
                    return Origin(window=window, start_logit=float(start), end_logit=float(end))
    raise LogitsError(f"the span {span.char_start}..{span.char_end} is in none of the windows")


def null_origin(start_logits: NDArray[np.float32], end_logits: NDArray[np.float32]) -> Origin:
    """Find the window that gave the null score N: the smallest start + end logit of [CLS].

    Args:
        start_logits: `float32 (n_windows, length)`.
        end_logits: Same.
    """
    window = int((start_logits[:, 0] + end_logits[:, 0]).argmin())
    return Origin(window=window, start_logit=float(start_logits[window, 0]), end_logit=float(end_logits[window, 0]))
