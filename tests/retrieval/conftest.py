"""A stand-in for OpenSearch with an index on it, and what is read of a file."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from spanqa_retrieval import opensearch_connection
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.opensearch_connection import CA, PASSWORD, USER
from spanqa_retrieval.opensearch_engine import create_opensearch
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import find_sources

SPEC = importlib.util.spec_from_file_location("opensearch_fake", Path(__file__).with_name("opensearch_fake.py"))
stand_in = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(stand_in)


def record(name, n_passages=1):
    return SourceRecord(name=name, fingerprint="f", n_documents=1, n_passages=n_passages, n_chars=9)


@pytest.fixture(scope="session")
def opensearch_fake():
    """What stands in for OpenSearch; a file of its own, since tests cannot import each other."""
    return stand_in


@pytest.fixture
def _surroundings(monkeypatch):
    """No settings of whoever runs the tests, and short waits."""
    for name in (USER, PASSWORD, CA):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(opensearch_connection, "FIRST_BACKOFF_S", 0.0005)


@pytest.fixture
def cluster(opensearch_fake):
    with opensearch_fake.FakeOpenSearch() as fake:
        yield fake


@pytest.fixture
def address(cluster):
    return f"opensearch://{cluster.host}/docs"


@pytest.fixture
def index(address):
    """An index on OpenSearch, empty."""
    return create_opensearch(address, IndexSettings())


@pytest.fixture(scope="session")
def filled():
    """Fills an index with the passages of sources, and gives it."""

    def fill(index, **passages_of):
        with index.writer() as writer:
            for source, passages in passages_of.items():
                writer.add(source, passages)
                writer.finish(record(source, len(passages)))
            writer.commit()
        return index

    return fill


@pytest.fixture(scope="session")
def kinds():
    """Counts what a cluster holds."""

    def count(cluster, *, visible=False):
        """How many documents of each kind there are."""
        documents = cluster.indexes["docs"].visible if visible else cluster.indexes["docs"].documents
        return Counter(source["kind"] for _, source in documents.values())

    return count


@pytest.fixture
def documents(tmp_path):
    """Reads the documents of a file with a content, all defects told but none expected."""

    def read(name, content, told=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (source,) = find_sources([path], pytest.fail)
        return list(read_documents(source, pytest.fail if told is None else told.append))

    return read


@pytest.fixture
def document(documents):
    """Reads the one document of a file."""

    def read(name, content, told=None):
        (made,) = documents(name, content, told)
        return made

    return read


@pytest.fixture
def problem(documents, tmp_path):
    """Gives what is said of a file that cannot be read, without its path."""

    def read(name, content, told=None):
        with pytest.raises(SourceError) as caught:
            documents(name, content, told)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}/{name}: ")
        assert message.isprintable()
        return message.removeprefix(f"{tmp_path}/{name}: ")

    return read
