"""The repository's own model files: each request is answered for itself, whatever its neighbours hold."""

import gc
import itertools
import re
import weakref

import numpy as np
import pytest

from spanqa import contract

SHORT = "the cat sat on the mat"
LONG = "the old bridge stands near the red tower and the river . " * 5
CITY = "two people live there in the old city"
N_WORKERS = 2


@pytest.fixture(params=["in its process", "asked"])
def way(request):
    """How the main entry's network runs: on a CPU in its own process, else asked of another model."""
    if request.param == "asked":
        request.getfixturevalue("on_a_gpu")
    return request.param


@pytest.fixture
def ask(way, main_entry):
    """Sends requests to the main entry, as one batch, and waits for their answers."""
    return main_entry()


@pytest.fixture
def ask_gpu(on_a_gpu, main_entry):
    """As `ask`, where the network is another model's."""
    return main_entry()


def assert_same_arrays(one, other):
    assert not one.has_error(), one.error().message()
    assert not other.has_error(), other.error().message()
    first, second = one.arrays(), other.arrays()
    assert list(first) == list(second) == [tensor.name for tensor in contract.OUTPUTS]
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def assert_error(response, pb_utils, code, message):
    assert response.has_error()
    assert response.error().code() == getattr(pb_utils.TritonError, code)
    assert re.search(message, response.error().message()), response.error().message()
    assert "Traceback" not in response.error().message()
    assert "\n" not in response.error().message()


def test_answers_are_slices_of_the_context_as_sent(ask, request_of):
    context = "  École\u00a0of the 東京 bridge 🚀\tstands near the river. " * 3
    (response,) = ask(request_of(("where?", context), TOP_N=[20]))
    arrays = response.arrays()
    assert arrays["ANSWER"].shape == (1, 20)
    for text, start, end in zip(arrays["ANSWER"][0], arrays["CHAR_START"][0], arrays["CHAR_END"][0], strict=True):
        assert text.decode() == context[start:end] != ""
    logits = arrays["LOGIT"][0].tolist()
    assert logits == sorted(logits, reverse=True)
    assert max(logits) < 1000  # padding was not read
    assert 0 < arrays["SCORE"].sum() <= 1


def test_good_requests_are_answered_beside_bad_ones(ask, request_of, pb_utils):
    good = [
        lambda: request_of(("who sat?", SHORT)),
        lambda: request_of(("where?", LONG), TOP_N=[5]),
        lambda: request_of(("how many?", CITY), ("what stands?", LONG), TOP_N=[2, 3], NO_ANSWER_THRESHOLD=[9.0, -9.0]),
    ]
    bad = [
        (request_of(("", SHORT)), "^QUESTION is empty"),
        (request_of(("who?", b"\xff\xfe")), "^CONTEXT is not valid UTF-8 .byte 0 is 0xff"),
        (request_of(("who?", "x" * 4001)), "^CONTEXT has 4,001 bytes, at most 4,000"),
        (request_of(("who?", SHORT), TOP_N=[0]), "^TOP_N must be from 1 to 64, got 0"),
        (request_of(("who?", SHORT), MAX_ANSWER_TOKENS=[-1]), "^MAX_ANSWER_TOKENS must be at least 1, or 0 .* got -1"),
        (request_of(("\u00a0\n", SHORT)), "^the question holds no word"),
        (request_of(("who?", "\x00\x07")), "^the context holds no word"),
        (pb_utils.InferenceRequest(request_of(("who?", SHORT)).inputs()[:1]), "^CONTEXT is missing"),
    ]
    alone = [ask(make())[0] for make in good]
    batch = []
    for index, (request, _) in enumerate(bad):
        batch += [request, good[index % 3]()]
    responses = ask(*batch)
    for index, (_, message) in enumerate(bad):
        assert_error(responses[2 * index], pb_utils, "INVALID_ARG", message)
        assert_same_arrays(responses[2 * index + 1], alone[index % 3])


def test_a_batch_of_bad_requests_asks_the_encoder_nothing(ask, request_of, pb_utils):
    for response in ask(request_of(("", SHORT)), request_of(("who?", ""))):
        assert_error(response, pb_utils, "INVALID_ARG", "is empty")
    assert pb_utils.encoder.calls == []


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (("who?", ""), {}, "^row 1: CONTEXT is empty"),
        (("\t", SHORT), {}, "^row 1: the question holds no word"),
        (("who?", SHORT), {"MAX_ANSWER_TOKENS": [3, -4, 3]}, "^row 1: MAX_ANSWER_TOKENS must be at least 1"),
    ],
)
def test_one_bad_row_fails_its_request_and_is_named(ask, request_of, pb_utils, bad, options, message):
    first, second = ask(
        request_of(("who sat?", SHORT), bad, ("where?", LONG), **options), request_of(("who sat?", SHORT))
    )
    assert_error(first, pb_utils, "INVALID_ARG", message)
    assert_same_arrays(second, ask(request_of(("who sat?", SHORT)))[0])


