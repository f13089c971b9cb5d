"""Both faces of the client against real Tritons: TLS, mutual TLS, tokens, servers that drain, die, hang or vanish."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from spanqa import contract
from spanqa_client.async_client import AsyncQAClient
from spanqa_client.client import QAClient
from spanqa_client.errors import ServerUnavailable, Timeout, TrustError
from spanqa_client.pipeline import pipeline
from spanqa_client.security import ConnectionSettings
from spanqa_server.checks import check_start
from spanqa_server.launch import TritonProcess
from spanqa_server.server import Server
from spanqa_server.settings import ServerSettings
from spanqa_server.shared_memory import RUN_FOLDER_PREFIX, RegionPrefix
from spanqa_server.view import View

pytestmark = pytest.mark.triton

CERTIFICATES = Path(__file__).parents[1] / "client" / "certificates.py"
SPEC = importlib.util.spec_from_file_location("certificates", CERTIFICATES)
certificates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(certificates)
NOT_ASKED = (contract.ENSEMBLE, contract.PREPROCESS, contract.POSTPROCESS)
"""Without these Triton starts in half the time."""
HEADER = "triton-grpc-protocol-qa"
SECRET = "test-token"
AT_ONCE_S = 20.0
ALLOWED_S = 60.0


class SecureTriton(TritonProcess):
    """A real Triton started as `spanqa serve` starts it, with more arguments, and without a supervisor."""

    def __init__(self, arguments, *place):
        self._more = arguments
        super().__init__(*place)

    def _arguments(self, models, backends):
        return [*super()._arguments(models, backends), *self._more]


@contextlib.contextmanager
def secure_triton(repository, *arguments):
    """Runs one for as long as the block lasts; gives it with its settings once it is ready."""
    settings, triton, models = check_start(ServerSettings(repository=repository))
    folder = Path(tempfile.mkdtemp(prefix=RUN_FOLDER_PREFIX))
    regions = RegionPrefix(folder)
    try:
        view = View(folder / "view", settings.repository)
        view.show(models)
        models = tuple(model for model in models if model.name not in NOT_ASKED)
        run = folder / "run"
        run.mkdir()
        process = SecureTriton(arguments, settings, triton, models, view, run, regions)
        try:
            yield process, settings
        finally:
            process.kill()
    finally:
        regions.release()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process, settings):
    address = f"http://{settings.url(settings.http_port)}/v2/health/ready"
    deadline = time.monotonic() + ALLOWED_S
    while time.monotonic() < deadline:
        assert process.is_running(), process.last_words()
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.05)
    pytest.fail("Triton is not ready: " + process.last_words())


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tritons(repository, authority):
    """Two real Tritons with TLS: one asks for a token, the other for a client's certificate."""
    certificate, key = authority.issue("server")
    tls = ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    token = f"--grpc-restricted-protocol=inference:qa={SECRET}"
    mutual = ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={authority.file}"]
    with secure_triton(repository, *tls, token) as tokened, secure_triton(repository, *tls, *mutual) as other:
        for process, settings in (tokened, other):
            _wait(process, settings)
        yield tokened, other


def _url(triton):
    settings = triton[1]
    return settings.url(settings.grpc_port)


@pytest.fixture(scope="module")
def trusted(authority, tmp_path_factory):
    """What both take."""
    certificate, key = authority.issue("client")
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(SECRET + "\n")
    return {
        "ca_file": authority.file,
        "certificate_file": certificate,
        "key_file": key,
        "token": f"@{token}",
        "token_header": HEADER,
    }


def _settings(trusted, *names, **others):
    return ConnectionSettings(**{name: trusted[name] for name in names}, **others)


def _ask_both(url, settings, question, context):
    async def ask():
        async with AsyncQAClient(url, connection=settings) as client:
            return await client.ask(question, context, timeout_s=ALLOWED_S)

    with QAClient(url, connection=settings) as client:
        return [client.ask(question, context, timeout_s=ALLOWED_S), asyncio.run(ask())]


def _refused(url, settings, question="Who?", context="Me."):
    """The one sentence of either face, which must come long before the deadline."""
    messages = []

    async def ask():
        async with AsyncQAClient(url, connection=settings, connect_timeout_s=ALLOWED_S) as client:
            await client.ask(question, context, timeout_s=ALLOWED_S)

    started = time.monotonic()
    with QAClient(url, connection=settings, connect_timeout_s=ALLOWED_S) as client:
        for attempt in (lambda: client.ask(question, context, timeout_s=ALLOWED_S), lambda: asyncio.run(ask())):
            with pytest.raises(TrustError) as caught:
                attempt()
            messages.append(str(caught.value))
    assert time.monotonic() - started < AT_ONCE_S
    assert messages[0] == messages[1]
    assert SECRET not in messages[0]
    return messages[0]


def test_tls_with_a_token(tritons, trusted, good):
    question, context, right = good[0]
    settings = _settings(trusted, "ca_file", "token", "token_header")
    for answer in _ask_both(_url(tritons[0]), settings, question, context):
        right.require_answer(answer)


def test_mutual_tls(tritons, trusted, good):
    question, context, right = good[1]
    settings = _settings(trusted, "ca_file", "certificate_file", "key_file", compression="gzip")
    for answer in _ask_both(_url(tritons[1]), settings, question, context):
        right.require_answer(answer)


