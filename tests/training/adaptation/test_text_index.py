"""Texts become sequences: nothing lost, none across documents, words whole, a part held out by content."""

import gzip
import json

import numpy as np
import pytest

from spanqa.cli import main
from spanqa.errors import DataError
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.tantivy_engine import create_index
from spanqa_training.adaptation.sequence_file import SequenceFile, special_ids
from spanqa_training.adaptation.text_index import build_text_index, cut_places
from spanqa_training.adaptation.texts import iter_texts
from spanqa_training.errors import RunError


@pytest.fixture
def build(tokenizer, tmp_path):
    def built(texts, held_out=0.0, *, length=12):
        folder, counts = build_text_index(
            texts, held_out, tokenizer=tokenizer, max_seq_length=length, folder=tmp_path / "index"
        )
        special = special_ids(tokenizer)
        found = []
        for part in ("training", "held_out"):
            with SequenceFile(folder, part, special, 0) as file:
                found.append([file.pieces(index) for index in range(len(file.lengths))])
        return counts, *found, folder

    return built


def test_sequences_hold_every_piece_once_and_cross_no_document(build, tokenizer):
    texts = ["the old bridge stands near the river. " * 7, "a king", "cats live there " * 4, "x" * 40]
    counts, sequences, held_out, _ = build(texts)
    assert held_out == []
    assert max(len(ids) for ids, _ in sequences) <= 10
    left = [(ids.tolist(), continues.tolist()) for ids, continues in sequences]
    for text in texts:
        pieces = tokenizer.pieces(text)
        ids, continues = [], []
        while len(ids) < len(pieces):
            more, flags = left.pop(0)
            ids, continues = ids + more, continues + flags
        assert ids == pieces.ids.tolist(), "a document ends where a sequence does"
        assert continues == pieces.continues.tolist()
    assert left == []
    assert counts.n_pieces == sum(len(ids) for ids, _ in sequences)


@pytest.mark.parametrize("seed", range(10))
def test_words_stay_whole_and_sequences_are_of_about_one_length(seed):
    rng = np.random.default_rng(seed)
    continues = rng.random(rng.integers(1, 500)) < 0.3
    continues[0] = False
    places = list(cut_places(continues, 20))
    assert [start for start, _ in places] == [0, *(end for _, end in places[:-1])]
    assert places[-1][1] == len(continues)
    assert not any(continues[start] for start, _ in places)
    assert all(1 <= end - start <= 20 for start, end in places)
    assert len(places) < 20 or min(end - start for start, end in places) > 5


def test_a_word_longer_than_a_sequence_is_cut(build):
    _, sequences, _, _ = build(["x" * 35])
    assert len(sequences[0][0]) == 9
    assert sum(len(ids) for ids, _ in sequences) == 35


def test_a_long_text_is_cut_into_the_pieces_that_it_has_as_a_whole(build, tokenizer, monkeypatch):
    text = "the old bridge  stands\nnear the river " * 20 + "y" * 50
    monkeypatch.setattr("spanqa_training.adaptation.text_index._BLOCK_CHARS", 31)
    _, sequences, _, _ = build([text], length=50)
    assert np.concatenate([ids for ids, _ in sequences])[:-50].tolist() == tokenizer.pieces(text).ids.tolist()[:-50]


def test_documents_are_held_out_by_their_content_equal_ones_together(build):
    texts = [f"the bridge of the year {number} stands near the river" for number in range(200)]
    counts, _, held_out, folder = build(texts, 0.1)
    assert 5 <= counts.n_held_out_documents <= 40
    assert counts.n_documents + counts.n_held_out_documents == 200
    turned, *_ = build([*texts[::-1], *texts], 0.1)
    assert turned.n_held_out_documents == 2 * counts.n_held_out_documents
    assert build(texts, 0.1)[3] == folder, "named by its content"
    few, *_ = build(texts[:2], 0.001)
    assert (few.n_documents, few.n_held_out_documents) == (1, 1)
    alone, *_ = build(texts[:1], 0.5, length=8)
    assert alone.n_held_out_documents == 0
    counts, _, held_out, _ = build(texts[:3], iter(["a red cat sat on the mat"]))
    assert (counts.n_documents, counts.n_held_out_documents, len(held_out)) == (3, 1, 1)


