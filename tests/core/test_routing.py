"""Every window goes to the encoder once, within the limits of a call, and its logits come back to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.errors import LogitsError
from spanqa.packing import Bucket, Packing
from spanqa.routing import Call, Logits, packed_calls
from spanqa.tokenization import Pieces
from spanqa.windows import WindowSettings, cut_windows

SETTINGS = WindowSettings(max_seq_length=24, doc_stride=6, max_query_length=5)


def windows_of(n_question, n_document, first_id):
    ids = np.arange(first_id, first_id + n_document, dtype=np.int32)
    document = Pieces(ids=ids, chars=np.stack((ids, ids + 1), axis=1), continues=ids < 0)
    question = Pieces(
        ids=ids[:1].repeat(n_question),
        chars=document.chars[:1].repeat(n_question, 0),
        continues=document.continues[:1].repeat(n_question),
    )
    return cut_windows(
        question,
        document,
        SETTINGS,
        (1, 2, 0),
    )


@st.composite
def batches(draw):
    sizes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 60)), min_size=1, max_size=8))
    packing = Packing(rows_per_call=draw(st.integers(1, 6)), tokens_per_call=draw(st.integers(1, 90)))
    return [windows_of(*size, first_id=100 * (place + 1)) for place, size in enumerate(sizes)], packing


def encoded(ids, mask):
    """Logits that name their token and place: start is the id, end is the id negated and the place."""
    places = np.arange(ids.shape[1], dtype=np.float32)
    return np.where(mask, ids, 777).astype(np.float32), np.where(mask, -ids - places / 64, 777).astype(np.float32)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(batches())
def test_every_window_is_in_one_call_within_the_limits(case):
    all_windows, packing = case
    calls = packed_calls(all_windows, packing)
    rows = [row for call in calls for row in call.rows]
    assert sorted(rows) == [(q, w) for q, windows in enumerate(all_windows) for w in range(len(windows))]
    lengths = [int(all_windows[question].seq_lengths[window]) for question, window in rows]
    assert lengths == sorted(lengths, reverse=True)
    for call in calls:
        longest = max(int(all_windows[question].seq_lengths[window]) for question, window in call.rows)
        assert 1 <= len(call.rows) <= packing.rows_per_call
        assert len(call.rows) == 1 or len(call.rows) * longest <= packing.tokens_per_call


@settings(max_examples=200, deadline=None, derandomize=True)
@given(batches())
def test_logits_come_back_to_their_window(case):
    all_windows, packing = case
    logits = Logits(all_windows)
    for call in packed_calls(all_windows, packing):
        batch = logits.batch(call)
        logits.fill(call, *encoded(batch.input_ids, batch.attention_mask))
    for place, windows in enumerate(all_windows):
        start, end = logits.of(place)
        assert start.shape == end.shape == (len(windows), windows.seq_lengths.max())
        for index in range(len(windows)):
            ids = windows.input_ids(index)
            expected_start, expected_end = encoded(ids[None], np.ones_like(ids[None]))
            np.testing.assert_array_equal(start[index, : len(ids)], expected_start[0])
            np.testing.assert_array_equal(end[index, : len(ids)], expected_end[0])
            assert not start[index, len(ids) :].any()


@pytest.mark.parametrize("shape", [(2, 13), (2, 11), (1, 12), (3, 12), (24,)])
def test_logits_of_another_shape_are_refused(shape):
    all_windows = [windows_of(2, 7, 100), windows_of(1, 3, 200)]
    call = Call(rows=((0, 0), (1, 0)))
    good = np.zeros((2, 12), dtype=np.float32)
    bad = np.zeros(shape, dtype=np.float32)
    logits = Logits(all_windows)
    logits.fill(call, good, good)
    for start, end in ((bad, good), (good, bad)):
        with pytest.raises(LogitsError, match=r"the encoder answered \(2, 12\) tokens with logits of shape"):
            logits.fill(call, start, end)


@st.composite
def bucketed(draw):
    all_windows, _ = draw(batches())
    lengths = sorted({*draw(st.lists(st.integers(4, 23), max_size=3)), SETTINGS.max_seq_length})
    buckets = [Bucket(length=one, model=f"encoder_{one}", max_rows=draw(st.integers(1, 5))) for one in lengths]
    return all_windows, Packing(buckets=tuple(buckets))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bucketed())
def test_each_window_goes_to_the_smallest_bucket_that_holds_it(case):
    all_windows, packing = case
    buckets = {bucket.model: bucket for bucket in packing.buckets}
    rows = []
    for call in packed_calls(all_windows, packing):
        bucket = buckets[call.model]
        assert call.length == bucket.length
        assert 1 <= len(call.rows) <= bucket.max_rows
        for question, window in call.rows:
            n_tokens = int(all_windows[question].seq_lengths[window])
            assert bucket.length == min(one.length for one in packing.buckets if one.length >= n_tokens)
        rows += call.rows
    assert sorted(rows) == [(q, w) for q, windows in enumerate(all_windows) for w in range(len(windows))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bucketed())
def test_only_the_last_call_of_a_bucket_is_not_full(case):
    all_windows, packing = case
    calls = packed_calls(all_windows, packing)
    for bucket in packing.buckets:
        sizes = [len(call.rows) for call in calls if call.model == bucket.model]
        assert set(sizes[:-1]) <= {bucket.max_rows}


def logits_by(all_windows, packing):
    logits = Logits(all_windows)
    for call in packed_calls(all_windows, packing):
        batch = logits.batch(call)
        if call.length:
            assert batch.input_ids.shape == (len(call.rows), call.length)
        logits.fill(call, *encoded(batch.input_ids, batch.attention_mask))
    return [logits.of(place) for place in range(len(all_windows))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bucketed())
def test_buckets_change_no_logit(case):
    all_windows, packing = case
    for with_buckets, without in zip(logits_by(all_windows, packing), logits_by(all_windows, Packing()), strict=True):
        np.testing.assert_array_equal(with_buckets, without)


def test_logits_of_a_bucket_have_the_buckets_length():
    all_windows = [windows_of(2, 7, 100)]
    call = Call(rows=((0, 0),), model="encoder_16", length=16)
    logits = Logits(all_windows)
    good, bad = np.zeros((1, 16), dtype=np.float32), np.zeros((1, 12), dtype=np.float32)
    logits.fill(call, good, good)
    with pytest.raises(LogitsError, match=r"the encoder answered \(1, 16\) tokens"):
        logits.fill(call, bad, bad)


def test_a_window_longer_than_every_bucket_is_told():
    packing = Packing(buckets=(Bucket(length=10, model="encoder_10", max_rows=1),))
    with pytest.raises(LogitsError, match="a window of 12 tokens fits into no bucket, the longest takes 10"):
        packed_calls([windows_of(2, 7, 100)], packing)