def test_no_token_and_a_wrong_one(tritons, trusted, monkeypatch):
    url = _url(tritons[0])
    assert "wants other credentials" in _refused(url, _settings(trusted, "ca_file"))
    monkeypatch.setenv("WRONG", "wrong")
    assert "wants other credentials" in _refused(url, _settings(trusted, "ca_file", "token_header", token="env:WRONG"))


def test_wrong_certificates(tritons, trusted, tmp_path):
    stranger = certificates.Authority(tmp_path, "stranger")
    assert "signed by nobody who is trusted here" in _refused(
        _url(tritons[0]), _settings(trusted, "token", "token_header", ca_file=stranger.file)
    )
    assert "is for another name" in _refused(_url(tritons[0]), _settings(trusted, "ca_file", authority="qa.example"))
    assert "wants a client's certificate" in _refused(_url(tritons[1]), _settings(trusted, "ca_file"))
    certificate, key = stranger.issue("client")
    assert "does not take the client's certificate" in _refused(
        _url(tritons[1]), _settings(trusted, "ca_file", certificate_file=certificate, key_file=key)
    )


def test_tls_where_there_is_none_and_none_where_there_is(tritons, trusted, server):
    assert "does not speak TLS" in _refused(server.url, _settings(trusted, "ca_file"))
    assert "speaks TLS alone" in _refused(_url(tritons[0]), None)


def _ask_all(url, settings, items, disturb):
    """Asks through both faces at once, and disturbs amid it."""
    found = {}

    async def ask_async():
        async with AsyncQAClient(url, connection=settings) as client:
            return [answer async for answer in client.ask_many(items, concurrency=4, timeout_s=ALLOWED_S)]

    def ask():
        with QAClient(url, connection=settings) as client:
            found["sync"] = []
            for answer in client.ask_many(items, concurrency=4, timeout_s=ALLOWED_S):
                found["sync"].append(answer)
                if len(found["sync"]) == len(items) // 4:
                    amid.set()

    amid = threading.Event()
    threads = [
        threading.Thread(target=ask),
        threading.Thread(target=lambda: found.update(asyncio=asyncio.run(ask_async()))),
    ]
    for thread in threads:
        thread.start()
    assert amid.wait(ALLOWED_S)
    disturb()
    for thread in threads:
        thread.join()
    return [found["sync"], found["asyncio"]]


def test_of_two_servers_one_drains_and_no_question_is_lost(server, repository, good):
    items = [(question, context) for question, context, _ in good]
    with Server(repository) as second:
        answers = _ask_all(f"{server.url},{second.url}", None, items, second.stop)
    for one_face in answers:
        for answer, (_, _, right) in zip(one_face, good, strict=True):
            right.require_answer(answer)


def test_a_server_that_hangs_is_a_timeout_and_one_that_dies_loses_no_question(tritons, trusted, good):
    settings = _settings(trusted, *trusted)
    urls = ",".join(map(_url, tritons))
    (dying, _), question, context = tritons[1], *good[0][:2]
    os.kill(dying.pid, signal.SIGSTOP)
    try:
        with (
            QAClient(_url(tritons[1]), connection=settings) as client,
            pytest.raises(ServerUnavailable, match="no server answers"),
        ):
            client.ask(question, context, timeout_s=0.5)
    finally:
        os.kill(dying.pid, signal.SIGCONT)
    with QAClient(_url(tritons[1]), connection=settings) as client:
        client.ask(question, context)
        os.kill(dying.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Timeout, match=r"within 0\.5 s"):
                client.ask(question, context, timeout_s=0.5)
        finally:
            os.kill(dying.pid, signal.SIGCONT)

        items = [(question, context) for question, context, _ in good]
        for one_face in _ask_all(urls, settings, items, dying.kill):
            for answer, (_, _, right) in zip(one_face, good, strict=True):
                right.require_answer(answer)

        # Whoever asks it alone hears that it is gone.
        with pytest.raises(ServerUnavailable, match="UNAVAILABLE"):
            client.ask(question, context, timeout_s=0.5)


def test_ranked_contexts_and_the_retired_services_calls(server, heldout, offline):
    example = next(one for one in heldout if one.answers and offline.right(one.question, one.context).has_answer)
    others = [one.context for one in heldout if one.title != example.title][:9]
    contexts = [*others[:7], example.context, *others[7:]]
    with QAClient(server.url) as client:
        found = client.ask_contexts(example.question, contexts, top_n=5)
        alone = client.ask(example.question, example.context, distinct=True)
        response = client.natural_query(example.question, example.context, 2)
    assert 7 in [answer.context_index for answer in found.answers]
    margins = [answer.no_answer_margin for answer in found.answers]
    assert margins == sorted(margins)
    own = next(answer for answer in found.answers if answer.context_index == 7)
    assert (own.text, own.char_start) == (alone.text, alone.char_start)
    for answer in found.answers:
        assert contexts[answer.context_index][answer.char_start : answer.char_end] == answer.text
    assert response.results[0].answer == alone.text
    with pipeline("question-answering", server.url) as ask:
        result = ask(question=example.question, context=example.context)
    assert (result["answer"], result["start"], result["end"]) == (alone.text, alone.char_start, alone.char_end)
