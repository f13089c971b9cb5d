"""Tensors to questions with one error that names the row, and answers to tensors that pad what is missing."""

import re

import numpy as np
import pytest

from spanqa import contract
from spanqa.errors import InputError
from spanqa.manifest import Manifest
from spanqa.pair_template import bert_pair
from spanqa.spans import Decoded, DecodeSettings, Span
from spanqa.tokenization import Pieces
from spanqa.windows import WindowSettings, cut_windows
from spanqa.wire import Options, decode_question, read_options, read_questions, response_tensors

MANIFEST = Manifest(tokenizer_sha256="0", decode=DecodeSettings(no_answer_threshold=-1.5))
MAX_CONTEXT_BYTES = 1000


def column(values, dtype):
    return np.array(values, dtype=dtype).reshape(-1, 1)


def tensors(questions=(b"who?",), contexts=(b"the cat",), **options):
    dtypes = {"TOP_N": np.int32, "NO_ANSWER_THRESHOLD": np.float32, "MAX_ANSWER_TOKENS": np.int32, "DISTINCT": np.bool_}
    return {
        "QUESTION": column(questions, np.object_),
        "CONTEXT": column(contexts, np.object_),
        **{name: column(values, dtypes[name]) for name, values in options.items()},
    }


def read(inputs):
    return read_questions(inputs, MANIFEST, MAX_CONTEXT_BYTES)


def test_absent_options_take_the_models_own():
    (row,) = read(tensors())
    assert (row.question, row.context) == ("who?", "the cat")
    assert row.options == Options(top_n=1, no_answer_threshold=-1.5, max_answer_tokens=30, distinct=False)


def test_nan_and_zero_are_the_models_own():
    (row,) = read(tensors(NO_ANSWER_THRESHOLD=[np.nan], MAX_ANSWER_TOKENS=[0], DISTINCT=[False]))
    assert row.options == read(tensors())[0].options


