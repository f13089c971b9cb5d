"""A build may lie on disk for days before it is asked for: until then, whatever fails, the old one is served."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import Manifest, manifest_json
from spanqa_server.control import Control
from spanqa_server.errors import RepositoryError, ServerLostError
from spanqa_server.repository import models_of
from spanqa_server.server import Server
from spanqa_server.view import View

RECOVERY_S = 60.0
"""Ten on a quiet machine; a busy one is waited for."""
needs_triton = pytest.mark.triton


def add_version(repository: Path, version: int, *, encoder: str = "") -> None:
    """Add a build that answers with its number; `encoder` is added to its encoder's code."""
    for model in (contract.ENCODER, contract.QUESTION_ANSWERING, contract.ENSEMBLE):
        folder = repository / model / str(version)
        folder.mkdir()
        if model != contract.ENSEMBLE:
            code = (repository / model / str(version - 1) / "model.py").read_text("utf-8")
            for old in ("str(int(row[0])).encode()", f"b'{version - 1}'"):
                code = code.replace(old, f"b'{version}'")
            (folder / "model.py").write_text(code + (encoder if model == contract.ENCODER else ""), "utf-8")
    config = repository / contract.ENSEMBLE / "config.pbtxt"
    for old in (-1, *range(1, version)):
        config.write_text(config.read_text().replace(f"model_version: {old}", f"model_version: {version}"))


BROKEN = "    def initialize(self, args):\n        raise ValueError('rotten')\n"
HANGING = "    def initialize(self, args):\n        time.sleep(600)\n"


def remove_version(repository: Path, version: int) -> None:
    for folder in repository.glob(f"*/{version}"):
        shutil.rmtree(folder)


def answer_of(server: Server, tools: Any) -> str:
    with grpc_client.InferenceServerClient(server.url) as client:
        return tools.ask_with(client, "seven77", timeout_s=10)


def ensemble_answer(server: Server) -> int:
    import numpy as np

    text = grpc_client.InferInput("TEXT", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"four"]], np.object_))
    with grpc_client.InferenceServerClient(server.url) as client:
        return int(client.infer(contract.ENSEMBLE, [text]).as_numpy("LENGTH")[0, 0])


def kill(server: Server, model: str, tools: Any) -> None:
    n_recoveries = server.n_recoveries
    os.kill(next(stub.pid for stub in server.stubs() if stub.model == model), signal.SIGKILL)
    tools.wait_until(lambda: server.n_recoveries > n_recoveries, RECOVERY_S)


def reload(server: Server, tools: Any) -> None:
    n_reloads = server.n_reloads
    server.request_reload()
    tools.wait_until(lambda: server.n_reloads > n_reloads, 30)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def served(repository: Path, told: list[str]) -> Iterator[Server]:
    with Server(repository, report=told.append) as server:
        yield server


@needs_triton
def test_every_recovery_brings_back_the_version_that_was_served_be_the_new_one_broken_or_not(
    served: Server, repository: Path, tools: Any, told: list[str]
) -> None:
    add_version(repository, 2, encoder=BROKEN)
    kill(served, contract.ENCODER, tools)
    kill(served, contract.QUESTION_ANSWERING, tools)
    assert (answer_of(served, tools), ensemble_answer(served)) == ("7", 4)
    reload(served, tools)
    assert told[-1].startswith("not reloaded in full: Triton does not load the model 'encoder'")
    assert "rotten" in told[-1]
    assert f"{repository}/encoder/2/model.py" in told[-1]
    kill(served, contract.ENCODER, tools)
    assert (answer_of(served, tools), ensemble_answer(served)) == ("7", 4)
    n_recoveries = served.n_recoveries
    os.kill(served.triton_pid, signal.SIGKILL)
    tools.wait_until(lambda: served.n_recoveries > n_recoveries, RECOVERY_S)
    assert told[-1] == "Triton runs again"
    assert (answer_of(served, tools), ensemble_answer(served)) == ("7", 4)
    shutil.copy(*(repository / contract.ENCODER / version / "model.py" for version in "12"))
    reload(served, tools)
    assert (answer_of(served, tools), ensemble_answer(served)) == ("2", 4)
    kill(served, contract.QUESTION_ANSWERING, tools)
    assert answer_of(served, tools) == "2"


