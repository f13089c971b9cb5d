"""What a cluster rejects or leaves unanswered is sent again, or told: no passage is lost, and none is there twice."""

import random
import time
from collections import deque

import pytest

from spanqa_retrieval import opensearch_connection
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.opensearch_engine import open_opensearch

pytestmark = pytest.mark.usefixtures("_surroundings")


def passage(text, document="d", **fields):
    return Passage(**({"document": document, "title": "", "text": text, "char_start": 0} | fields))


def record(name, n_passages=1):
    return SourceRecord(name=name, fingerprint="f", n_documents=1, n_passages=n_passages, n_chars=9)


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


def test_rejected_documents_are_sent_again_and_none_is_lost_or_doubled(index, cluster, filled, kinds):
    drawn = random.Random(5)
    cluster.rejects = lambda identity: drawn.random() < 0.4
    cluster.faults["bulk"].extend([429, None, 503, "lose", "drop"])
    texts = [f"bridge {number}" for number in range(700)]
    filled(index, a=[passage(text) for text in texts], b=[passage("other")])
    cluster.rejects = lambda identity: False
    assert sorted(hit.passage.text for hit in index.search("bridge", top_k=1000)) == sorted(texts)
    assert kinds(cluster) == {"passage": 701, "source": 2}


def test_a_source_has_a_record_only_once_all_its_passages_are_there(index, cluster, filled, kinds):
    cluster.rejects = lambda identity: identity.endswith("-1")
    with pytest.raises(CollectionError) as raised:
        filled(index, a=[passage("one"), passage("two")])
    assert str(raised.value) == (
        f"opensearch://{cluster.host}/docs: 1 documents were rejected 9 times, first one of a (rejected execution of "
        "coordinating operation): see to the cluster, then run this again"
    )
    assert kinds(cluster) == {"passage": 1, "unfinished": 1}


def test_a_document_that_is_refused_is_named_at_once(index, cluster, filled):
    with pytest.raises(CollectionError, match=r"1 documents were refused, first one of xxx.* \(Document contains at"):
        filled(index, **{"x" * 40_000: [passage("one")]})
    assert cluster.requests.count("bulk") == 1


def test_a_cluster_that_stays_overloaded_is_given_up(index, cluster, filled):
    cluster.faults["search"].extend([429] * 20)
    with pytest.raises(CollectionError, match=r"too much to do, or is not ready \(no more requests \(429\)\): try"):
        index.search("x", top_k=1)
    assert len(cluster.faults["search"]) == 20 - opensearch_connection.TRIES
    cluster.faults["search"].clear()
    cluster.faults["bulk"].extend([503] * 20)
    with pytest.raises(CollectionError, match="too much to do"):
        filled(index, a=[passage("one")])
    assert len(cluster.faults["bulk"]) == 20 - opensearch_connection.PATIENT_TRIES
    cluster.faults.clear()
    assert found(filled(index, a=[passage("one")]), "one") == ["one"]


def test_the_first_cause_is_the_one_that_is_told():
    cause = {"root_cause": [{"type": "t", "reason": "the\ncause"}], "reason": "all shards failed"}
    assert opensearch_connection.reason_of({"error": cause, "status": 400}) == "the\\ncause"
    assert opensearch_connection.reason_of({"error": "x" * 400}) == "x" * 300 + "..."
    assert opensearch_connection.reason_of(ValueError("x")) == opensearch_connection.reason_of({}) == ""


def test_waits_grow_to_a_bound_and_differ(monkeypatch):
    monkeypatch.setattr(opensearch_connection, "FIRST_BACKOFF_S", 0.2)
    waits = list(opensearch_connection.backoffs(12))
    assert len(waits) == 11
    assert 0.1 <= waits[0] <= 0.3
    assert 15 <= waits[-1] <= 45
    assert waits != list(opensearch_connection.backoffs(12))


def test_passing_faults_are_not_noticed(index, cluster, filled):
    for fault in (429, 502, 503, 504, "drop", "lose"):
        for operation in ("search", "index", "get", "delete", "bulk", "refresh", "delete_by_query", "mapping", "stats"):
            cluster.faults[operation] = deque([fault])
        filled(index, **{f"source {fault}": [passage(f"bridge {fault}")]})
        with index.writer() as writer:
            writer.remove(f"source {fault}")
            writer.add(f"source {fault}", [passage(f"tower {fault}")])
            writer.finish(record(f"source {fault}"))
            writer.commit()
    assert len(found(index, "tower")) == len(index.sources()) == 6
    assert found(index, "bridge") == []


def test_a_slow_answer_ends_a_question_and_not_hours_of_work(cluster, address, index, monkeypatch, filled):
    monkeypatch.setattr(opensearch_connection, "ANSWER_S", 0.5)
    index = open_opensearch(address)
    cluster.delays["search"] = 1.0
    with pytest.raises(CollectionError, match="no answer in time: try again"):
        index.search("x", top_k=1)
    assert cluster.requests.count("search") == 1
    del cluster.delays["search"]
    cluster.first["bulk"] = lambda: time.sleep(1.0)
    assert found(filled(index, a=[passage("one")]), "one") == ["one"]


def test_conflicts_of_a_deletion_are_met_by_another_one(index, cluster, filled, kinds):
    def other_writer():
        documents = cluster.indexes["docs"]
        for identity, (_, source) in list(documents.documents.items()):
            if source["kind"] == "passage":
                documents.write(identity, source)

    filled(index, a=[passage("one"), passage("two")])
    cluster.first["delete_by_query"] = other_writer
    with index.writer() as writer:
        writer.remove("a")
        writer.commit()
    assert cluster.requests.count("delete_by_query") == 2
    assert kinds(cluster) == {}
