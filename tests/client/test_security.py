"""TLS, mutual TLS, tokens: each fault is one sentence at once, in both faces."""

import os
import time

import grpc
import pytest

from spanqa.errors import InputError
from spanqa_client.async_client import AsyncQAClient
from spanqa_client.client import QAClient
from spanqa_client.errors import ServerUnavailable, TrustError
from spanqa_client.security import ConnectionSettings

QUESTION, CONTEXT = "Where is Rome?", "Rome lies in Italy."
AT_ONCE_S = 10.0
"""Far below the time allowed, however busy the machine."""
ALLOWED_S = 60.0


@pytest.fixture(scope="module")
def authority(authority_class, tmp_path_factory):
    return authority_class(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(authority_class, tmp_path_factory):
    return authority_class(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def serve(authority, start_triton):
    """Starts a fake with TLS."""

    def start(*, days=(-1, 2), hosts=("localhost", "127.0.0.1"), mutual=False):
        certificate, key = authority.issue("server", hosts, days=days)
        roots = authority.file.read_bytes() if mutual else None
        return start_triton(grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())], roots, mutual))

    return start


def test_tls_with_ones_own_ca_and_several_rows(face, serve, authority):
    with face(serve().url, connection=ConnectionSettings(ca_file=authority.file)) as client:
        client.check()
        assert client.ask(QUESTION, CONTEXT).text == "Rome"
        assert [answer.text for answer in client.ask_rows([(QUESTION, CONTEXT)])] == ["Rome"]


