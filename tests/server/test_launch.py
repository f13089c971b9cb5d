"""Triton's log becomes one sentence, and models that cannot load end the start at once."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spanqa import contract
from spanqa_server.errors import ModelLoadError, PortError, ServerError, ServerLostError, StartTimeoutError
from spanqa_server.launch import failure_in
from spanqa_server.server import Server

LOAD_LINE = (
    "E1123 09:19:40.333847 6569 model_lifecycle.cc:642] \"failed to load 'encoder' version 1: Internal: ValueError: "
    r'the weights are \"gone\"\nreally\n\nAt:\n  /models/encoder/1/model.py(7): initialize\n"'
)
PORT_LINE = (
    'E1123 09:19:59.737361 7177 main.cc:245] "failed to start GRPC service: Unavailable - '
    "Socket '127.0.0.1:9001' already in use \""
)


def test_a_model_that_fails_is_named_with_cause_and_place() -> None:
    error = failure_in(f"I1123 something\n{LOAD_LINE}\nerror: creating server: Invalid argument\n")
    assert isinstance(error, ModelLoadError)
    assert str(error) == (
        "Triton cannot load the model 'encoder': ValueError: the weights are \"gone\" really "
        "(/models/encoder/1/model.py, line 7)"
    )


def test_a_port_that_was_taken_meanwhile_is_named() -> None:
    error = failure_in(PORT_LINE)
    assert isinstance(error, PortError)
    assert "127.0.0.1:9001" in str(error)


def test_any_other_failure_keeps_triton_s_own_words() -> None:
    assert isinstance(failure_in("error: creating server: no such thing"), ServerLostError)


def test_a_log_without_failures_holds_none() -> None:
    assert failure_in('E1123 09:11:26 36 server.cc:241] "CudaDriverHelper has not been initialized."\n') is None


@pytest.mark.triton
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("    def initialize(self, args):\n        raise ValueError('no weights')\n", r"ValueError: no weights .*line"),
        ("import no_such_package\n", "No module named 'no_such_package'.*install that package"),
        ("import os\nos._exit(3)\n", "is not healthy: its Python process ended"),
    ],
)
def test_a_model_that_cannot_load_ends_the_start_in_one_sentence(
    repository: Path, tools: Any, code: str, message: str
) -> None:
    path = repository / contract.ENCODER / "1" / "model.py"
    path.write_text(path.read_text() + code)
    before = tools.ours_in_shared_memory(os.getpid())
    with pytest.raises(ModelLoadError, match=f"model 'encoder': .*{message}") as caught:
        Server(repository).start()
    assert "\n" not in str(caught.value)
    assert tools.ours_in_shared_memory(os.getpid()) == before


@pytest.mark.triton
def test_a_model_that_loads_for_ever_ends_the_start_at_its_deadline(repository: Path, tools: Any) -> None:
    path = repository / contract.ENCODER / "1" / "model.py"
    path.write_text(path.read_text() + "    def initialize(self, args):\n        time.sleep(600)\n")
    before = tools.ours_in_shared_memory(os.getpid())
    start = time.monotonic()
    with pytest.raises(StartTimeoutError, match="--start-timeout-s"):
        Server(repository, start_timeout_s=2.0).start()
    assert time.monotonic() - start < 10
    assert tools.ours_in_shared_memory(os.getpid()) == before


@pytest.mark.triton
def test_an_entry_that_refuses_the_first_question_ends_the_start(repository: Path) -> None:
    path = repository / contract.QUESTION_ANSWERING / "1" / "model.py"
    path.write_text(path.read_text().replace('model_name="encoder"', 'model_name="nobody"'))
    with pytest.raises(ServerError, match=r"the first question was not answered: .*nobody"):
        Server(repository).start()


@pytest.mark.parametrize(
    ("place", "fault", "message"),
    [
        (
            "tempfile.mkdtemp",
            FileNotFoundError(2, "No usable temporary directory found"),
            r"no folder for temporary files \(No usable temporary directory found\).*TMPDIR",
        ),
        ("RegionPrefix", PermissionError(13, "Permission denied"), "/dev/shm cannot be written: Permission denied"),
        ("sweep", KeyError("unforeseen"), "the supervisor failed: KeyError"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_start_that_fails_before_triton_ends(
    repository: Path, monkeypatch: pytest.MonkeyPatch, place: str, fault: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(f"spanqa_server.supervise.{place}", fail)
    server = Server(repository)
    starting = threading.Thread(target=lambda: errors.append(caught(server.start)), daemon=True)
    errors: list[Exception | None] = []
    starting.start()
    starting.join(30)
    assert not starting.is_alive()
    (error,) = errors
    assert isinstance(error, ServerError)
    assert re.search(message, str(error))


def caught(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except Exception as error:  # whatever it is, the test looks at it
        return error
    return None