@needs_triton
def test_a_roll_over_that_ran_out_of_time_is_the_base_of_the_next(
    repository: Path, tools: Any, told: list[str]
) -> None:
    two, entry = [contract.ENCODER] * 2, contract.QUESTION_ANSWERING
    with Server(repository, report=told.append, drain_timeout_s=0.2) as server:

        def ask() -> None:
            with grpc_client.InferenceServerClient(server.url) as client:
                tools.ask_with(client, "slow")

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        time.sleep(0.2)  # over loopback the questions have arrived by then
        add_version(repository, 2)
        reload(server, tools)
        assert "has not answered all that it accepted within 0.2 s" in told[0]
        for thread in asking:
            thread.join()
        tools.wait_until(lambda: sorted(stub.model for stub in server.stubs()) == [*two, entry], RECOVERY_S)
        kill(server, entry, tools)
        assert answer_of(server, tools) == "2"
        reload(server, tools)
        assert told[-1].startswith("version 2 of ")
        assert (answer_of(server, tools), ensemble_answer(server)) == ("2", 4)
        tools.wait_until(lambda: len(server.stubs()) == 2, RECOVERY_S)  # nothing of the old version is left


@needs_triton
def test_a_served_version_that_is_gone_is_told_before_the_newest_is_rolled_in_or_started(
    served: Server, repository: Path, tools: Any, told: list[str]
) -> None:
    add_version(repository, 2)
    add_version(repository, 3)
    remove_version(repository, 1)
    reload(served, tools)
    assert told[0].startswith(f"version 1 answers but is no longer in {repository}, ")
    assert told[1].startswith(f"version 3 of {repository} answers")
    assert (answer_of(served, tools), ensemble_answer(served)) == ("3", 4)
    add_version(repository, 4)
    remove_version(repository, 3)
    kill(served, contract.ENCODER, tools)
    gone = f"version 3 is no longer in {repository} as it was loaded: starting its newest, version 4"
    assert told[-2:] == [gone, "Triton runs again"]
    assert (answer_of(served, tools), ensemble_answer(served)) == ("4", 4)


@needs_triton
def test_a_stop_does_not_wait_for_a_load_that_hangs(repository: Path, tools: Any, told: list[str]) -> None:
    answers: list[str] = []
    with Server(repository, report=told.append) as server:

        def ask() -> None:
            with grpc_client.InferenceServerClient(server.url) as client:
                answers.append(tools.ask_with(client, "slow1"))

        add_version(repository, 2, encoder=HANGING)
        server.request_reload()
        tools.wait_until(lambda: len(server.stubs()) > 2, RECOVERY_S)
        pids = [server.triton_pid, *(stub.pid for stub in server.stubs())]
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.2)  # over loopback the question has arrived by then
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 15, "as long as all of it may take is 30 s, and five are for the load"
        asking.join()
    assert answers == ["5"]
    assert told == ["not reloaded in full: the server is asked to stop"]
    # A busy machine takes a moment to bury what was killed.
    tools.wait_until(lambda: not any(map(tools.is_running, pids)), RECOVERY_S)


class Unheard:
    """A client of a Triton that never answers a load."""

    def __init__(self) -> None:
        self.was_asked = threading.Event()
        self.may_end = threading.Event()

    def load_model(self, *_: Any, **__: Any) -> None:
        self.was_asked.set()
        self.may_end.wait(20)


def test_a_load_that_is_given_up_is_known_to_be_under_way() -> None:
    stopping, client = threading.Event(), Unheard()
    control = Control("127.0.0.1:1", {}, stopping, "127.0.0.1:1")
    control.close()
    control._client = client
    threading.Timer(0.1, stopping.set).start()
    with pytest.raises(ServerLostError, match="asked to stop"):
        control.load(contract.ENCODER)
    assert (client.was_asked.is_set(), control.is_loading) == (True, True)
    client.may_end.set()