def test_each_row_has_its_own_text_and_options():
    rows = read(
        tensors(
            ["où?".encode(), b"b"],
            [b"c", "😀\x00".encode()],
            TOP_N=[1, 64],
            NO_ANSWER_THRESHOLD=[2.5, np.inf],
            MAX_ANSWER_TOKENS=[1, 9],
            DISTINCT=[False, True],
        )
    )
    assert [row.question for row in rows] == ["où?", "b"]
    assert [row.context for row in rows] == ["c", "😀\x00"]
    assert rows[0].options == Options(top_n=1, no_answer_threshold=2.5, max_answer_tokens=1)
    assert rows[1].options == Options(top_n=64, no_answer_threshold=np.inf, max_answer_tokens=9, distinct=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": [b""]}, "QUESTION is empty: send some text"),
        ({"contexts": [b""]}, "CONTEXT is empty: send some text"),
        ({"contexts": [b"ab\xff"]}, "CONTEXT is not valid UTF-8 (byte 2 is 0xff): encode text as UTF-8"),
        ({"questions": [b"\xed\xa0\x80"]}, "QUESTION is not valid UTF-8 (byte 0 is 0xed)"),
        ({"contexts": [b"x" * 1001]}, "CONTEXT has 1,001 bytes, at most 1,000 are allowed"),
        ({"questions": [b"x" * 5000]}, "QUESTION has 5,000 bytes, at most 1,000 are allowed"),
        ({"TOP_N": [0]}, "TOP_N must be from 1 to 64, got 0"),
        ({"TOP_N": [65]}, "TOP_N must be from 1 to 64, got 65"),
        ({"TOP_N": [-(2**31)]}, "TOP_N must be from 1 to 64, got -2147483648"),
        ({"MAX_ANSWER_TOKENS": [-1]}, "MAX_ANSWER_TOKENS must be at least 1, or 0 for the model's own, got -1"),
    ],
)
def test_bad_input_says_what_was_got_and_what_is_allowed(changes, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        read(tensors(**changes))


def test_in_a_request_of_several_rows_the_bad_one_is_named():
    with pytest.raises(InputError, match=r"^row 2: CONTEXT is empty"):
        read(tensors([b"a", b"b", b"c"], [b"x", b"y", b""]))


def test_a_context_of_exactly_the_limit_is_taken():
    assert len(read(tensors(contexts=[b"x" * 1000]))[0].context) == 1000


@pytest.mark.parametrize("name", ["QUESTION", "CONTEXT"])
def test_a_missing_input_is_named(name):
    inputs = tensors()
    del inputs[name]
    with pytest.raises(InputError, match=rf"^{name} is missing: send it as BYTES of shape \[rows, 1\]"):
        read(inputs)


def test_questions_and_contexts_must_be_as_many():
    with pytest.raises(InputError, match="2 questions for 1 contexts"):
        read(tensors([b"a", b"b"], [b"c"]))


@pytest.fixture
def one_window():
    starts = np.arange(12, dtype=np.int32)
    document = Pieces(ids=starts, chars=np.stack((starts, starts + 1), axis=1), continues=starts < 0)
    question = Pieces(ids=starts[:3], chars=document.chars[:3], continues=document.continues[:3])
    windows = cut_windows(
        question, document, WindowSettings(max_seq_length=20, doc_stride=4, max_query_length=4), bert_pair(1, 2, 0)
    )
    return windows, "abcdefghijkl", np.zeros((1, 18), dtype=np.float32), np.zeros((1, 18), dtype=np.float32)


def longest(one_window, max_answer_tokens, manifest=MANIFEST):
    windows, context, starts, ends = one_window
    starts[0, 5], ends[0, 16] = 9, 9  # the whole context
    options = read_options({"MAX_ANSWER_TOKENS": column([max_answer_tokens], np.int32)}, manifest, row=0)
    span = decode_question(windows, context, options, starts, ends, manifest).spans[0]
    return span.char_end - span.char_start


def test_the_longest_answer_is_what_was_asked_for(one_window):
    assert longest(one_window, 12) == 12
    assert longest(one_window, 14) == 12  # room for 14, the context has 12
    assert longest(one_window, 11) < 12


def test_the_models_own_longest_answer_gives_way_to_a_smaller_window(one_window):
    assert one_window[0].room == 14
    assert MANIFEST.decode.max_answer_tokens == 30
    assert longest(one_window, 0) == 12
    assert longest(one_window, 0, Manifest(tokenizer_sha256="0", decode=DecodeSettings(max_answer_tokens=3))) <= 3


def test_a_limit_above_the_windows_room_is_cut_to_it(one_window):
    assert longest(one_window, 10**6) == 12


def decoded(*spans, null_logit, no_answer_score=0.25):
    return Decoded(
        no_answer_score=no_answer_score,
        spans=tuple(
            Span(text=text, char_start=start, char_end=start + len(text), logit=logit, score=score)
            for text, start, logit, score in spans
        ),
        null_logit=null_logit,
    )


def test_rows_with_fewer_answers_are_padded():
    arrays = response_tensors(
        [
            decoded(("süß", 3, 4.0, 0.5), ("b", 9, 2.0, 0.25), null_logit=1.0),
            decoded(("c", 0, -1.0, 0.125), null_logit=2.0),
        ],
        [0.0, 2.0],
        [True, False],
    )
    assert list(arrays) == [tensor.name for tensor in contract.OUTPUTS]
    assert arrays["ANSWER"].tolist() == [["süß".encode(), b"b"], [b"c", b""]]
    assert arrays["SCORE"].tolist() == [[0.5, 0.25], [0.125, 0.0]]
    assert arrays["CHAR_START"].tolist() == [[3, 9], [0, -1]]
    assert arrays["CHAR_END"].tolist() == [[6, 10], [1, -1]]
    assert arrays["LOGIT"].tolist() == [[4.0, 2.0], [-1.0, contract.LOWEST_LOGIT]]
    assert arrays["NO_ANSWER_MARGIN"].tolist() == [[-3.0], [3.0]]
    assert arrays["HAS_ANSWER"].tolist() == [[True], [False]]
    assert arrays["QUESTION_TRUNCATED"].tolist() == [[True], [False]]
    assert arrays["NO_ANSWER_SCORE"].tolist() == [[0.25], [0.25]]


def test_arrays_have_the_dtypes_of_the_contract():
    arrays = response_tensors([decoded(("a", 0, 1.0, 0.5), null_logit=0.0)], [0.0], [False])
    dtypes = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}
    for tensor in contract.OUTPUTS:
        assert arrays[tensor.name].dtype == dtypes[tensor.dtype]
        assert arrays[tensor.name].shape == (1, 1)


@pytest.mark.parametrize(
    ("threshold", "has_answer"), [(0.1, True), (np.nextafter(np.float32(0.1), np.float32(0)), False)]
)
def test_the_margin_is_compared_as_the_wire_carries_it(threshold, has_answer):
    # 0.1 in float32 is more than 0.1 in float64: compared in float64 a threshold equal to the margin would say no.
    margin = float(np.float32(0.1))
    arrays = response_tensors([decoded(("a", 0, 0.0, 0.5), null_logit=margin)], [threshold], [False])
    assert arrays["HAS_ANSWER"].tolist() == [[has_answer]]
    assert (arrays["NO_ANSWER_MARGIN"] <= np.float32(threshold)).tolist() == [[has_answer]]


@pytest.mark.parametrize(("threshold", "has_answer"), [(np.inf, True), (-np.inf, False)])
def test_an_infinite_threshold_always_or_never_answers(threshold, has_answer):
    arrays = response_tensors([decoded(("a", 0, 0.0, 0.5), null_logit=50.0)], [threshold], [False])
    assert arrays["HAS_ANSWER"].tolist() == [[has_answer]]


@pytest.mark.parametrize("null_logit", [-3e38, 3e38])
def test_no_output_is_infinite_however_large_the_logits(null_logit):
    rows = [decoded(("a", 0, -null_logit, 0.5), ("b", 1, -null_logit, 0.5), null_logit=null_logit)]
    arrays = response_tensors([*rows, decoded(("a", 0, 0.0, 0.5), null_logit=0.0)], [0.0, 0.0], [False, False])
    for name in ("SCORE", "LOGIT", "NO_ANSWER_MARGIN"):
        assert np.isfinite(arrays[name]).all()
    assert arrays["HAS_ANSWER"].tolist() == [[null_logit < 0], [True]]
