"""An index in a folder: finds what fits, shows whole commits, has one writer, and outlives a kill."""

import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest

from spanqa_retrieval import read_only
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.tantivy_engine import TantivyIndex, create_index


def passage(text, document="d", **fields):
    return Passage(**({"document": document, "title": "", "text": text, "char_start": 0} | fields))


def record(name, **fields):
    return SourceRecord(
        **({"name": name, "fingerprint": "f", "n_documents": 1, "n_passages": 1, "n_chars": 9} | fields)
    )


def filled(index, **passages_of):
    with index.writer() as writer:
        for source, passages in passages_of.items():
            writer.add(source, passages)
            writer.finish(record(source))
        writer.commit()
    return index


@pytest.fixture
def empty(tmp_path):
    return create_index(tmp_path / "index", IndexSettings())


def found(index, query, **options):
    return [hit.passage.text for hit in index.search(query, top_k=10, **options)]


def test_what_was_added_is_found_as_it_was(empty):
    added = passage(
        "Ten bridges were built.", title="Rome", char_start=7, page_starts=(0, 4), first_page=3,
        metadata={"year": 1999, "lang": "en", "public": True, "size": 1.5},
    )  # fmt: skip
    filled(empty, a=[added])
    (hit,) = TantivyIndex(empty.path).search("bridge", top_k=5)
    assert hit.passage == added
    assert hit.score > 0


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("BRIDGE", "Old bridges."),
        ("東京の塔", "その塔は東京にある。"),
        ("où est l'École", "L'école est là."),
        ("สะพาน", "สะพานเก่า"),
        ("c++ AND (bridges OR \"x y\") -z ~ * ? : \\", "A bridge."),
    ],
)  # fmt: skip
def test_words_are_found_whatever_their_form_or_script_and_no_character_is_an_operator(empty, query, text):
    filled(empty, a=[passage(text), passage("nothing of that"), passage("z")])
    assert text in found(empty, query)
    assert "nothing of that" not in found(empty, query)


@pytest.mark.parametrize("query", ["", " ", "?!", "x" * 100_000, "unknown"])
def test_a_query_of_which_no_word_is_there_finds_nothing(empty, query):
    assert found(filled(empty, a=[passage("A bridge.")]), query) == []


def test_a_title_counts_what_the_settings_say(tmp_path):
    in_text, in_title = passage("A bridge of stone."), passage("Of stone, long ago.", title="Bridge")
    for weight, expected in ((0.0, [in_text.text]), (5.0, [in_title.text, in_text.text])):
        index = create_index(tmp_path / str(weight), IndexSettings(title_weight=weight))
        assert found(filled(index, a=[in_text, in_title]), "bridge") == expected


def test_words_that_stand_nearly_everywhere_count_only_where_there_are_no_others(tmp_path):
    few = create_index(tmp_path / "few", IndexSettings())
    many = create_index(tmp_path / "many", IndexSettings())
    for index, n_passages in ((few, 20), (many, 2000)):
        filled(index, a=[passage(f"the number {number}") for number in range(n_passages)])
        assert len(found(index, "the")) == 10
        assert found(index, "the 7")[0] == "the number 7"
    assert len(found(few, "the 7")) == 10
    assert found(many, "the 7") == ["the number 7"]
    assert len(found(many, "the telephone")) == 10  # a word that is nowhere is no other


def test_filters_keep_what_has_one_of_the_values_of_each_key(empty):
    filled(
        empty,
        a=[
            passage("bridge one", metadata={"lang": "en", "year": 1999}),
            passage("bridge two", metadata={"lang": "en", "year": 2000}),
            passage("bridge three", metadata={"lang": "de", "year": 2000}),
            passage("bridge four"),
        ],
    )
    assert found(empty, "bridge", filters={"lang": ["en"], "year": [2000, 2001]}) == ["bridge two"]
    assert sorted(found(empty, "bridge", filters={"year": ["1999", 2000]})) == [
        "bridge one",
        "bridge three",
        "bridge two",
    ]
    scores = [hit.score for hit in empty.search("bridge", top_k=9)]
    filtered = empty.search("bridge", top_k=9, filters={"lang": ["en"]})
    assert {hit.score for hit in filtered} <= set(scores)  # a filter weighs nothing


def test_a_reader_sees_whole_commits(empty):
    reader = TantivyIndex(empty.path)
    with empty.writer() as writer:
        writer.add("a", [passage("A bridge.")])
        reader.refresh()
        assert found(reader, "bridge") == []
        writer.finish(record("a"))
        writer.commit()
        assert found(reader, "bridge") == []
        reader.refresh()
        assert found(reader, "bridge") == ["A bridge."]
        writer.remove("a")
    reader.refresh()
    assert found(reader, "bridge") == ["A bridge."]  # what was not committed is dropped
    assert list(reader.sources()) == ["a"]


def test_a_source_is_removed_whole_and_no_other(empty):
    filled(empty, a=[passage("bridge a")], ab=[passage("bridge ab")])
    with empty.writer() as writer:
        writer.remove("a")
        writer.remove("unknown")
        writer.commit()
        assert list(writer.sources()) == ["ab"]
    assert found(empty, "bridge") == ["bridge ab"]


