"""An index on OpenSearch has one writer: its lock is renewed while held, given back, and taken over once stale."""

import json
import time
from contextlib import suppress

import pytest

from spanqa_retrieval import opensearch_lock
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.opensearch_connection import Connection, parse_address
from spanqa_retrieval.opensearch_engine import open_opensearch

pytestmark = pytest.mark.usefixtures("_surroundings")


def passage(text, document="d", **fields):
    return Passage(**({"document": document, "title": "", "text": text, "char_start": 0} | fields))


def record(name, n_passages=1):
    return SourceRecord(name=name, fingerprint="f", n_documents=1, n_passages=n_passages, n_chars=9)


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


def test_one_writer_at_a_time(index, address, cluster, kinds):
    busy = r"another process writes the index \(process \d+ on .*, last seen \d+ s ago\): wait until it has ended, or 3"
    with index.writer(), pytest.raises(BusyError, match=busy), open_opensearch(address).writer():
        pass
    with open_opensearch(address).writer() as writer:
        writer.commit()
    assert kinds(cluster) == {}


def test_a_lock_is_renewed_while_it_is_held_whatever_fails_in_between(index, address, cluster, monkeypatch, kinds):
    def written():
        return json.loads(cluster.indexes["docs"].documents["lock"][1]["kept"])["written"]

    monkeypatch.setattr(opensearch_lock, "RENEW_S", 0.01)
    with index.writer() as writer:
        before = written()
        cluster.faults["index"].extend([None, 503, "lose", 503, 503, 503, 503])
        end = time.monotonic() + 30
        while cluster.faults["index"] and time.monotonic() < end:
            time.sleep(0.01)
        writer.commit()
        assert written() > before
        with pytest.raises(BusyError), open_opensearch(address).writer():
            pass
    assert kinds(cluster) == {}


def test_a_lock_whose_last_renewal_went_unanswered_is_given_back(index, address, cluster, kinds):
    with index.writer() as writer:
        cluster.faults["index"].extend(["lose", 503, 503, 503, 503, 503, 503, 503, 503])
        with suppress(CollectionError), writer._lock._mutex:
            writer._lock._renew()
        cluster.faults["index"].clear()
    assert kinds(cluster) == {}


def test_a_stale_lock_is_taken_over_and_whoever_had_it_writes_no_more(
    index, address, cluster, monkeypatch, filled, kinds
):
    with index.writer() as sleeper:
        sleeper.add("a", [passage("sleeper's")])
        # As after a sleep of its machine.
        monkeypatch.setattr(opensearch_lock, "STALE_S", 0.0)
        filled(open_opensearch(address), a=[passage("other's")])
        sleeper._lock._written = 0.0
        sleeper.finish(record("a"))
        with pytest.raises(BusyError, match="another process writes the index: wait"):
            sleeper.commit()
    assert found(index, "sleeper's other's") == ["other's"]
    assert kinds(cluster) == {"passage": 1, "source": 1}


def test_of_two_that_take_over_a_stale_lock_one_gets_it(index, address, cluster, monkeypatch, kinds):
    lock = opensearch_lock.Lock(Connection(parse_address(address)))
    lock.acquire()
    monkeypatch.setattr(opensearch_lock, "STALE_S", 0.0)
    first, second = (opensearch_lock.Lock(Connection(parse_address(address))) for _ in range(2))
    # Both have seen the old one.
    cluster.first["get"] = lambda: cluster.first.update(index=first.acquire)
    with pytest.raises(BusyError):
        second.acquire()
    first.check()
    first.release()
    lock.release()
    assert kinds(cluster) == {}
