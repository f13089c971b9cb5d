"""An index on OpenSearch, against a stand-in that takes documented requests only: no cluster has seen this."""

import pytest

from spanqa_retrieval import opensearch_engine, opensearch_writer
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.opensearch_engine import create_opensearch, open_opensearch, opensearch_exists
from spanqa_retrieval.settings import STEMMERS, IndexSettings

pytestmark = pytest.mark.usefixtures("_surroundings")


def passage(text, document="d", **fields):
    return Passage(**({"document": document, "title": "", "text": text, "char_start": 0} | fields))


def record(name, n_passages=1):
    return SourceRecord(name=name, fingerprint="f", n_documents=1, n_passages=n_passages, n_chars=9)


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


def test_what_was_added_is_found_as_it_was(index, address, filled):
    added = passage(
        "Ten bridges\nwere built.", title="Rome", char_start=7, page_starts=(0, 4), first_page=3,
        metadata={"year": 1999, "lang": "en", "public": True, "size": 1.5},
    )  # fmt: skip
    filled(index, a=[added])
    opened = open_opensearch(address)
    (hit,) = opened.search("BRIDGES", top_k=5)
    assert hit.passage == added
    assert hit.score > 0
    assert opened.settings == index.settings == IndexSettings()
    assert opened.sources() == {"a": record("a")}
    assert opened.n_bytes() > 0


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("BRIDGE", "Old bridge."),
        ("東京の塔", "その塔は東京にある。"),
        ("où est l'École", "L'école est là."),
        ("สะพาน", "สะพานเก่า"),
        ("c++ AND (bridge OR \"x y\") -z ~ * ? : \\ _exists_:text {!} text:/.*/", "A bridge."),
        ("bridge \udcff half a pair", "A bridge."),
        (" ".join(f"word{number}" for number in range(9)) * 200 + " bridge", "word0 of many"),
        ("塔" + "".join(map(chr, range(0x4E00, 0x5800))), "塔"),
    ],
)  # fmt: skip
def test_no_character_of_a_query_is_an_operator_and_none_is_too_long(index, query, text, filled):
    filled(index, a=[passage(text), passage("nothing like that"), passage("q")])
    assert found(index, query)[0] == text
    assert "nothing like that" not in found(index, query)


@pytest.mark.parametrize("query", ["", " ", "?!", "x" * 100_000, "unknown", "title:Rome"])
def test_a_query_of_which_no_word_is_there_finds_nothing(index, query, filled):
    assert found(filled(index, a=[passage("A bridge.")]), query) == []


def test_a_word_that_is_said_twice_counts_once(index, filled):
    filled(index, a=[passage("old old bridge"), passage("new tower")])
    (once,), (twice,) = index.search("the bridge", top_k=1), index.search("the Bridge, the bridge", top_k=1)
    assert once.score == twice.score


def test_a_title_counts_what_the_settings_say(cluster, filled):
    in_text, in_title = passage("A bridge of stone."), passage("Of stone, long ago.", title="Bridge")
    for weight, expected in ((0.0, [in_text.text]), (5.0, [in_title.text, in_text.text])):
        index = create_opensearch(f"opensearch://{cluster.host}/w{weight}", IndexSettings(title_weight=weight))
        assert found(filled(index, a=[in_text, in_title]), "bridge") == expected


def test_filters_keep_what_has_one_of_the_values_of_each_key_and_weigh_nothing(index, filled):
    filled(
        index,
        a=[
            passage("bridge one", metadata={"lang": "en", "year": 1999}),
            passage("bridge two", metadata={"lang": "en", "year": 2000}),
            passage("bridge three", metadata={"lang": "de", "year": 2000, "note": "ö" * 40_000}),
            passage("bridge four"),
        ],
    )
    assert found(index, "bridge", filters={"lang": ["en"], "year": [2000, 2001]}) == ["bridge two"]
    either = found(index, "bridge", filters={"year": ["1999", 2000]})
    assert sorted(either) == ["bridge one", "bridge three", "bridge two"]
    assert found(index, "bridge", filters={"lang": []}) == found(index, "bridge", filters={"lang": ["\udcff"]}) == []
    scores = {hit.score for hit in index.search("bridge", top_k=9)}
    assert {hit.score for hit in index.search("bridge", top_k=9, filters={"lang": ["en"]})} <= scores


@pytest.mark.parametrize("stemmer", STEMMERS)
def test_every_stemmer_is_one_that_opensearch_documents_or_refused(cluster, stemmer):
    address = f"opensearch://{cluster.host}/{stemmer}"
    if stemmer in opensearch_engine.UNKNOWN_LANGUAGES:
        with pytest.raises(CollectionError, match=r"OpenSearch does not have: give one of arabic, .*, none"):
            create_opensearch(address, IndexSettings(stemmer=stemmer))
    else:
        assert create_opensearch(address, IndexSettings(stemmer=stemmer)).settings.stemmer == stemmer


