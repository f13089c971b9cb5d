"""An index on OpenSearch follows its sources, and a run that was killed at any request is made good by the next."""

import json
from collections import Counter

import pytest

from spanqa.cli import main
from spanqa_retrieval import opensearch_lock, opensearch_writer
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.indexing import Report, update_index
from spanqa_retrieval.opening import open_index, open_or_create
from spanqa_retrieval.opensearch_connection import Connection
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import find_sources

pytestmark = pytest.mark.usefixtures("_surroundings")
SECRET = "pä:ss wörd@1"


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


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
def test_a_run_killed_at_any_request_is_made_good_by_the_next(cluster, address, folder, monkeypatch, is_done, kinds):
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
