"""Lines of the log: text or JSON, and never a word of what was sent unless that is asked for."""

import io
import json
import re
import threading
from types import SimpleNamespace

import pytest

from spanqa import logs
from spanqa.errors import InputError, LogitsError
from spanqa.guard import error_response, guarded_together


@pytest.fixture
def as_json(monkeypatch):
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")


def pb_utils():
    codes = SimpleNamespace(INTERNAL=1, INVALID_ARG=2, UNAVAILABLE=3, CANCELLED=4)

    def make(message, code):
        return SimpleNamespace(message=message, code=code)

    for name, code in vars(codes).items():
        setattr(make, name, code)
    return SimpleNamespace(TritonError=make, InferenceResponse=lambda **fields: SimpleNamespace(**fields))


def raised(error, cause=None):
    try:
        try:
            if cause:
                raise cause
        except Exception as first:
            raise error from first
        raise error
    except Exception as caught:
        return caught


def test_text_is_a_sentence_and_its_trace(capsys):
    logs.write("error", "fault", "fault 12", fault="12", trace="Traceback\n  here")
    assert capsys.readouterr().err == "spanqa: fault 12\nTraceback\n  here\n"


def test_json_is_one_object_a_line(as_json, capsys):
    logs.write("error", "fault", "fault 12", fault="12", trace="Traceback\n  here", request_id="", version=None)
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert fields == {
        "level": "error",
        "event": "fault",
        "message": "fault 12",
        "fault": "12",
        "trace": "Traceback\n  here",
    }


def test_lines_of_many_threads_do_not_mix(as_json):
    stream = io.StringIO()
    threads = [
        threading.Thread(target=lambda: [logs.write("info", "e", "x" * 500, stream=stream) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["x" * 500] * 400


def test_a_python_process_of_triton_knows_its_model(tmp_path):
    cmdline = tmp_path / "cmdline"
    cmdline.write_bytes(b"/opt/triton_python_backend_stub\0/models/question_answering/7/model.py\0region\0")
    assert logs.model_here(cmdline) == {"model": "question_answering", "version": 7}
    cmdline = tmp_path / "other"
    cmdline.write_bytes(b"/usr/bin/python3\0script.py\0")
    assert logs.model_here(cmdline) == {}
    assert logs.model_here(tmp_path / "missing") == {}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_is_logged_without_what_was_sent(form, monkeypatch, capsys):
    monkeypatch.setenv(logs.FORMAT_VARIABLE, form)
    error = raised(KeyError("my secret context"), cause=ValueError("my secret question"))
    response = error_response(pb_utils(), error, "order-17")
    said = capsys.readouterr().err
    fault = re.search(r"fault (\w{12})", response.error.message)[1]
    assert fault in said
    assert "secret" not in said
    assert "KeyError" in said
    assert "ValueError" in said
    assert "test_logs.py" in said  # the trace's places
    if form == "json":
        assert json.loads(said)["request_id"] == "order-17"
        assert json.loads(said)["fault"] == fault


def test_what_was_sent_is_logged_where_that_is_asked_for(monkeypatch, capsys):
    monkeypatch.setenv(logs.TEXT_VARIABLE, "1")
    error_response(pb_utils(), raised(KeyError("my secret context")))
    assert "my secret context" in capsys.readouterr().err


def test_messages_of_our_own_errors_are_told():
    assert "not finite" in logs.trace_of(raised(LogitsError("not finite")))
    assert "No space left" in logs.trace_of(raised(OSError(28, "No space left on device")))
    assert "cats" not in logs.trace_of(raised(InputError("cats")))


def test_requests_that_fail_together_are_told_without_what_was_sent(capsys):
    def step(requests):
        raise InputError("QUESTION is 'my secret'")

    guarded_together(pb_utils(), step, [object(), object()])
    said = capsys.readouterr().err
    assert said.startswith("spanqa: 2 requests together: InputError")
    assert "secret" not in said
