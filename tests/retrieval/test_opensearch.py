"""An index on OpenSearch, against a stand-in that takes documented requests only: no cluster has seen this."""

import importlib.util
import ipaddress
import json
import random
import ssl
import time
from collections import Counter, deque
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from spanqa.cli import main
from spanqa_retrieval import opensearch_connection, opensearch_engine, opensearch_lock, opensearch_writer
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.indexing import Report, update_index
from spanqa_retrieval.opening import open_index, open_or_create
from spanqa_retrieval.opensearch_connection import CA, PASSWORD, USER, Address, Connection, parse_address
from spanqa_retrieval.opensearch_engine import create_opensearch, open_opensearch, opensearch_exists
from spanqa_retrieval.settings import STEMMERS, IndexSettings
from spanqa_retrieval.sources import find_sources

SPEC = importlib.util.spec_from_file_location("opensearch_fake", Path(__file__).with_name("opensearch_fake.py"))
opensearch_fake = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(opensearch_fake)
SECRET = "pä:ss wörd@1"


def passage(text, document="d", **fields):
    return Passage(**({"document": document, "title": "", "text": text, "char_start": 0} | fields))


def record(name, n_passages=1):
    return SourceRecord(name=name, fingerprint="f", n_documents=1, n_passages=n_passages, n_chars=9)


def filled(index, **passages_of):
    with index.writer() as writer:
        for source, passages in passages_of.items():
            writer.add(source, passages)
            writer.finish(record(source, len(passages)))
        writer.commit()
    return index


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


def kinds(cluster, *, visible=False):
    """How many documents of each kind there are."""
    documents = cluster.indexes["docs"].visible if visible else cluster.indexes["docs"].documents
    return Counter(source["kind"] for _, source in documents.values())


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    for name in (USER, PASSWORD, CA):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(opensearch_connection, "FIRST_BACKOFF_S", 0.0005)


@pytest.fixture
def cluster():
    with opensearch_fake.FakeOpenSearch() as fake:
        yield fake


@pytest.fixture
def address(cluster):
    return f"opensearch://{cluster.host}/docs"


@pytest.fixture
def index(address):
    return create_opensearch(address, IndexSettings())


def test_what_was_added_is_found_as_it_was(index, address):
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
def test_no_character_of_a_query_is_an_operator_and_none_is_too_long(index, query, text):
    filled(index, a=[passage(text), passage("nothing like that"), passage("q")])
    assert found(index, query)[0] == text
    assert "nothing like that" not in found(index, query)


@pytest.mark.parametrize("query", ["", " ", "?!", "x" * 100_000, "unknown", "title:Rome"])
def test_a_query_of_which_no_word_is_there_finds_nothing(index, query):
    assert found(filled(index, a=[passage("A bridge.")]), query) == []


def test_a_word_that_is_said_twice_counts_once(index):
    filled(index, a=[passage("old old bridge"), passage("new tower")])
    (once,), (twice,) = index.search("the bridge", top_k=1), index.search("the Bridge, the bridge", top_k=1)
    assert once.score == twice.score


def test_a_title_counts_what_the_settings_say(cluster):
    in_text, in_title = passage("A bridge of stone."), passage("Of stone, long ago.", title="Bridge")
    for weight, expected in ((0.0, [in_text.text]), (5.0, [in_title.text, in_text.text])):
        index = create_opensearch(f"opensearch://{cluster.host}/w{weight}", IndexSettings(title_weight=weight))
        assert found(filled(index, a=[in_text, in_title]), "bridge") == expected


def test_filters_keep_what_has_one_of_the_values_of_each_key_and_weigh_nothing(index):
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


def test_a_source_is_removed_whole_and_no_other(index, cluster):
    filled(index, a=[passage(f"bridge a{number}") for number in range(5)], ab=[passage("bridge ab")])
    with index.writer() as writer:
        writer.remove("a")
        writer.remove("unknown")
        writer.commit()
        assert list(writer.sources()) == ["ab"]
    assert found(index, "bridge") == ["bridge ab"]
    assert kinds(cluster) == {"passage": 1, "source": 1}


def test_a_source_that_shrinks_leaves_no_passage_behind(index, cluster):
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


