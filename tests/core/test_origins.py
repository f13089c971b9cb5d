"""A span's origin is the window and the logits that its score was made of."""

import numpy as np
import pytest

from spanqa.errors import LogitsError
from spanqa.origins import null_origin, origin_of_span
from spanqa.spans import Span, decode
from spanqa.windows import WindowMaker, WindowSettings

LONG = "the old bridge stands near the river and the red tower is in the north " * 8


def made(tokenizer, context, *, seed):
    maker = WindowMaker(tokenizer, WindowSettings(max_seq_length=40, doc_stride=8, max_query_length=8))
    windows = maker.windows("where is it", context)
    rng = np.random.default_rng(seed)
    shape = (len(windows), int(windows.seq_lengths.max()))
    return windows, rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("word_boundaries", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("context", [LONG, "한국어 문장입니다 " * 12, "old king"])
def test_the_logits_of_the_origin_add_up_to_the_spans(tokenizer, context, seed, word_boundaries):
    windows, start, end = made(tokenizer, context, seed=seed)
    decoded = decode(windows, context, start, end, n_best=20, max_answer_tokens=6, word_boundaries=word_boundaries)
    for span in decoded.spans:
        origin = origin_of_span(windows, start, end, span, max_answer_tokens=6)
        assert np.float32(origin.start_logit) + np.float32(origin.end_logit) == np.float32(span.logit)
        assert origin.start_logit in start[origin.window]
        assert origin.end_logit in end[origin.window]
        low = int(windows.starts[origin.window])
        chars = windows.document.chars[low : low + int(windows.lengths[origin.window])]
        assert chars[0, 0] <= span.char_start
        assert span.char_end <= chars[-1, 1]


def test_the_first_of_equal_windows_is_the_origin(tokenizer):
    windows, start, end = made(tokenizer, LONG, seed=0)
    assert len(windows) > 3
    start[:], end[:] = 0, 0
    (span,) = decode(windows, LONG, start, end, max_answer_tokens=6).spans
    assert origin_of_span(windows, start, end, span, max_answer_tokens=6).window == 0


def test_the_null_score_comes_from_the_window_with_the_smallest(tokenizer):
    windows, start, end = made(tokenizer, LONG, seed=1)
    decoded = decode(windows, LONG, start, end, max_answer_tokens=6)
    origin = null_origin(start, end)
    assert np.float32(origin.start_logit) + np.float32(origin.end_logit) == np.float32(decoded.null_logit)
    assert (start[origin.window, 0], end[origin.window, 0]) == (origin.start_logit, origin.end_logit)


def test_a_span_of_other_windows_is_refused(tokenizer):
    windows, start, end = made(tokenizer, "old king", seed=0)
    span = Span(text="x", char_start=1, char_end=2, logit=0.0, score=0.5)
    with pytest.raises(LogitsError, match=r"the span 1\.\.2 is in none of the windows"):
        origin_of_span(windows, start, end, span, max_answer_tokens=6)
