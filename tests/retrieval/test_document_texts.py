"""The texts of an index come back whole: up to white space, each sentence once, of finished files alone."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.cli import main
from spanqa_retrieval.document import Document, Passage
from spanqa_retrieval.document_texts import _texts, is_index_folder, iter_document_texts
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.passages import passages_of
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.tantivy_engine import TantivyIndex, create_index


def indexed(path, target, *options):
    assert main(["index", str(path), "-o", str(target), "--quiet", *map(str, options)]) == 0
    return list(iter_document_texts(target))


@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_real_texts_come_back_up_to_white_space(root, real_questions, tmp_path, overlap):
    options = ("--passage-words", 20, "--overlap-sentences", overlap)
    found = indexed(root / "data" / "heldout200.json", tmp_path / "index", *options)
    contexts = {example.context for example in real_questions}
    assert sorted(text.split() for text in found) == sorted(context.split() for context in contexts)
    assert len([*TantivyIndex(tmp_path / "index").passages("heldout200.json")]) > 3 * len(found)


def test_files_and_documents_come_by_name_with_a_newline_between_paragraphs(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    paragraphs = [f"Bridge {number} was built. " + "It stands there. " * 8 for number in range(3)]
    (docs / "b.txt").write_text("\n\n".join(paragraphs))
    rows = [{"id": "z", "text": "A river."}, {"id": "y", "title": "Towers", "text": "A tower.\n"}]
    (docs / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    *rows, text = indexed(docs, tmp_path / "index", "--passage-words", 10)
    assert rows == ["A tower.", "A river."]
    assert text == "\n".join(paragraph.strip() for paragraph in paragraphs)


_PARTS = [
    "A bridge. ",
    "It was built.  ",
    "Old!\u00a0",
    "東にある。",
    "x" * 200,
    "a tower ",
    " \n",
    "\n\n",
    "\f",
    "\u2029",
]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(_PARTS), max_size=100), st.integers(0, 5))
def test_whatever_the_text_its_words_come_back_once(parts, overlap):
    text = "".join(parts)
    cut = IndexSettings(passage_words=10, overlap_sentences=overlap)
    found = list(_texts(passages_of(Document(id="d", text=text), cut)))
    assert len(found) == bool(text.strip())
    assert "".join(found).split() == text.split()


def test_rows_with_one_id_lose_nothing(tmp_path):
    words = [f"word{number}" for number in range(300)]
    texts = [". It has ".join(words[start : start + 100]) for start in (0, 100, 200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": "same", "text": text}) + "\n" for text in texts))
    found = indexed(tmp_path / "rows.jsonl", tmp_path / "index", "--passage-words", 20)
    assert set(" ".join(found).replace(".", "").split()) >= set(words)


def test_a_file_that_was_not_finished_gives_no_text(tmp_path):
    index = create_index(tmp_path / "index", IndexSettings())
    with index.writer() as writer:
        for name in ("a", "b"):
            writer.add(name, [Passage(document=name, title="", text=f"bridge {name}", char_start=0)])
        writer.finish(SourceRecord(name="b", fingerprint="f", n_documents=1, n_passages=1, n_chars=8))
        writer.commit()
        assert list(iter_document_texts(index.path)) == ["bridge b"]
        writer.finish(SourceRecord(name="a", fingerprint="f", n_documents=1, n_passages=1, n_chars=8))
        writer.commit()
    assert list(iter_document_texts(index.path)) == ["bridge a", "bridge b"]


def test_an_index_is_recognised_without_its_engine_and_read_with_it_alone(tmp_path, monkeypatch):
    create_index(tmp_path / "index", IndexSettings())
    for name in [name for name in sys.modules if name.startswith("spanqa_retrieval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tantivy", None)
    from spanqa_retrieval import document_texts

    assert document_texts.is_index_folder(str(tmp_path / "index"))
    assert not document_texts.is_index_folder(str(tmp_path))
    with pytest.raises(Exception, match=r"package tantivy, which is not installed: pip install 'spanqa\[retrieval\]'"):
        next(document_texts.iter_document_texts(tmp_path / "index"))


@pytest.mark.parametrize("address", ["opensearch://localhost:9200/papers", "opensearchs://me:secret@host/papers"])
def test_an_index_on_a_server_is_refused_without_its_address(address):
    with pytest.raises(CollectionError, match=r"in a folder .* and give the folder") as caught:
        is_index_folder(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.5), (0.5, 0.95)], ids=["passages", "records"])
def test_a_damaged_index_is_one_sentence(root, tmp_path, low, high):
    indexed(root / "data" / "heldout200.json", tmp_path / "index")
    for path in (tmp_path / "index").glob("*.store"):
        kept = path.read_bytes()
        start, end = (int(share * len(kept)) for share in (low, high))
        path.unlink()  # another file: this one may still be mapped
        path.write_bytes(kept[:start] + bytes(end - start) + kept[end:])
    with pytest.raises(CollectionError, match=r"the index cannot be read \(.*\): remove the folder") as caught:
        list(iter_document_texts(tmp_path / "index"))
    assert "\n" not in str(caught.value)
