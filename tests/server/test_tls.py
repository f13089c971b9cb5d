"""TLS and mutual TLS by Triton's flags: each way to ask is an answer or one sentence; the server asks itself so too."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spanqa.cli import main
from spanqa_client.client import QAClient
from spanqa_client.errors import TrustError
from spanqa_client.security import ConnectionSettings
from spanqa_server.checks import check_start
from spanqa_server.errors import TlsError
from spanqa_server.launch import TritonProcess
from spanqa_server.server import Server
from spanqa_server.settings import ServerSettings
from spanqa_server.shared_memory import RUN_FOLDER_PREFIX, RegionPrefix
from spanqa_server.tls import ServerTls
from spanqa_server.view import View

pytestmark = pytest.mark.triton
CERTIFICATES = Path(__file__).parents[1] / "client" / "certificates.py"
SPEC = importlib.util.spec_from_file_location("certificates", CERTIFICATES)
certificates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(certificates)
ALLOWED_S = 60.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return certificates.Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def issued(authority: Any, name: str, **how: Any) -> tuple[Path, Path]:
    certificate, key = authority.issue(name, **how)
    key.chmod(0o600)
    return certificate, key


@pytest.fixture(scope="module")
def mutual(
    authority: Any, tmp_path_factory: pytest.TempPathFactory, tools: Any, reports: list[str]
) -> Iterator[tuple[Server, list[str]]]:
    """A server with mutual TLS, whose key everybody can read; with the options of a client that it answers."""
    certificate, key = authority.issue("qa", ("qa.example", "*.qa.example"))
    key.chmod(0o644)
    own = issued(authority, "own")
    tls = ServerTls(certificate=certificate, key=key, client_ca=authority.file, own_certificate=own[0], own_key=own[1])
    folder = tools.write_repository(tmp_path_factory.mktemp("secured") / "models")
    client = issued(authority, "client")
    options = ["--tls-ca", authority.file, "--authority", "qa.example", "--tls-cert", client[0], "--tls-key", client[1]]
    with Server(folder, report=reports.append, canary_interval_s=0.5, tls=tls, host="0.0.0.0") as server:
        yield server, [*map(str, options)]


def health(url: str, *options: str) -> int:
    return main(["health", "--url", url, "--timeout", str(ALLOWED_S), *options])


def settings_of(options: list[str]) -> ConnectionSettings:
    given = dict(zip(options[::2], options[1::2], strict=True))
    return ConnectionSettings(
        ca_file=given.get("--tls-ca"),
        authority=given.get("--authority"),
        certificate_file=given.get("--tls-cert"),
        key_file=given.get("--tls-key"),
    )


def test_who_shows_a_certificate_of_the_ca_is_answered(mutual: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server, options = mutual
    assert health(server.url, *options) == 0
    assert capsys.readouterr().out.startswith(f"healthy: {server.url} answered in ")
    with QAClient(server.url, connection=settings_of(options)) as client:
        assert client.ask("How long is it?", "seven77").text == "7"


REFUSALS = {
    "no client certificate": (lambda options, _: options[:4], "the server wants a client's certificate: give one"),
    "a stranger's client certificate": (
        lambda options, other: [*options[:4], "--tls-cert", other[0], "--tls-key", other[1]],
        "the server does not take the client's certificate",
    ),
    "another CA": (lambda options, other: ["--tls-ca", other[2], *options[2:]], "signed by nobody who is trusted here"),
    "another name": (lambda options, _: [*options[:2], *options[4:]], "the server's certificate is for another name"),
    "without TLS": (lambda options, _: [], "the server speaks TLS alone: ask it with TLS"),
}


@pytest.mark.parametrize(("change", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_who_asks_otherwise_gets_one_sentence(
    mutual: Any, stranger: Any, change: Callable, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server, options = mutual
    certificate, key = issued(stranger, "other")
    changed = change(options, [str(certificate), str(key), str(stranger.file)])
    assert health(server.url, *changed) == 1
    # gRPC says more here, where it was used before the command could silence it.
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "ssl_transport_security" not in line]
    assert said.startswith(f"unhealthy: {server.url}: ")
    assert sentence in said
    with QAClient(server.url, connection=settings_of(changed)) as client, pytest.raises(TrustError, match=sentence):
        client.ask("How long is it?", "seven77", timeout_s=ALLOWED_S)


def test_http_which_has_no_tls_is_this_machine_s_alone(mutual: Any) -> None:
    server, _ = mutual
    assert server.http_url.startswith("127.0.0.1:")
    with urllib.request.urlopen(f"http://{server.http_url}/v2/health/ready", timeout=ALLOWED_S) as response:
        assert response.status == 200
    listening = {
        int(row.split()[1].partition(":")[2], 16): row.split()[1].partition(":")[0]
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if row.split()[3] == "0A"
    }
    assert listening[server.settings.http_port] == "0100007F"
    assert set(listening[server.settings.grpc_port]) == {"0"}


def test_old_versions_of_tls_are_refused(mutual: Any, authority: Any) -> None:
    server, _ = mutual
    context = ssl.create_default_context(cafile=str(authority.file))
    context.check_hostname = False
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", server.settings.grpc_port), ALLOWED_S) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain)


def test_a_readable_key_is_warned_of_by_its_path_alone(mutual: Any, reports: list[str]) -> None:
    server, _ = mutual
    key = server.settings.tls.key
    assert f"warning: {key} can be read by every user of this machine: chmod 600 it" in reports
    body = key.read_text().splitlines()[1]
    assert body not in "".join(reports) + server._supervisor._process.log() + repr(server.settings)
    (expiring,) = [line for line in reports if "expires in" in line]
    assert "expires in 2.0 days: renew it" in expiring or "expires in 1.9 days" in expiring


def test_a_lost_triton_comes_back_with_tls(mutual: Any, tools: Any) -> None:
    server, options = mutual
    before = server.triton_pid
    os.kill(before, signal.SIGKILL)
    tools.wait_until(lambda: server.triton_pid != before, ALLOWED_S)
    with QAClient(server.url, connection=settings_of(options), connect_timeout_s=ALLOWED_S) as client:
        assert client.ask("How long is it?", "seven77", timeout_s=ALLOWED_S).text == "7"


def test_a_served_repository_rolls_over_and_drains_with_tls(
    serve: Callable, tools: Any, repository: Path, authority: Any
) -> None:
    certificate, key = issued(authority, "server")
    shutil.rmtree(repository / "question_answering_ensemble")  # which is loaded last, and not asked here
    command = serve("--tls-cert", str(certificate), "--tls-key", str(key))
    url = command.wait_until_ready()
    settings = ConnectionSettings(ca_file=authority.file)
    with QAClient(url, connection=settings) as client:
        assert client.ask("How long is it?", "seven77").model_version == "1"
        for model in repository.iterdir():
            shutil.copytree(model / "1", model / "2")
        os.kill(command.pid, signal.SIGHUP)
        tools.wait_until(lambda: client.ask("How long is it?", "seven77").model_version == "2", ALLOWED_S)
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(client.ask("How long?", "slow" + 6 * "x").text))
        asking.start()
        time.sleep(0.2)  # it takes 0.4 s
        os.kill(command.pid, signal.SIGTERM)
        asking.join(ALLOWED_S)
    assert answers == ["10"]
    status, said = command.end()
    assert status == 0
    assert "gRPC speaks TLS alone" in said


@contextlib.contextmanager
def unchecked_triton(repository: Path, tls: ServerTls) -> Iterator[str]:
    """A Triton that is started with certificates which `spanqa serve` would refuse, or that have expired since."""
    settings, triton, models = check_start(ServerSettings(repository=repository))
    settings = replace(settings, tls=tls)
    folder = Path(tempfile.mkdtemp(prefix=RUN_FOLDER_PREFIX))
    regions = RegionPrefix(folder)
    try:
        view = View(folder / "view", repository)
        view.show(models)
        (folder / "run").mkdir()
        process = TritonProcess(settings, triton, models, view, folder / "run", regions)
        try:
            yield settings.url(settings.grpc_port)
        finally:
            process.kill()
    finally:
        regions.release()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_certificate_that_has_expired_since_is_told_to_who_asks(
    repository: Path, authority: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    certificate, key = issued(authority, "expired", days=(-9, -1))
    with unchecked_triton(repository, ServerTls(certificate=certificate, key=key)) as url:
        connection = ConnectionSettings(ca_file=authority.file)
        with (
            QAClient(url, connection=connection, connect_timeout_s=ALLOWED_S) as client,
            pytest.raises(TrustError, match="the server's certificate has expired: it must be renewed"),
        ):
            client.ask("How long is it?", "seven77", timeout_s=ALLOWED_S)
        assert health(url, "--tls-ca", str(authority.file)) == 1
    assert "certificate has expired" in capfd.readouterr().err


def _refused(repository: Path, **files: Path) -> str:
    with pytest.raises(TlsError) as caught:
        Server(repository, tls=ServerTls(**files)).start()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_that_cannot_be_right_are_refused_before_triton_starts(
    repository: Path, authority: Any, stranger: Any, tmp_path: Path
) -> None:
    certificate, key = issued(authority, "right")
    _, other_key = issued(authority, "wrong")
    expired, expired_key = issued(authority, "past", days=(-9, -1))
    nameless, nameless_key = issued(authority, "nameless", hosts=())
    listed, listed_key = issued(authority, "listed", hosts=("/a server in a directory",))
    foreign, foreign_key = issued(stranger, "foreign")
    absent = tmp_path / "absent.pem"
    assert "has expired" in _refused(repository, certificate=expired, key=expired_key)
    assert "no certificate and its key" in _refused(repository, certificate=certificate, key=other_key)
    assert "cannot be read: No such file" in _refused(repository, certificate=absent, key=key)
    assert "is for no name" in _refused(repository, certificate=nameless, key=nameless_key)
    assert "is for no name" in _refused(repository, certificate=listed, key=listed_key)
    assert "holds no certificate" in _refused(repository, certificate=certificate, key=key, client_ca=key)
    assert "does not vouch for" in _refused(repository, certificate=foreign, key=foreign_key, client_ca=authority.file)
    assert "needs its key" in _refused(repository, certificate=certificate, key=key, own_certificate=certificate)
    assert "mutual TLS only" in _refused(
        repository, certificate=certificate, key=key, own_certificate=certificate, own_key=key
    )


def test_an_encrypted_key_is_refused(repository: Path, authority: Any, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    certificate, key = issued(authority, "locked")
    opened = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        opened.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    assert "the key is encrypted" in _refused(repository, certificate=certificate, key=key)


@pytest.mark.parametrize("given", [["--tls-cert", "a.pem"], ["--tls-key", "a.key"], ["--tls-client-ca", "a.pem"]])
def test_half_of_the_options_is_refused(repository: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--repository", str(repository), *given]) == 2
    assert "give both --tls-cert and --tls-key" in capsys.readouterr().err