def test_a_bundle_of_cas_may_hold_comments_in_any_language(serve, authority, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes("# Főtanúsítvány\n".encode() + authority.file.read_bytes())
    with QAClient(serve().url, connection=ConnectionSettings(ca_file=bundle)) as client:
        assert client.ask(QUESTION, CONTEXT).text == "Rome"
    bundle.write_text("# nincs tanúsítvány\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no certificate in PEM"):
        QAClient("localhost:1", connection=ConnectionSettings(ca_file=bundle))


def test_grpcs_own_credentials_are_taken_too(serve, authority):
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with QAClient(serve().url, credentials=credentials) as client:
        assert client.ask(QUESTION, CONTEXT).text == "Rome"


def _refused(face, url, settings):
    started = time.monotonic()
    with (
        face(url, connection=settings, connect_timeout_s=ALLOWED_S) as client,
        pytest.raises(TrustError) as caught,
    ):
        client.ask(QUESTION, CONTEXT, timeout_s=ALLOWED_S)
    assert time.monotonic() - started < AT_ONCE_S
    assert isinstance(caught.value, ServerUnavailable)
    message = str(caught.value)
    assert url in message
    assert "\n" not in message
    return message


def test_a_certificate_of_an_unknown_ca(face, serve, stranger):
    assert "signed by nobody who is trusted here: give the CA" in _refused(
        face, serve().url, ConnectionSettings(ca_file=stranger.file)
    )


def test_the_cas_that_grpc_brings_do_not_know_ours(serve):
    assert "signed by nobody who is trusted here" in _refused(QAClient, serve().url, ConnectionSettings(tls=True))


def test_an_expired_certificate(face, serve, authority):
    url = serve(days=(-9, -1)).url
    assert "certificate has expired: it must be renewed" in _refused(
        face, url, ConnectionSettings(ca_file=authority.file)
    )


def test_a_certificate_that_is_not_valid_yet(serve, authority):
    url = serve(days=(1, 2)).url
    assert "not valid yet" in _refused(QAClient, url, ConnectionSettings(ca_file=authority.file))


def test_a_certificate_for_another_name_and_the_authority_that_mends_it(face, serve, authority):
    url = serve(hosts=("qa.example",)).url
    message = _refused(face, url, ConnectionSettings(ca_file=authority.file))
    assert "is for another name" in message
    with face(url, connection=ConnectionSettings(ca_file=authority.file, authority="qa.example")) as client:
        assert client.ask(QUESTION, CONTEXT).text == "Rome"


def test_a_plain_server_asked_with_tls(face, triton, authority):
    assert "does not speak TLS" in _refused(face, triton.url, ConnectionSettings(ca_file=authority.file))


def test_a_server_with_tls_asked_without(face, serve):
    assert "speaks TLS alone: ask it with TLS" in _refused(face, serve().url, None)


def test_mutual_tls(face, serve, authority):
    certificate, key = authority.issue("client")
    settings = ConnectionSettings(ca_file=authority.file, certificate_file=certificate, key_file=key)
    with face(serve(mutual=True).url, connection=settings) as client:
        assert client.ask(QUESTION, CONTEXT).text == "Rome"


def test_mutual_tls_without_a_certificate(face, serve, authority):
    message = _refused(face, serve(mutual=True).url, ConnectionSettings(ca_file=authority.file))
    assert "wants a client's certificate" in message


def test_mutual_tls_with_a_certificate_of_another_ca(face, serve, authority, stranger):
    certificate, key = stranger.issue("client")
    settings = ConnectionSettings(ca_file=authority.file, certificate_file=certificate, key_file=key)
    message = _refused(face, serve(mutual=True).url, settings)
    assert "does not take the client's certificate" in message
    assert str(certificate) in message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, b: {"ca_file": a.parent / "none.pem"}, "cannot be read: No such file"),
        (lambda a, b: {"ca_file": b}, "holds no certificate in PEM"),
        (lambda a, b: {"certificate_file": a}, "the client's certificate is given without its key"),
        (lambda a, b: {"key_file": b}, "the client's key is given without its certificate"),
        (lambda a, b: {"certificate_file": b, "key_file": a}, "no certificate and its key in PEM"),
        (lambda a, b: {"certificate_file": a, "key_file": a.parent / "none.key"}, "client's key cannot be read"),
        (lambda a, b: {"compression": "lz4"}, "give none or gzip"),
        (lambda a, b: {"keepalive_s": 0}, "keepalive_s is 0"),
        (lambda a, b: {"token_header": "Bad Header"}, "the token's header is 'Bad Header'"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_before_anything_is_asked(authority, spoil, message):
    with pytest.raises(InputError, match=message):
        QAClient("localhost:1", connection=ConnectionSettings(**spoil(*authority.issue("refused"))))


def test_a_bearer_token_goes_with_every_call_and_never_into_a_text(face, serve, authority, monkeypatch):
    monkeypatch.setenv("QA_TOKEN", "se-cret\n")
    server = serve()
    settings = ConnectionSettings(ca_file=authority.file, token="env:QA_TOKEN")
    with face(server.url, connection=settings) as client:
        client.ask(QUESTION, CONTEXT)
        server.script.append((grpc.StatusCode.UNAUTHENTICATED, "no"))
        with pytest.raises(TrustError, match="wants other credentials") as caught:
            client.ask(QUESTION, CONTEXT)
    assert [sent["authorization"] for sent in server.metadata] == ["Bearer se-cret"] * 2
    assert "se-cret" not in str(caught.value) + repr(settings) + repr(ConnectionSettings(token="se-cret"))


def test_a_tokens_file_is_read_again_when_it_changes(triton, tmp_path):
    path = tmp_path / "token"
    path.write_text("first")
    settings = ConnectionSettings(token=f"@{path}", token_header="x-token")
    with QAClient(triton.url, connection=settings) as client:
        client.ask(QUESTION, CONTEXT)
        path.write_text("second")
        os.utime(path, ns=(1, 1))
        client.ask(QUESTION, CONTEXT)
        path.unlink()
        with pytest.raises(InputError, match="cannot be read"):
            client.ask(QUESTION, CONTEXT)
    assert [sent["x-token"] for sent in triton.metadata] == ["first", "second"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("env:NO_SUCH_TOKEN", "NO_SUCH_TOKEN is not set"),
        ("@/no/such/file", "cannot be read"),
        ("", "the token is empty"),
        ("one\ntwo-secret", "holds more than one line"),
        ("schlüssel", "beyond ASCII"),
    ],
)
def test_a_token_that_is_none_is_refused_without_being_told(token, message):
    with pytest.raises(InputError, match=message) as caught:
        QAClient("localhost:1", connection=ConnectionSettings(token=token))
    assert "secret" not in str(caught.value)
    assert "schlüssel" not in str(caught.value)


@pytest.mark.parametrize("url", ["qa.example:8001", "127.0.0.1:1,10.0.0.1:1", "dns:qa.example:8001"])
@pytest.mark.parametrize("kind", [QAClient, AsyncQAClient])
def test_a_token_does_not_travel_over_an_open_network(kind, url):
    with pytest.raises(InputError, match="would travel open"):
        kind(url, connection=ConnectionSettings(token="x"))


@pytest.mark.parametrize("url", ["localhost:1", "127.0.0.1:1", "[::1]:1"])
def test_a_token_may_go_to_this_very_machine(url):
    QAClient(url, connection=ConnectionSettings(token="x")).close()


def test_what_stays_on_this_machine_goes_through_no_proxy(face, triton, monkeypatch):
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with face(triton.url, connection=ConnectionSettings(token="x"), connect_timeout_s=0.5) as client:
        assert client.ask(QUESTION, CONTEXT).text == "Rome"


def test_compression_and_keepalive_change_no_answer(face, triton):
    settings = ConnectionSettings(compression="gzip", keepalive_s=10.0)
    with face(triton.url, connection=settings) as client:
        assert client.ask(QUESTION, CONTEXT + " x" * 50_000).text == "Rome"
