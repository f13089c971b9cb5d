"""A fault says whose it is and costs its own request alone; a cancelled request costs the encoder nothing more."""

import os
import re
from types import SimpleNamespace

import numpy as np
import pytest

from spanqa import contract, jobs

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


def test_logits_left_on_the_gpu_all_the_same_are_told_in_one_sentence(ask_gpu, request_of, pb_utils):
    pb_utils.encoder.keeps_on_gpu = True
    (response,) = ask_gpu(request_of(("who?", SHORT)))
    assert_error(
        response, pb_utils, "INTERNAL", "^encoder left its logits in GPU memory though CPU memory was asked for"
    )


def test_an_encoder_that_is_away_is_unavailable_for_those_with_windows_in_its_call(
    ask, request_of, pb_utils, tokenizer
):
    tower = int(tokenizer.pieces("tower").ids[0])
    pb_utils.encoder.faults = {tower: "Stub process 'encoder_0_0' is not healthy."}
    # Three full windows: as many as a call takes, where it takes several.
    away, *others = ask(*(request_of(("who?", text)) for text in ("tower " * 43, SHORT, CITY)))
    assert_error(away, pb_utils, "UNAVAILABLE", r"^the encoder is away for a moment .*not healthy.*: ask again$")
    assert not any(other.has_error() for other in others)
    pb_utils.encoder.faults = {}
    assert not ask(request_of(("who?", "tower " * 43)))[0].has_error()


def test_an_encoder_that_fails_is_internal_with_an_id_that_the_log_explains(
    ask, request_of, pb_utils, tokenizer, capsys
):
    pb_utils.encoder.faults = {int(tokenizer.pieces("tower").ids[0]): "CUDA error: an illegal memory access"}
    (response,) = ask(request_of(("who?", LONG)))
    assert_error(response, pb_utils, "INTERNAL", r"CUDA error: an illegal .*\(fault [0-9a-f]{12}: the server's log")
    fault = re.search("fault ([0-9a-f]{12})", response.error().message())[1]
    log = capsys.readouterr().err
    assert f"spanqa: fault {fault}\nTraceback" in log
    assert "EncoderError" in log


def test_an_unexpected_error_shows_no_detail_to_the_sender(ask, request_of, pb_utils, monkeypatch, capsys):
    def broken(*inputs):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(pb_utils.encoder, "logits", broken)
    (response,) = ask(request_of(("who?", SHORT)))
    assert_error(
        response, pb_utils, "INTERNAL", r"^an unexpected error \(fault [0-9a-f]{12}: the server's log says more\)$"
    )
    assert "secret detail" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["short", "flat"])
def test_a_network_of_another_shape_is_internal(ask, request_of, pb_utils, monkeypatch, shape):
    def wrong(ids, mask, types):
        array = np.zeros((len(ids), ids.shape[1] - 1) if shape == "short" else ids.size, dtype=np.float32)
        return array, array

    monkeypatch.setattr(pb_utils.encoder, "logits", wrong)
    (response,) = ask(request_of(("who?", SHORT)))
    assert_error(response, pb_utils, "INTERNAL", "the network is not the one the repository was built with")


def test_logits_that_are_not_finite_fail_their_own_request(ask, request_of, pb_utils, monkeypatch, tokenizer):
    sound = pb_utils.encoder.logits
    tower = int(tokenizer.pieces("tower").ids[0])

    def overflowing(ids, mask, types):
        start, end = sound(ids, mask, types)
        return np.where(ids == tower, np.float32("nan"), start), end

    expected = ask(request_of(("who?", SHORT)))[0]
    monkeypatch.setattr(pb_utils.encoder, "logits", overflowing)
    short, long = ask(request_of(("who?", SHORT)), request_of(("who?", LONG)))
    assert_same_arrays(short, expected)
    assert_error(long, pb_utils, "INTERNAL", "logits are not finite")


@pytest.fixture
def asked_at_every_call(monkeypatch):
    """Has Triton asked at every call whether a sender has given up, not only now and then."""
    monkeypatch.setattr(jobs, "CHECK_S", -1.0)


@pytest.mark.usefixtures("asked_at_every_call")
def test_a_cancelled_request_costs_no_call_and_its_neighbours_are_answered(ask, request_of, pb_utils):
    (cancelled,) = ask(request_of(("who?", LONG), cancelled=True))
    assert_error(cancelled, pb_utils, "CANCELLED", "cancelled by its sender")
    assert pb_utils.encoder.calls == []
    expected = ask(request_of(("who?", SHORT)))[0]
    cancelled, answered = ask(request_of(("who?", LONG), cancelled=True), request_of(("who?", SHORT)))
    assert_error(cancelled, pb_utils, "CANCELLED", "cancelled by its sender")
    assert_same_arrays(answered, expected)


@pytest.mark.usefixtures("asked_at_every_call")
def test_a_request_cancelled_half_way_asks_the_encoder_no_more(ask, request_of, pb_utils):
    request = request_of(("who?", LONG * 4))
    pb_utils.encoder.before_call = request.cancel
    (response,) = ask(request)
    assert_error(response, pb_utils, "CANCELLED", "cancelled")
    n_cancelled = len(pb_utils.encoder.calls)
    pb_utils.encoder.before_call = None
    pb_utils.encoder.calls.clear()
    ask(request_of(("who?", LONG * 4)))
    assert n_cancelled < len(pb_utils.encoder.calls)


@pytest.mark.parametrize("text", [SHORT, ""], ids=["an answer", "an error"])
def test_who_asks_hears_of_a_response_that_found_no_shared_memory(ask, request_of, pb_utils, monkeypatch, text):
    (undisturbed,) = ask(request_of(("who?", SHORT)))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=4096))
    full = request_of(("who?", text))
    full.get_response_sender().has_memory = False
    lost, sound = ask(full, request_of(("who?", SHORT)))
    assert_error(lost, pb_utils, "INTERNAL", "expected a single response, got 0")
    assert_same_arrays(sound, undisturbed)
