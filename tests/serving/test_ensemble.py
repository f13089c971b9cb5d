"""The ensemble's stages answer as the main entry does, word for word, and name it for what they do not take."""

import re

import numpy as np
import pytest

from spanqa import contract

SHORT = "the cat sat on the mat"
LONG = "the old bridge stands near the red tower and the river . " * 5
CITY = "two people live there in the old city"


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
def ask_ensemble(model, after_encoder):
    """Sends a request through preprocess, the encoder and postprocess, as the ensemble does."""
    preprocess, postprocess = model(contract.PREPROCESS), model(contract.POSTPROCESS)

    def ask(request):
        (first,) = preprocess.execute([request])
        if first.has_error():
            return first
        (last,) = postprocess.execute([after_encoder(request, first)])
        return last

    return ask


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


@pytest.mark.parametrize("entry", ["main", "ensemble"])
def test_what_is_left_out_and_what_says_so_are_the_models_own(ask, ask_ensemble, request_of, entry):
    send = ask_ensemble if entry == "ensemble" else lambda request: ask(request)[0]
    plain = send(request_of(("who sat?", SHORT)))
    said = {"NO_ANSWER_THRESHOLD": [np.nan], "MAX_ANSWER_TOKENS": [0], "DISTINCT": [False]}
    assert_same_arrays(send(request_of(("who sat?", SHORT), **said)), plain)


@pytest.mark.parametrize("entry", ["main", "ensemble"])
def test_a_limit_above_the_windows_room_is_cut_to_it(ask, ask_ensemble, request_of, entry):
    send = ask_ensemble if entry == "ensemble" else lambda request: ask(request)[0]
    whole, beyond = (
        send(request_of(("who?", LONG[:170]), TOP_N=[64], MAX_ANSWER_TOKENS=[limit])) for limit in (28, 10**6)
    )
    assert_same_arrays(beyond, whole)


def test_the_last_stage_gets_an_encoders_logits_in_cpu_memory_as_nothing_else_is_asked_for(
    model, request_of, after_encoder, pb_utils
):
    request = request_of(("who?", SHORT))
    (first,) = model(contract.PREPROCESS).execute([request])
    postprocess = model(contract.POSTPROCESS)
    assert not postprocess.execute([after_encoder(request, first)])[0].has_error()
    asking = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
    (response,) = postprocess.execute([after_encoder(request, first, asking)])
    assert_error(response, pb_utils, "INTERNAL", r"^an unexpected error \(fault")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"TOP_N": [9]},
        {"TOP_N": [64], "MAX_ANSWER_TOKENS": [2]},
        {"NO_ANSWER_THRESHOLD": [-100.0]},
        {"NO_ANSWER_THRESHOLD": [np.nan], "MAX_ANSWER_TOKENS": [0], "DISTINCT": [False]},
        {"TOP_N": [9], "DISTINCT": [True]},
        {"TOP_N": [3], "MAX_ANSWER_TOKENS": [1000]},
        {"TOP_N": [3], "NO_ANSWER_THRESHOLD": [np.inf], "MAX_ANSWER_TOKENS": [20]},
    ],
)
@pytest.mark.parametrize("context", [SHORT, CITY, LONG[:170], "École\u00a0東京 🚀\te\u0301 한국어 [SEP] שבא"])
def test_the_ensembles_stages_answer_as_the_main_entry(ask, ask_ensemble, request_of, context, options):
    question = "who sat on what is where and how many?"
    assert_same_arrays(
        ask_ensemble(request_of((question, context), **options)), ask(request_of((question, context), **options))[0]
    )


def test_the_ensemble_refuses_a_long_text_and_names_the_entry_that_takes_it(ask, ask_ensemble, request_of, pb_utils):
    response = ask_ensemble(request_of(("who?", LONG)))
    assert_error(
        response,
        pb_utils,
        "INVALID_ARG",
        r"^the context needs \d+ windows, question_answering_ensemble takes at most 4: ask the model "
        "question_answering instead, which takes texts of any length$",
    )
    assert not ask(request_of(("who?", LONG)))[0].has_error()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (("", SHORT), {}, "^QUESTION is empty"),
        (("who?", "\x00"), {}, "^the context holds no word"),
        (("who?", SHORT), {"TOP_N": [65]}, "^TOP_N must be from 1 to 64, got 65"),
        (("who?", SHORT), {"MAX_ANSWER_TOKENS": [-28]}, "^MAX_ANSWER_TOKENS must be at least 1"),
    ],
)
def test_the_ensembles_errors_are_those_of_the_main_entry(
    ask, ask_ensemble, request_of, pb_utils, row, options, message
):
    staged, routed = ask_ensemble(request_of(row, **options)), ask(request_of(row, **options))[0]
    assert_error(staged, pb_utils, "INVALID_ARG", message)
    assert staged.error().message() == routed.error().message()
