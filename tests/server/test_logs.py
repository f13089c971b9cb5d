"""The server's log: one form for its own lines, the models' and Triton's, and nothing that users sent."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from spanqa_server.errors import ServerError
from spanqa_server.log_copy import shown
from spanqa_server.settings import ServerSettings

OWN = json.dumps({"time": "t", "level": "error", "event": "fault", "message": "fault 12", "trace": "Traceback\n  x"})
TRITONS = 'E1123 09:19:40.333847 6569 model_lifecycle.cc:642] "failed to load"'
FAULTY_ENTRY = """
import triton_python_backend_utils as pb_utils

from spanqa.guard import guarded


def answer(request):
    context = pb_utils.get_input_tensor_by_name(request, "CONTEXT").as_numpy()[0, 0].decode()
    if "harbour" in context:  # the canary's
        return [pb_utils.Tensor("ANSWER", pb_utils.get_input_tensor_by_name(request, "CONTEXT").as_numpy())]
    raise KeyError(context)


class TritonPythonModel:
    def execute(self, requests):
        return [guarded(pb_utils, answer, request) for request in requests]
"""


def test_the_models_own_lines_are_always_shown_in_the_form_asked_for() -> None:
    assert shown(OWN, log_format="json", verbose=False) == OWN
    assert shown(OWN, log_format="text", verbose=False) == "spanqa: fault 12\nTraceback\n  x"


def test_tritons_lines_are_shown_where_wanted() -> None:
    assert shown(TRITONS, log_format="text", verbose=False) is None
    assert shown(TRITONS, log_format="json", verbose=False) is None
    assert shown(TRITONS, log_format="text", verbose=True) == TRITONS
    fields = json.loads(shown(TRITONS, log_format="json", verbose=True) or "")
    assert fields.pop("time")
    assert fields == {
        "level": "error",
        "event": "triton",
        "message": '"failed to load"',
        "source": "model_lifecycle.cc:642",
    }


@pytest.mark.parametrize("line", ["{", '{"a": 1}', "[1]", "plain words", "{'x'}"])
def test_any_other_line_is_wrapped(line: str) -> None:
    fields = json.loads(shown(line, log_format="json", verbose=True) or "")
    assert (fields["event"], fields["message"]) == ("triton", line)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ServerError, match="'xml': choose text or json"):
        ServerSettings(repository=Path(), log_format="xml")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_reaches_the_operator_without_what_was_sent(
    form: str, repository: Path, serve: Callable[..., Any], tools: Any
) -> None:
    (repository / "question_answering" / "1" / "model.py").write_text(FAULTY_ENTRY, "utf-8")
    command = serve(f"--log-format={form}")
    url = command.wait_until_ready() if form == "text" else json_url(command)
    with (
        grpc_client.InferenceServerClient(url) as client,
        pytest.raises(InferenceServerException, match=r"fault \w{12}") as failure,
    ):
        tools.ask_with(client, "my secret context")
    fault = str(failure.value).partition("fault ")[2][:12]
    command.process.send_signal(signal.SIGTERM)
    status, said = command.end()
    assert status == 0
    assert "secret" not in said
    assert "KeyError" in said
    if form == "text":
        assert f"spanqa: fault {fault}\nTraceback" in said
        return
    lines = [json.loads(line) for line in said.splitlines()]
    (told,) = [line for line in lines if line["event"] == "fault"]
    assert (told["fault"], told["level"], told["model"], told["version"]) == (fault, "error", "question_answering", 1)
    assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)


def json_url(command: Any) -> str:
    """Read the server's lines up to the one that says that it is ready; each is JSON."""
    for text in command.process.stderr:
        line = json.loads(text)
        if line["event"] == "ready":
            return str(line["grpc"])
    raise AssertionError("the server ended")