def test_rows_of_one_request_equal_requests_of_one_row(ask, request_of):
    rows = [("who sat?", SHORT), ("where?", LONG), ("how many people live there?", CITY), ("where?", LONG)]
    (together,) = ask(request_of(*rows, TOP_N=[1, 7, 2, 3], NO_ANSWER_THRESHOLD=[0.0, 50.0, -50.0, 0.5]))
    arrays = together.arrays()
    assert arrays["ANSWER"].shape == (4, 7)
    for row, (pair, top_n, threshold) in enumerate(zip(rows, [1, 7, 2, 3], [0.0, 50.0, -50.0, 0.5], strict=True)):
        alone = ask(request_of(pair, TOP_N=[top_n], NO_ANSWER_THRESHOLD=[threshold]))[0].arrays()
        for name, array in alone.items():
            np.testing.assert_array_equal(arrays[name][row, : array.shape[1]], array[0], err_msg=name)
        assert (arrays["ANSWER"][row, top_n:] == b"").all()
        assert (arrays["CHAR_START"][row, top_n:] == -1).all()
        assert (arrays["LOGIT"][row, top_n:] == np.finfo(np.float32).min).all()
        assert np.isfinite(arrays["LOGIT"]).all()
    assert arrays["HAS_ANSWER"][:, 0].tolist()[1:3] == [True, False]


def together(ask, pb_utils, make, first, *requests):
    """The answers of requests that were all waiting before the first of their windows was taken."""
    with pb_utils.encoder.held(n_calls=N_WORKERS) as one_more_is_held:
        holding = [make(first) for _ in range(N_WORKERS)]
        for request in holding:  # one by one: two in one call would leave a worker free
            ask.only(request)
            one_more_is_held()
        ask.only(*requests)
    assert not any(request.answer().has_error() for request in holding)
    return [request.answer() for request in requests]


def test_windows_of_all_requests_share_calls_within_the_limits(ask_gpu, request_of, pb_utils):
    texts = (SHORT, CITY, LONG, CITY, LONG, SHORT)
    requests = [request_of(("where?", text)) for text in texts]
    responses = together(ask_gpu, pb_utils, request_of, ("where?", SHORT), *requests)
    assert not any(response.has_error() for response in responses)
    calls = pb_utils.encoder.calls[N_WORKERS:]
    assert all(rows <= 4 and (rows == 1 or rows * length <= 96) for rows, length in calls)
    alone = 4 + 2 * 2  # calls, were none shared: each long text is six windows, at most three a call
    assert sum(rows for rows, _ in calls) == 4 + 2 * 6
    assert len(calls) < alone


def test_a_row_asks_for_distinct_spans_for_itself(ask, request_of):
    (response,) = ask(request_of(("where?", LONG), ("where?", LONG), TOP_N=[9, 9], DISTINCT=[True, False]))
    arrays = response.arrays()
    spans = [
        sorted(zip(*(arrays[f"CHAR_{end}"][row].tolist() for end in ("START", "END")), strict=True)) for row in (0, 1)
    ]
    overlaps = [sum(one[1] > other[0] for one, other in itertools.pairwise(of)) for of in spans]
    assert overlaps[0] == 0 < overlaps[1]


def test_logits_are_asked_for_in_cpu_memory(ask_gpu, request_of, pb_utils):
    (response,) = ask_gpu(request_of(("who?", SHORT)))  # the fake leaves them on the GPU otherwise, as Triton does
    assert not response.has_error()


def test_a_truncated_question_is_told(ask, request_of):
    (response,) = ask(request_of(("who " * 9, SHORT), ("who " * 8, SHORT)))
    assert response.arrays()["QUESTION_TRUNCATED"].tolist() == [[True], [False]]


def test_those_in_the_call_of_an_encoder_that_is_away_may_ask_again(ask_gpu, request_of, pb_utils, tokenizer):
    tower = int(tokenizer.pieces("tower").ids[0])
    pb_utils.encoder.faults = {tower: "Stub process 'encoder_0_0' is not healthy."}
    requests = [request_of(("who?", text)) for text in (SHORT, SHORT + " tower")]
    for response in together(ask_gpu, pb_utils, request_of, ("who?", CITY), *requests):  # one call for both
        assert_error(response, pb_utils, "UNAVAILABLE", "ask again$")


def test_a_request_that_waits_holds_none_of_its_tensors(ask, request_of, pb_utils):
    request = request_of(("who?", LONG))
    sender, tensor = request.get_response_sender(), weakref.ref(request.inputs()[0])
    with pb_utils.encoder.held(1) as next_call:
        ask.only(request)
        next_call()
        del request
        gc.collect()
        assert tensor() is None
    assert not sender.answer().has_error()