def test_what_is_new_is_seen_at_a_commit_and_what_is_unfinished_never(index, address, cluster):
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


def test_bulks_are_bounded_in_documents_and_bytes(index, cluster, monkeypatch):
    filled(index, a=[passage("x") for _ in range(1100)])
    assert max(cluster.bulks) <= opensearch_writer.MOST_DOCUMENTS
    monkeypatch.setattr(opensearch_writer, "MOST_BYTES", 10_000)
    cluster.bulks.clear()
    filled(index, b=[passage("y" * 3000) for _ in range(10)], c=[passage("z" * 20_000)])
    assert max(cluster.bulks) == 3
    assert kinds(cluster) == {"passage": 1111, "source": 3}


def test_more_sources_than_a_page_are_read_once_each(index, monkeypatch):
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


def test_rejected_documents_are_sent_again_and_none_is_lost_or_doubled(index, cluster):
    drawn = random.Random(5)
    cluster.rejects = lambda identity: drawn.random() < 0.4
    cluster.faults["bulk"].extend([429, None, 503, "lose", "drop"])
    texts = [f"bridge {number}" for number in range(700)]
    filled(index, a=[passage(text) for text in texts], b=[passage("other")])
    cluster.rejects = lambda identity: False
    assert sorted(hit.passage.text for hit in index.search("bridge", top_k=1000)) == sorted(texts)
    assert kinds(cluster) == {"passage": 701, "source": 2}


def test_a_source_has_a_record_only_once_all_its_passages_are_there(index, cluster):
    cluster.rejects = lambda identity: identity.endswith("-1")
    with pytest.raises(CollectionError) as raised:
        filled(index, a=[passage("one"), passage("two")])
    assert str(raised.value) == (
        f"opensearch://{cluster.host}/docs: 1 documents were rejected 9 times, first one of a (rejected execution of "
        "coordinating operation): see to the cluster, then run this again"
    )
    assert kinds(cluster) == {"passage": 1, "unfinished": 1}


def test_a_document_that_is_refused_is_named_at_once(index, cluster):
    with pytest.raises(CollectionError, match=r"1 documents were refused, first one of xxx.* \(Document contains at"):
        filled(index, **{"x" * 40_000: [passage("one")]})
    assert cluster.requests.count("bulk") == 1


def test_a_cluster_that_stays_overloaded_is_given_up(index, cluster):
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


def test_passing_faults_are_not_noticed(index, cluster):
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


def test_a_slow_answer_ends_a_question_and_not_hours_of_work(cluster, address, index, monkeypatch):
    monkeypatch.setattr(opensearch_connection, "ANSWER_S", 0.5)
    index = open_opensearch(address)
    cluster.delays["search"] = 1.0
    with pytest.raises(CollectionError, match="no answer in time: try again"):
        index.search("x", top_k=1)
    assert cluster.requests.count("search") == 1
    del cluster.delays["search"]
    cluster.first["bulk"] = lambda: time.sleep(1.0)
    assert found(filled(index, a=[passage("one")]), "one") == ["one"]


def test_conflicts_of_a_deletion_are_met_by_another_one(index, cluster):
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


def test_one_writer_at_a_time(index, address, cluster):
    busy = r"another process writes the index \(process \d+ on .*, last seen \d+ s ago\): wait until it has ended, or 3"
    with index.writer(), pytest.raises(BusyError, match=busy), open_opensearch(address).writer():
        pass
    with open_opensearch(address).writer() as writer:
        writer.commit()
    assert kinds(cluster) == {}


def test_a_lock_is_renewed_while_it_is_held_whatever_fails_in_between(index, address, cluster, monkeypatch):
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


def test_a_lock_whose_last_renewal_went_unanswered_is_given_back(index, address, cluster):
    with index.writer() as writer:
        cluster.faults["index"].extend(["lose", 503, 503, 503, 503, 503, 503, 503, 503])
        with suppress(CollectionError), writer._lock._mutex:
            writer._lock._renew()
        cluster.faults["index"].clear()
    assert kinds(cluster) == {}


def test_a_stale_lock_is_taken_over_and_whoever_had_it_writes_no_more(index, address, cluster, monkeypatch):
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


def test_of_two_that_take_over_a_stale_lock_one_gets_it(index, address, cluster, monkeypatch):
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