def test_what_triton_reads_is_the_old_build_until_it_is_shown_another(repository: Path, tmp_path: Path) -> None:
    view = View(tmp_path / "view", repository)
    old = models_of(repository)
    add_version(repository, 2)
    view.show(old)
    assert models_of(view.folder) == old
    new = models_of(repository)
    assert {model.version for model in new} == {2}
    view.show(new, beside={contract.ENCODER: {1, 7}})
    assert view.versions_of(contract.ENCODER) == {1, 2}
    assert view.versions_of(contract.QUESTION_ANSWERING) == {2}
    assert models_of(view.folder) == new
    assert (view.has(old), view.has(new)) == (True, True)
    remove_version(repository, 1)
    assert (view.has(old), view.has(new)) == (False, True)


def test_a_model_of_somebody_else_is_shown_with_all_its_versions(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / contract.ENCODER, repository / "other")
    shutil.copytree(repository / "other" / "1", repository / "other" / "5")
    view = View(tmp_path / "view", repository)
    view.show(models_of(repository))
    assert view.versions_of("other") == {1, 5}


def folder_for_code(repository: Path) -> None:
    (repository / contract.ENCODER / "1" / "model.py").unlink()
    (repository / contract.ENCODER / "1" / "model.py").mkdir()


def file_for_configuration(repository: Path) -> None:
    (repository / contract.ENCODER / "config.pbtxt").unlink()
    (repository / contract.ENCODER / "config.pbtxt").mkdir()


def newest_without_code(repository: Path) -> None:
    add_version(repository, 2)
    (repository / contract.ENCODER / "2" / "model.py").unlink()


def newest_of_one_model(repository: Path) -> None:
    shutil.copytree(repository / contract.ENCODER / "1", repository / contract.ENCODER / "2")


def newest_of_another_lacks(repository: Path) -> None:
    add_version(repository, 2)
    shutil.rmtree(repository / contract.ENCODER / "2")


def ensemble_without_folder(repository: Path) -> None:
    (repository / contract.ENSEMBLE / "1").rmdir()


def manifest_that_is_none(repository: Path) -> None:
    (repository / contract.QUESTION_ANSWERING / "1" / "manifest.json").write_text("{", "utf-8")


def manifest_of_more_models(repository: Path) -> None:
    text = manifest_json(Manifest(tokenizer_sha256="0" * 64))
    (repository / contract.QUESTION_ANSWERING / "1" / "manifest.json").write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (folder_for_code, r"encoder has no 1/model\.py"),
        (file_for_configuration, r"encoder/config\.pbtxt is not a Triton model configuration"),
        (newest_without_code, r"encoder has no 2/model\.py"),
        (newest_of_one_model, r"newest version of the model 'encoder' is 2, that of 'question_answering' 1"),
        (newest_of_another_lacks, r"newest version of the model 'encoder' is 1, that of 'question_answering' 2"),
        (ensemble_without_folder, r"question_answering_ensemble has no folder 1"),
        (manifest_that_is_none, r"manifest\.json: damaged"),
        (manifest_of_more_models, r"question_answering needs postprocess, preprocess: not in "),
    ],
)
def test_a_repository_that_is_not_whole_is_one_sentence_and_status_2(
    repository: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], sentence: str
) -> None:
    harm(repository)
    with pytest.raises(RepositoryError, match=sentence) as caught:
        models_of(repository)
    assert "\n" not in str(caught.value)
    assert main(["serve", "--repository", str(repository)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"spanqa: error: {caught.value}"


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory", "x"), ValueError("invalid name")])
def test_a_file_that_goes_while_it_is_read_is_one_sentence(
    repository: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def vanish(*_: object) -> str:
        raise error

    monkeypatch.setattr("spanqa_server.repository.seal_of", vanish)
    with pytest.raises(RepositoryError, match=r"cannot be read: .*: try again if a build was just being put there"):
        models_of(repository)