def test_a_source_is_removed_whole_and_no_other(index, cluster, filled, kinds):
    filled(index, a=[passage(f"bridge a{number}") for number in range(5)], ab=[passage("bridge ab")])
    with index.writer() as writer:
        writer.remove("a")
        writer.remove("unknown")
        writer.commit()
        assert list(writer.sources()) == ["ab"]
    assert found(index, "bridge") == ["bridge ab"]
    assert kinds(cluster) == {"passage": 1, "source": 1}


def test_a_source_that_shrinks_leaves_no_passage_behind(index, cluster, filled, kinds):
    filled(index, a=[passage("old one"), passage("old two")])
    with index.writer() as writer:
        writer.remove("a")
        writer.add("a", [passage("new one"), passage("new two")])
        writer.remove("a")  # its reading failed halfway
        writer.remove("a")
        writer.add("a", [passage("newest one")])
        writer.finish(record("a"))
        writer.commit()
    assert found(index, "old new newest one two") == ["newest one"]
    assert kinds(cluster) == {"passage": 1, "source": 1}


def test_what_is_new_is_seen_at_a_commit_and_what_is_unfinished_never(index, address, cluster, filled, kinds):
    filled(index, a=[passage("bridge a")])
    reader = open_opensearch(address)
    with index.writer() as writer:
        writer.add("b", [passage(f"bridge b{number}") for number in range(1200)])  # more than a bulk
        writer.remove("a")
        reader.refresh()
        assert found(reader, "bridge") == ["bridge a"]
    assert found(reader, "bridge") == ["bridge a"]
    assert kinds(cluster)["unfinished"] == 1
    with index.writer():
        pass
    assert kinds(cluster) == {"passage": 1, "source": 1}


def test_bulks_are_bounded_in_documents_and_bytes(index, cluster, monkeypatch, filled, kinds):
    filled(index, a=[passage("x") for _ in range(1100)])
    assert max(cluster.bulks) <= opensearch_writer.MOST_DOCUMENTS
    monkeypatch.setattr(opensearch_writer, "MOST_BYTES", 10_000)
    cluster.bulks.clear()
    filled(index, b=[passage("y" * 3000) for _ in range(10)], c=[passage("z" * 20_000)])
    assert max(cluster.bulks) == 3
    assert kinds(cluster) == {"passage": 1111, "source": 3}


def test_more_sources_than_a_page_are_read_once_each(index, monkeypatch, filled):
    monkeypatch.setattr(opensearch_engine, "PAGE", 7)
    names = [f"docs/{number}" for number in range(49)]
    filled(index, **{name: [passage(name)] for name in names})
    assert list(index.sources()) == sorted(names)
    with index.writer() as writer:
        writer.remove("docs/7")
        writer.commit()
    assert len(index.sources()) == 48


def test_more_hits_than_a_cluster_gives_are_refused(index):
    assert index.search("x", top_k=10_000) == []
    with pytest.raises(CollectionError, match="top_k is 10001: OpenSearch gives 1 to 10000"):
        index.search("x", top_k=10_001)


def test_what_is_no_index_of_ours_is_said_in_one_sentence(cluster, address):
    assert not opensearch_exists(address)
    with pytest.raises(CollectionError, match=r"no index there .*: make one with `spanqa index SOURCE"):
        open_opensearch(address)
    create_opensearch(address, IndexSettings())
    assert opensearch_exists(address)
    with pytest.raises(CollectionError, match=r"\(index \[docs\] already exists\): try again, or another name"):
        create_opensearch(address, IndexSettings())
    meta = cluster.indexes["docs"].mappings["_meta"]
    meta["spanqa"]["format"] = 99
    with pytest.raises(CollectionError, match="of another version of spanqa"):
        open_opensearch(address)
    del meta["spanqa"]
    with pytest.raises(CollectionError, match="an index that spanqa did not make: give another name"):
        open_opensearch(address)


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (lambda c: c.search(index="docs", body={"query": {"query_string": {"query": "x"}}}), "unknown query"),
        (lambda c: c.search(index="docs", body={"query": {}, "frm": 3}), "unknown key"),
        (lambda c: c.search(index="docs", body={"size": 20_000, "query": {}}), "Result window is too large"),
        (lambda c: c.search(index="docs", body={"query": {}}, params={"fast": "1"}), "unrecognized parameter"),
        (lambda c: c.bulk(index="docs", body=[{"index": {"_id": "1"}}, {}]), "Content-Type header"),
        (lambda c: c.index(index="docs", id="1", body={"number": 1}), "strict, dynamic introduction"),
        (lambda c: c.index(index="docs", id="1", body={"text": 1}), "failed to parse field"),
        (lambda c: c.index(index="docs", id="1", body={}, if_seq_no=1), "primary term is not"),
        (lambda c: c.cluster.health(), "no handler found"),
        (lambda c: c.indices.create(index="other", body={"settings": {"refresh": 1}}), "unknown key"),
    ],
)
def test_the_stand_in_refuses_what_is_not_documented(index, send, reason):
    with pytest.raises(CollectionError, match=reason):
        index._connection.call(send)
