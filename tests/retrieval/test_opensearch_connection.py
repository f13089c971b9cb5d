"""A wrong address, user or certificate of an OpenSearch is told in one sentence, which repeats no password."""

import ipaddress
import ssl
from datetime import datetime, timedelta, timezone

import pytest

from spanqa_retrieval.document import Passage
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.opening import open_index
from spanqa_retrieval.opensearch_connection import CA, PASSWORD, USER, Address, parse_address
from spanqa_retrieval.opensearch_engine import create_opensearch, open_opensearch
from spanqa_retrieval.settings import IndexSettings

pytestmark = pytest.mark.usefixtures("_surroundings")
SECRET = "pä:ss wörd@1"


def passage(text, document="d", **fields):
    return Passage(**({"document": document, "title": "", "text": text, "char_start": 0} | fields))


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("opensearch://host/docs", Address(host="host", port=9200, tls=False, name="docs")),
        ("opensearchs://host:443/a-b_1.c/", Address(host="host", port=443, tls=True, name="a-b_1.c")),
        ("opensearch://[::1]:92/docs", Address(host="::1", port=92, tls=False, name="docs")),
    ],
)
def test_an_address_is_read(text, expected):
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("opensearch://host", "give opensearch://HOST:PORT/NAME"),
        ("opensearch:///docs", "give opensearch://HOST:PORT/NAME"),
        ("opensearch://host:x/docs", "give opensearch://HOST:PORT/NAME"),
        ("opensearch://host:99999/docs", "give opensearch://HOST:PORT/NAME"),
        ("opensearch://host:0/docs", "give opensearch://HOST:PORT/NAME"),
        ("opensearch://host/docs?x=1", "give opensearch://HOST:PORT/NAME"),
        ("https://host/docs", "give opensearch://HOST:PORT/NAME"),
        *((f"opensearch://host/{name}", "name is") for name in ("Docs", "_all", "a,b", "a*", "-a", "a/b", "<a>")),
        (f"opensearch://host/{'a' * 201}", "name is"),
    ],
)
def test_an_address_that_is_none_is_said_in_one_sentence(text, message):
    with pytest.raises(CollectionError, match=message):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    ["opensearch://bob:secret@host/docs", "opensearch://bob@host/docs", "opensearch://bob:se/cret@host:x/docs"],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text):
    with pytest.raises(CollectionError) as raised:
        open_index(text)
    assert "SPANQA_OPENSEARCH_PASSWORD" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "bob" not in str(raised.value)


@pytest.fixture
def guarded(opensearch_fake, tmp_path, monkeypatch):
    """A cluster with TLS that asks for a user, and the file of its certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "spanqa test")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    monkeypatch.setenv(USER, "bob")
    monkeypatch.setenv(PASSWORD, SECRET)
    monkeypatch.setenv(CA, str(public))
    with opensearch_fake.FakeOpenSearch(credentials=("bob", SECRET), tls=context) as fake:
        yield fake


def test_tls_and_a_user_with_any_password(guarded, filled):
    index = create_opensearch(f"opensearchs://{guarded.host}/docs", IndexSettings())
    assert found(filled(index, a=[passage("A bridge.")]), "bridge") == ["A bridge."]


@pytest.mark.parametrize(
    ("settings", "scheme", "message"),
    [
        ({PASSWORD: "wrong"}, "opensearchs", "the user is not known there, or has another password: set SPANQA_OPEN"),
        ({USER: "", PASSWORD: ""}, "opensearchs", "it asks for a user: set SPANQA_OPENSEARCH_USER and"),
        ({PASSWORD: ""}, "opensearchs", "set both or neither"),
        ({USER: ""}, "opensearchs", "set both or neither"),
        ({USER: "a:b"}, "opensearchs", "set both or neither"),
        ({CA: ""}, "opensearchs", r"its certificate is not trusted \(.*self.signed certificate\): name the file of"),
        ({CA: "/missing.pem"}, "opensearchs", "is '/missing.pem', which holds no certificate: name a PEM file"),
        ({CA: __file__}, "opensearchs", "which holds no certificate: name a PEM file"),
        ({}, "opensearch", "no OpenSearch answers there.*: start it, or give its address, opensearchs:// where it"),
    ],
)
def test_who_is_not_let_in_is_told_why_and_no_password(guarded, monkeypatch, caplog, settings, scheme, message):
    caplog.set_level(0)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CollectionError, match=message) as raised:
        open_opensearch(f"{scheme}://{guarded.host}/docs")
    error: BaseException | None = raised.value
    while error:
        assert not any(secret in f"{error} {error!r}" for secret in (SECRET, "wrong", "Basic"))
        error = error.__cause__ or error.__context__
    assert SECRET not in caplog.text
    assert "Basic" not in caplog.text


def test_a_certificate_of_another_host_is_not_trusted(guarded):
    with pytest.raises(CollectionError, match=r"its certificate is not trusted \(.*[Hh]ostname"):
        open_opensearch(f"opensearchs://{guarded.host.replace('127.0.0.1', 'localhost')}/docs")


def test_no_redirect_is_followed(cluster, address, monkeypatch):
    monkeypatch.setenv(USER, "bob")
    monkeypatch.setenv(PASSWORD, SECRET)
    cluster.faults["mapping"].append("redirect")
    with pytest.raises(CollectionError, match=r"answers with a redirect \(HTTP 302\), which is not followed"):
        open_opensearch(address)
    assert cluster.requests == ["mapping"]


def test_where_no_opensearch_is_that_is_said(cluster, address):
    cluster.faults["mapping"].append("text")
    with pytest.raises(CollectionError, match="no OpenSearch answers there: give the address of one"):
        open_opensearch(address)
    cluster.server.server_close()
    cluster.server.shutdown()
    with pytest.raises(CollectionError, match=r"no OpenSearch answers there \(Connection refused\): start it, or"):
        open_opensearch(address)


def test_tls_where_there_is_none_is_said(cluster):
    with pytest.raises(CollectionError, match="no TLS is spoken there: give opensearch:// where the cluster has none"):
        open_opensearch(f"opensearchs://{cluster.host}/docs")
