"""The decoder equals a brute-force search, on one window and on many."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa import search
from spanqa.errors import InputError, LogitsError, SettingsError
from spanqa.pair_template import bert_pair
from spanqa.score_scale import ScoreScale
from spanqa.spans import DecodeSettings, decode
from spanqa.tokenization import Pieces
from spanqa.windows import Windows, WindowSettings, cut_windows

SPECIAL_IDS = bert_pair(101, 102, 0)


def pieces_of(chars: list[tuple[int, int]], continues: list[bool] | None = None) -> Pieces:
    return Pieces(
        ids=np.arange(1000, 1000 + len(chars), dtype=np.int32),
        chars=np.array(chars, dtype=np.int32),
        continues=np.array(continues or [False] * len(chars), dtype=np.bool_),
    )


def is_visible(place):
    return place[0] < place[1]


def brute_force(windows: Windows, start_logits, end_logits, max_answer_tokens, word_boundaries=False):
    """Every character span with its best logit, by three plain loops."""
    continues = [*windows.document.continues.tolist(), False]
    best: dict[tuple[int, int], np.float32] = {}
    chars = windows.document.chars.tolist()
    for index, (first, length) in enumerate(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True)):
        for start in range(length):
            for end in range(start, min(start + max_answer_tokens, length)):
                span = (chars[first + start][0], chars[first + end][1])
                if not is_visible(chars[first + start]) or not is_visible(chars[first + end]):
                    continue
                if word_boundaries and (continues[first + start] or continues[first + end + 1]):
                    continue
                logit = (
                    start_logits[index, windows.context_offset + start]
                    + end_logits[index, windows.context_offset + end]
                )
                best[span] = max(best.get(span, logit), logit)
    return best


def with_blank_pieces(chars, is_blank):
    """Some pieces without a visible character: each starts where the next one that has any does, and ends before it."""
    made = []
    for index, (place, blank) in enumerate(zip(chars, is_blank, strict=True)):
        if blank and index:
            following = (other for other, skip in zip(chars[index:], is_blank[index:], strict=True) if not skip)
            made.append((next(following, (chars[-1][1], 0))[0], max(end for _, end in made)))
        else:
            made.append(place)
    return made


@st.composite
def cases(draw, repeated_characters: bool):
    n_question = draw(st.integers(1, 4))
    n_document = draw(st.integers(1, 40))
    chars, at = [], 0
    for _ in range(n_document):
        if chars and repeated_characters and draw(st.booleans()):
            chars.append(chars[-1])
            continue
        at += draw(st.integers(0, 2))
        length = draw(st.integers(1, 3))
        chars.append((at, at + length))
        at += length
    if draw(st.booleans()):
        chars = with_blank_pieces(chars, [draw(st.integers(0, 3)) == 0 for _ in chars])
    stride = draw(st.integers(1, 6))
    settings_ = WindowSettings(
        max_seq_length=7 + stride + draw(st.integers(0, 6)), doc_stride=stride, max_query_length=4
    )
    question = pieces_of([(i, i + 1) for i in range(n_question)])
    continues = [False] + [draw(st.integers(0, 2)) == 0 for _ in chars[1:]]
    windows = cut_windows(question, pieces_of(chars, continues), settings_, SPECIAL_IDS)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = (len(windows), settings_.max_seq_length)
    if draw(st.booleans()):  # few distinct values: many ties
        logits = rng.integers(-2, 3, size=(2, *shape)).astype(np.float32)
    else:
        logits = rng.normal(0, 4, size=(2, *shape)).astype(np.float32)
    band = draw(st.integers(1, windows.room))
    options = {
        "n_best": draw(st.integers(1, 8)),
        "scale": draw(st.sampled_from([ScoreScale(), ScoreScale(2.5), ScoreScale(0.5, 0.3, -0.8)])),
        "word_boundaries": draw(st.booleans()),
        "distinct": draw(st.booleans()),
    }
    return windows, "x" * at, logits[0], logits[1], band, options


def without_overlaps(ranked):
    taken = []
    for (start, end), logit in ranked:
        if all(end <= other_start or other_end <= start for (other_start, other_end), _ in taken):
            taken.append(((start, end), logit))
    return taken


def assert_equals_brute_force(case):
    windows, context, start_logits, end_logits, band, options = case
    scale = options["scale"]
    expected = brute_force(windows, start_logits, end_logits, band, options["word_boundaries"])
    expected = expected or brute_force(windows, start_logits, end_logits, band)
    ranked = sorted(expected.items(), key=lambda item: (-item[1], *item[0]))
    if options["distinct"]:
        ranked = without_overlaps(ranked)
    ranked = ranked[: options["n_best"]]
    got = decode(windows, context, start_logits, end_logits, max_answer_tokens=band, **options)
    assert [((span.char_start, span.char_end), span.logit) for span in got.spans] == [(k, float(v)) for k, v in ranked]
    null = min(float(s[0] + e[0]) for s, e in zip(start_logits, end_logits, strict=True))
    assert got.null_logit == null
    assert got.no_answer_margin == null - float(ranked[0][1])
    weights = {key: math.exp(float(value) / scale.temperature) for key, value in expected.items()}
    mass = sum(weights.values())
    if scale.slope is None:
        likely = mass / (mass + math.exp(null / scale.temperature))
    else:
        likely = 1 / (1 + math.exp(scale.slope * got.no_answer_margin - scale.offset))
    assert got.no_answer_score == pytest.approx(1 - likely, rel=1e-4, abs=1e-9)
    for span in got.spans:
        assert span.score == pytest.approx(likely * weights[span.char_start, span.char_end] / mass, rel=1e-4)
        assert 0 <= span.score <= 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(repeated_characters=False))
def test_decoding_over_windows_equals_brute_force(case):
    assert_equals_brute_force(case)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(repeated_characters=True))
def test_pieces_that_share_a_character_give_one_span_with_its_best_logit(case):
    assert_equals_brute_force(case)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases(repeated_characters=True))
def test_scanning_in_blocks_changes_nothing(case):
    whole = search._BLOCK_CELLS
    try:
        search._BLOCK_CELLS = 8
        assert_equals_brute_force(case)
    finally:
        search._BLOCK_CELLS = whole


@pytest.fixture
def one_window():
    windows = cut_windows(pieces_of([(0, 1)]), pieces_of([(0, 3), (4, 7), (8, 12)]), WindowSettings(), SPECIAL_IDS)
    return windows, np.zeros((1, 384), dtype=np.float32), np.zeros((1, 384), dtype=np.float32)


def test_a_piece_inside_a_word_begins_and_ends_no_answer():
    document = pieces_of([(0, 4), (4, 5), (6, 9)], [False, True, False])
    windows = cut_windows(pieces_of([(0, 1)]), document, WindowSettings(), SPECIAL_IDS)
    starts, ends = np.zeros((2, 1, 384), dtype=np.float32)
    starts[0, windows.context_offset], ends[0, windows.context_offset] = 5, 5
    assert decode(windows, "1950s are", starts, ends).spans[0].text == "1950"
    whole = decode(windows, "1950s are", starts, ends, n_best=20, word_boundaries=True)
    assert [span.text for span in whole.spans] == ["1950s", "1950s are", "are"]


def test_where_no_whole_word_is_short_enough_parts_of_words_are_answers():
    windows = cut_windows(
        pieces_of([(0, 1)]), pieces_of([(0, 4), (4, 5)], [False, True]), WindowSettings(), SPECIAL_IDS
    )
    starts, ends = np.zeros((2, 1, 384), dtype=np.float32)
    got = decode(windows, "1950s", starts, ends, n_best=9, max_answer_tokens=1, word_boundaries=True)
    assert [span.text for span in got.spans] == ["1950", "s"]


def test_padding_and_question_positions_are_never_answers(one_window):
    windows, starts, ends = one_window
    starts[0, [1, 6, 7, 300]] = 99
    ends[0, [1, 6, 7, 300]] = 99
    starts[0, windows.context_offset + 1] = 1
    best = decode(windows, "the cat sat.", starts, ends).spans[0]
    assert (best.text, best.char_start, best.char_end) == ("cat", 4, 7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("position", [0, 3, 5])
def test_a_network_that_is_not_finite_is_an_error(one_window, value, n_best, position):
    windows, starts, ends = one_window
    starts[0, position] = value
    with pytest.raises(LogitsError, match="not finite"):
        decode(windows, "the cat sat.", starts, ends, n_best=n_best)


def test_logits_of_another_shape_are_refused(one_window):
    windows, starts, ends = one_window
    with pytest.raises(LogitsError, match=r"need start and end logits of shape \(1, at least 7\), got \(1, 6\)"):
        decode(windows, "the cat sat.", starts[:, :6], ends[:, :6])


@pytest.mark.parametrize("limit", [0, -1])
def test_an_answer_length_below_one_is_refused(one_window, limit):
    windows, starts, ends = one_window
    with pytest.raises(InputError, match=f"max_answer_tokens must be at least 1 word piece, got {limit}"):
        decode(windows, "the cat sat.", starts, ends, max_answer_tokens=limit)


@pytest.mark.parametrize("limit", [381, 2**31 - 1])
def test_a_limit_above_the_room_is_cut_to_it(one_window, limit):
    windows, starts, ends = one_window
    cut = decode(windows, "the cat sat.", starts, ends, n_best=20, max_answer_tokens=limit)
    assert cut == decode(windows, "the cat sat.", starts, ends, n_best=20, max_answer_tokens=windows.room)


def test_n_best_below_one_is_refused(one_window):
    with pytest.raises(InputError, match="n_best must be at least 1, got 0"):
        decode(one_window[0], "the cat sat.", *one_window[1:], n_best=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("no_answer_threshold", math.nan),
        ("max_answer_tokens", 0),
        ("temperature", 0.0),
        ("answer_slope", -0.5),
        ("answer_slope", math.inf),
        ("answer_offset", math.nan),
        ("word_boundaries", "no"),
        ("word_boundaries", 1),
    ],
)
def test_decode_settings_out_of_range_are_refused(field, value):
    with pytest.raises(SettingsError, match=field):
        DecodeSettings(**{field: value})