class Killed(BaseException):
    pass


@pytest.fixture
def folder(tmp_path):
    """Four files of seven documents."""
    made = tmp_path / "docs"
    made.mkdir()
    for name in ("a", "b", "c"):
        (made / f"{name}.txt").write_text(f"A bridge in {name}.")
    rows = [{"id": number, "text": f"A river numbered {number}."} for number in range(4)]
    (made / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def updated(index, folder, **options):
    report = Report()
    update_index(index, find_sources([folder], report.skipped.append), report, **options)
    return report


def is_whole(documents):
    """Every source that has a record has all its passages, and every passage has a record or a note."""
    sources = [source for _, source in documents.values()]
    passages = Counter(source["source"] for source in sources if source["kind"] == "passage")
    noted = {source["source"] for source in sources if source["kind"] == "unfinished"}
    records = [json.loads(source["kept"]) for source in sources if source["kind"] == "source"]
    complete = all(passages[one["name"]] == one["n_passages"] for one in records)
    return complete and passages.keys() <= noted | {one["name"] for one in records}


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_run_killed_at_any_request_is_made_good_by_the_next(cluster, address, folder, monkeypatch, is_done):
    monkeypatch.setattr(opensearch_writer, "MOST_DOCUMENTS", 4)
    monkeypatch.setattr("spanqa_retrieval.indexing.COMMIT_S", -1.0)
    monkeypatch.setattr(opensearch_lock, "STALE_S", 0.0)
    real = Connection.call
    left = [0]

    def call(self, send, **options):
        left[0] -= 1
        if left[0] == 0 and is_done:
            real(self, send, **options)
        if left[0] <= 0:
            raise Killed
        return real(self, send, **options)

    monkeypatch.setattr(Connection, "call", call)
    n_requests = n_killed = 0
    while n_killed == n_requests:
        n_requests += 1
        cluster.indexes.clear()
        for number, text in enumerate(("A bridge in a.", "Two words of a bridge.\n\n" * 300)):
            left[0] = 1000
            (folder / "a.txt").write_text(text)
            index = open_or_create(address, None)
            left[0] = n_requests if number else 1000
            try:
                updated(index, folder, prune=True)
                (folder / "b.txt").unlink(missing_ok=True)
            except Killed:
                n_killed += 1
        documents = cluster.indexes["docs"]
        assert is_whole(documents.documents)
        assert is_whole(documents.visible)
        left[0] = 1000
        updated(open_index(address), folder, prune=True)
        (folder / "b.txt").write_text("A bridge in b.")
        assert documents.documents == {name: one for name, one in documents.visible.items() if name != "lock"}
        assert kinds(cluster)["source"] == 3
        assert kinds(cluster).keys() == {"passage", "source"}
        assert is_whole(documents.documents)
    assert n_killed > 15


def test_the_next_run_reads_only_what_is_missing(cluster, address, folder):
    index = open_or_create(address, IndexSettings(passage_words=50))
    assert updated(index, folder).n_read == 4
    assert updated(open_or_create(address, None), folder).n_unchanged == 4
    with pytest.raises(CollectionError, match="made with passages of 50 words"):
        open_or_create(address, IndexSettings())
    (folder / "a.txt").unlink()
    report = updated(index, folder, prune=True)
    assert (report.n_pruned, report.n_unchanged) == (1, 3)
    assert len(found(index, "bridge river")) == 6


def test_the_commands_index_look_and_search(address, folder, capsys):
    assert main(["index", str(folder), "-o", address, "--quiet"]) == 0
    assert "read       4 files: 7 documents, 7 passages" in capsys.readouterr().out
    assert main(["index", "-o", address, "--stat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == 7
    assert main(["search", "a bridge", "--index", address, "--json", "--top-k", "3"]) == 0
    assert "bridge" in json.loads(capsys.readouterr().out)["passages"][0]["text"]
    for command in (["search", "x", "--index"], ["index", str(folder), "-o"]):
        assert main([*command, address.replace("://", f"://bob:{SECRET}@")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds a user or a password: leave them out" in line
        assert SECRET not in line


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
def guarded(tmp_path, monkeypatch):
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


def test_tls_and_a_user_with_any_password(guarded):
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
