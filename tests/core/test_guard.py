"""The sender's faults are explained, the server's own told by an id, and an outage asks for patience."""

import re
from types import SimpleNamespace

import pytest

from spanqa.errors import InputError, LogitsError, SettingsError
from spanqa.guard import CancelledError, EncoderError, error_response, guarded, guarded_together, is_outage


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = "INTERNAL", "INVALID_ARG", "UNAVAILABLE", "CANCELLED"

    def __init__(self, message, code):
        self.message, self.code = message, code


class InferenceResponse:
    def __init__(self, output_tensors=None, error=None):
        self.output_tensors, self.error = output_tensors, error


PB_UTILS = SimpleNamespace(TritonError=TritonError, InferenceResponse=InferenceResponse)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("CONTEXT is empty: send some text"), "INVALID_ARG", r"CONTEXT is empty: send some text"),
        (CancelledError("cancelled"), "CANCELLED", "cancelled"),
        (EncoderError("gone", outage=True), "UNAVAILABLE", r"the encoder is away for a moment \(gone\): ask again"),
        (
            EncoderError("bad shape", outage=False),
            "INTERNAL",
            r"bad shape \(fault \w{12}: the server's log says more\)",
        ),
        (LogitsError("not finite"), "INTERNAL", r"not finite \(fault \w{12}: the server's log says more\)"),
        (SettingsError("too short"), "INTERNAL", r"too short \(fault \w{12}: the server's log says more\)"),
        (KeyError("secret"), "INTERNAL", r"an unexpected error \(fault \w{12}: the server's log says more\)"),
    ],
)
def test_each_error_has_its_code_and_one_line(error, code, message):
    answer = error_response(PB_UTILS, error).error
    assert answer.code == code
    assert re.fullmatch(message, answer.message)


def test_the_log_holds_the_traceback_under_the_id_of_the_message(capsys):
    def step(request):
        raise KeyError(request)

    message = guarded(PB_UTILS, step, "secret").error.message
    log = capsys.readouterr().err
    assert re.search(r"fault (\w{12})", message)[1] == re.match(r"spanqa: fault (\w{12})\nTraceback", log)[1]
    assert "in step\n" in log
    assert "KeyError" in log
    assert "secret" not in log + message


def test_the_senders_faults_leave_no_trace_in_the_log(capsys):
    error_response(PB_UTILS, InputError("x"))
    error_response(PB_UTILS, CancelledError("x"))
    assert capsys.readouterr().err == ""


def test_a_step_that_succeeds_gives_its_tensors():
    assert guarded(PB_UTILS, lambda request: [request, 2], 1).output_tensors == [1, 2]


@pytest.mark.parametrize(
    ("message", "outage"),
    [
        ("Stub process 'encoder_0_0' is not healthy.", True),
        ("Request for unknown model: 'encoder' has no available versions", True),
        ("Model encoder is not ready", True),
        ("CUDA out of memory", False),
        ("unexpected shape for input 'input_ids'", False),
    ],
)
def test_an_outage_is_known_by_tritons_words(message, outage):
    assert is_outage(message) is outage


def doubled(asked, fault=None):
    """A step that doubles numbers, remembers what it was given together, and fails where `fault` is among it."""

    def step(requests):
        asked.append(list(requests))
        if fault in requests:
            raise InputError(f"{fault} is no number: send another")
        return [[2 * request] for request in requests]

    return step


def test_requests_that_come_together_are_answered_by_one_step():
    asked = []
    responses = guarded_together(PB_UTILS, doubled(asked), [1, 2, 3])
    assert [response.output_tensors for response in responses] == [[2], [4], [6]]
    assert asked == [[1, 2, 3]]


def test_a_request_that_fails_among_others_fails_alone(capsys):
    asked = []
    responses = guarded_together(PB_UTILS, doubled(asked, fault=2), [1, 2, 3])
    assert [response.output_tensors for response in responses] == [[2], None, [6]]
    assert (responses[1].error.message, responses[1].error.code) == ("2 is no number: send another", "INVALID_ARG")
    assert asked == [[1, 2, 3], [1], [2], [3]]
    assert capsys.readouterr().err == (
        "spanqa: 3 requests together: InputError (its message may quote what was sent, and is logged with --log-text): "
        "one by one\n"
    )


def test_a_request_that_fails_alone_is_asked_once():
    asked = []
    (response,) = guarded_together(PB_UTILS, doubled(asked, fault=2), [2])
    assert response.error.code == "INVALID_ARG"
    assert asked == [[2]]