def test_the_passages_of_a_file_come_by_document_and_offset_whatever_the_commits(tmp_path):
    wanted = [
        passage(f"{document} from {start}", document=document, char_start=start, title="T", metadata={"n": start})
        for document in ("d1", "d10", "d2")
        for start in (0, 9, 100)
    ]
    mixed = random.Random(1).sample(wanted, len(wanted))
    found = []
    for name, together in (("one", 9), ("many", 3)):
        index = create_index(tmp_path / name, IndexSettings())
        with index.writer() as writer:
            for first in range(0, len(mixed), together):
                writer.add("a", mixed[first : first + together])
                writer.add("ab", [passage("of another file")])
                writer.commit()
            found.append(list(index.passages("a")))
            writer.remove("a")
            writer.commit()
            assert list(index.passages("a")) == list(index.passages("unknown")) == []
    assert found == [wanted, wanted]


def test_a_refresh_between_finding_and_reading_changes_nothing(empty, monkeypatch):
    from spanqa_retrieval import tantivy_engine

    filled(empty, a=[passage("apple pie")])

    def refreshed(*arguments):
        filled(TantivyIndex(empty.path), b=[passage("cherry cake"), passage("cherry pie")])
        empty.refresh()
        return real(*arguments)

    real = tantivy_engine.filtered
    monkeypatch.setattr(tantivy_engine, "filtered", refreshed)
    assert found(empty, "apple") == ["apple pie"]


def test_what_cannot_be_written_is_one_sentence(empty):
    class Full:
        def add_document(self, *_):
            raise ValueError("no space left")

        delete_documents_by_term = commit = add_document

    with empty.writer() as writer:
        real, writer._writer = writer._writer, Full()
        for step in (
            lambda: writer.add("a", [passage("x")]),
            lambda: writer.finish(record("a")),
            lambda: writer.remove("a"),
            writer.commit,
        ):
            with pytest.raises(CollectionError, match=r"nothing more can be written \(no space left\): make room"):
                step()
        writer._writer = real


def test_others_may_read_what_the_umask_lets_them(empty):
    filled(empty, a=[passage("x")])
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in empty.path.iterdir() if "lock" not in path.name)


def test_a_folder_where_nothing_may_be_written_is_searched_as_it_is_and_follows_commits(empty, monkeypatch):
    filled(empty, a=[passage("Ten bridges were built.")])
    before = sorted((path.name, path.stat().st_mtime_ns) for path in empty.path.iterdir())
    monkeypatch.setattr(read_only.os, "access", lambda path, mode: mode != os.W_OK)
    index = TantivyIndex(empty.path)
    assert found(index, "bridge") == ["Ten bridges were built."]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in empty.path.iterdir()) == before
    with pytest.raises(CollectionError, match="this user may not write in the index's folder"), index.writer():
        pass
    filled(empty, b=[passage("No bridge is left.")])
    index.refresh()
    assert len(found(index, "bridge")) == 2
    real, fails = read_only.tantivy.Index.open, [ValueError("FileDoesNotExist")]

    def opened(path):  # as when a commit comes between looking and opening
        if fails:
            raise fails.pop()
        return real(path)

    monkeypatch.setattr(read_only, "tantivy", SimpleNamespace(Index=SimpleNamespace(open=opened)))
    assert len(found(TantivyIndex(empty.path), "bridge")) == 2


def test_words_that_differ_in_unicodes_form_alone_are_one(empty):
    filled(empty, a=[passage("Un cafe\u0301 à Paris."), passage("हिन्दी में"), passage("İzmir"), passage("Straße")])
    for query, text in (
        ("CAFÉ", "Un cafe\u0301 à Paris."),
        ("हिन्दी", "हिन्दी में"),
        ("izmir", "İzmir"),
        ("İZMİR", "İzmir"),
        ("STRASSE", "Straße"),
    ):
        assert found(empty, query) == [text]


def test_one_writer_at_a_time(empty):
    busy = pytest.raises(BusyError, match="another process writes the index")
    with empty.writer(), busy, TantivyIndex(empty.path).writer():
        pass
    with TantivyIndex(empty.path).writer() as writer:
        writer.commit()


KILLED = """
import os, sys
from pathlib import Path
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.tantivy_engine import TantivyIndex

def add(writer, name):
    writer.add(name, [Passage(document=name, title="", text=f"bridge {name}", char_start=0)])
    writer.finish(SourceRecord(name=name, fingerprint="f", n_documents=1, n_passages=1, n_chars=9))

with TantivyIndex(Path(sys.argv[1])).writer() as writer:
    add(writer, "a")
    writer.commit()
    add(writer, "b")
    os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_leaves_its_last_commit_and_no_lock(empty):
    subprocess.run([sys.executable, "-c", KILLED, str(empty.path)], check=False, timeout=60)
    index = TantivyIndex(empty.path)
    assert found(index, "bridge") == ["bridge a"]
    filled(index, b=[passage("bridge b")])
    assert sorted(found(index, "bridge")) == ["bridge a", "bridge b"]


def test_what_is_no_index_is_said_in_one_sentence(tmp_path, empty):
    with pytest.raises(CollectionError, match="no index there: make one with"):
        TantivyIndex(tmp_path / "missing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(CollectionError, match="not an index, and not empty"):
        create_index(tmp_path / "full", IndexSettings())
    (empty.path / "meta.json").write_text("{")
    with pytest.raises(CollectionError, match="the index cannot be read"):
        TantivyIndex(empty.path)
    (empty.path / "spanqa.json").write_text('{"format": 99}')
    with pytest.raises(CollectionError, match="of another version of spanqa"):
        TantivyIndex(empty.path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("passage_words", 9), ("overlap_sentences", 6), ("stemmer", "klingon"), ("title_weight", float("nan"))],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(CollectionError, match=f"{field} is .*: give "):
        IndexSettings(**{field: value})