def test_too_little_text_is_refused(build):
    with pytest.raises(RunError, match="the texts hold 2 word pieces, less than one sequence of 12: give more text"):
        build(["a cat"])


def texts_in(*paths, said=None, **options):
    return list(iter_texts(list(map(str, paths)), warn=(said if said is not None else []).append, **options))


def test_texts_are_read_from_files_and_folders(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / ".hidden").mkdir()
    (tmp_path / "docs" / ".hidden" / "x.txt").write_text("hidden")
    (tmp_path / "docs" / "b.txt").write_text("\ufeffüber", encoding="utf-8")
    (tmp_path / "docs" / "a.md").write_text("# head")
    (tmp_path / "docs" / "picture.png").write_bytes(b"\0")
    rows = [{"text": "one", "id": 3}, {"text": " "}, {"text": "two"}]
    (tmp_path / "docs" / "deep" / "rows.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    )
    said = []
    assert texts_in(tmp_path / "docs", said=said) == ["# head", "über", "one", "two"]
    assert len(said) == 1
    assert "1 files are of other types" in said[0]
    assert texts_in(tmp_path / "docs", num_samples=2) == ["# head", "über"]


def test_an_index_is_read_where_it_is_named_and_left_out_in_a_folder_of_texts(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text(" A bridge.\n")
    (docs / "b.html").write_text("<p>A river.</p>")
    assert main(["index", str(docs), "-o", str(docs / "sub" / "index"), "--quiet"]) == 0
    said = []
    assert texts_in(docs / "sub" / "index", docs / "a.txt", said=said) == ["A bridge.", "A river.", " A bridge.\n"]
    assert texts_in(docs / "sub" / "index", num_samples=1) == ["A bridge."]
    assert said == []
    assert texts_in(docs, said=said) == [" A bridge.\n"]
    index, other = said
    assert index.startswith(f"{docs}/sub/index: an index, not documents, and is not read: name it itself")
    assert "1 files are of other types" in other
    with pytest.raises(RunError, match=r"sub: holds no file that is read: give a folder with .*, or an index"):
        texts_in(docs / "sub")


@pytest.mark.parametrize(
    "value",
    [
        {"data": [{"paragraphs": [{"context": "one", "qas": []}, {"context": "two", "qas": []}]}]},
        {"data": [{"context": "one", "question": "?"}, {"context": "one", "question": "!"}, {"context": "two"}]},
        [{"text": "one"}, {"text": "two"}],
    ],
)
def test_contexts_of_questions_and_rows_are_texts(tmp_path, value):
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert texts_in(tmp_path / "x.json") == ["one", "two"]


def test_parquet_rows_are_texts(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["one", "two"]}), tmp_path / "x.parquet")
    assert texts_in(tmp_path / "x.parquet") == ["one", "two"]
    parquet.write_table(pyarrow.table({"id": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column text: missing; keys here: 'id'"):
        texts_in(tmp_path / "x.parquet")


def test_what_cannot_be_read_is_named_with_its_place(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"txt": 1}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": "one"}\n{"te')
    (tmp_path / "number.json").write_text('[{"text": 3}]')
    create_index(tmp_path / "new", IndexSettings())
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "spanqa.json").write_text('[{"text": "one"}]')
    for path, kind, message in (
        ("empty", RunError, "empty: holds no file that is read: give a folder with .txt"),
        ("nowhere", DataError, "nowhere: no such file or folder"),
        ("x.pdf", DataError, "x.pdf: files of this type are not read: give .txt, .md"),
        ("blank.txt", DataError, "blank.txt: holds no text"),
        ("rows.jsonl", DataError, "rows.jsonl: line 2: text: missing; keys here: 'txt'"),
        ("broken.jsonl", DataError, "broken.jsonl: line 2"),
        ("new", DataError, "new: the index holds no text: bring it up to date with `spanqa index SOURCE -o .*new`"),
        ("rows", CollectionError, "spanqa.json: not the settings of an index"),
        ("number.json", DataError, r"number.json: \[0\].text: expected a string, got"),
    ):
        with pytest.raises(kind, match=message) as caught:
            texts_in(tmp_path / path)
        assert "\n" not in str(caught.value)
