"""Files of every kind become documents; what is wrong with one is told in one line, and reads nothing else."""

import importlib.util
import json
import os
import time
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.readers import html_pages, pdf_pages, texts
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.sources import find_sources

SPEC = importlib.util.spec_from_file_location("handmade_pdf", Path(__file__).with_name("handmade_pdf.py"))
handmade_pdf = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(handmade_pdf)
pdf = handmade_pdf.pdf


def as_parquet(rows, **options):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **options)
    return sink.getvalue().to_pybytes()


def article(title, *contexts):
    paragraphs = [{"context": context, "qas": [{"id": "q", "question": "?", "answers": []}]} for context in contexts]
    return {"title": title, "paragraphs": paragraphs}


# Text and Markdown


def test_a_text_is_kept_as_it_is(document):
    text = "  One\r\nTwo\rThree 🌉\u2028\n\n"
    made = document("a b.txt", text)
    assert (made.id, made.title, made.text) == ("a b.txt", "a b", text)
    assert (made.metadata, made.page_starts) == ({"source": "a b.txt"}, ())


def test_a_byte_order_mark_is_no_text(document):
    assert document("a.txt", b"\xef\xbb\xbfA\n").text == "A\n"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# The *title* #\n\nText", "The *title*"),
        ("\ufeff\n## Two\n\n#One\n\n# One\n# Two", "One"),
        ("```\n# comment\n```\n# Title", "Title"),
        ("~~~ sh\n# comment\n```\n# comment", "notes"),
        ("# \n\ntext", "notes"),
        ("text", "notes"),
    ],
)
def test_the_title_of_markdown_is_its_first_heading(document, text, title):
    made = document("notes.md", text)
    assert (made.title, made.text) == (title, text.removeprefix("\ufeff"))


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"\xef\xbb\xbf \n\t\r\n", "holds no text"),
        (b"abc\xff", "byte 3 is not UTF-8 (0xff): convert the file to UTF-8 first"),
        (b"\xef\xbb\xbfab\xe9 ", "byte 5 is not UTF-8 (0xe9): convert the file to UTF-8 first"),
        (b"ab\xf0\x9f", "byte 2 is not UTF-8 (0xf0): convert the file to UTF-8 first"),
        (b"\x7fELF\0\1", "byte 4 is zero, which no text in UTF-8 holds: convert it, or leave it out"),
        ("Text".encode("utf-16"), "byte 3 is zero, which no text in UTF-8 holds: convert it, or leave it out"),
    ],
)
def test_what_is_no_text_is_told(problem, name, content, message):
    assert problem(name, content) == message


# Files of every kind


@pytest.mark.parametrize(
    ("name", "module"), [("a.txt", texts), ("a.md", texts), ("a.html", html_pages), ("a.pdf", pdf_pages)]
)
def test_a_file_that_is_too_long_is_told(problem, monkeypatch, name, module):
    monkeypatch.setattr(module, "LIMIT_BYTES", 10)
    message = "longer than the 10 bytes that are read of such a file: split it"
    assert problem(name, b"x" * 11) == message


def test_a_file_that_is_gone_is_told(documents, tmp_path):
    for name in ("a.txt", "a.md", "a.html", "a.pdf", "a.jsonl", "a.parquet", "a.json"):
        (tmp_path / name).touch()
        (source,) = find_sources([tmp_path / name], pytest.fail)
        (tmp_path / name).unlink()
        with pytest.raises(SourceError, match=r"No such file or directory|no such file") as caught:
            list(read_documents(source, pytest.fail))
        assert str(caught.value).startswith(f"{tmp_path}/{name}: ")


def test_of_a_folder_of_broken_files_the_good_ones_are_read(tmp_path, monkeypatch):
    folder, outside = tmp_path / "docs", tmp_path / "outside.txt"
    folder.mkdir()
    outside.write_text("secret")
    files = {
        "good.txt": b"Good.",
        "good.md": b"# Good",
        "good.html": b"<p>Good.",
        "good.pdf": pdf(["Good."]),
        "good.jsonl": b'{"text": "Good."}',
        "good.json": json.dumps({"data": [article("T", "Good.")]}).encode(),
        "good.parquet": as_parquet([{"text": "Good."}]),
        "broken.pdf": pdf(["Good."])[:99],
        "binary.txt": os.urandom(100) + b"\0",
        "binary.exe": os.urandom(100),
        "binary.html": os.urandom(100) + b"\0",
        "empty.txt": b"",
        "latin.txt": b"Z\xfcrich",
        "huge.txt": b"x" * 2000,
        "new\nline.txt": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "link.txt").symlink_to(outside)
    os.mkfifo(folder / "pipe.txt")
    monkeypatch.setattr(texts, "LIMIT_BYTES", 1000)
    told, read = [], []
    for source in find_sources([folder], told.append):
        try:
            read += [document.text for document in read_documents(source, told.append)]
        except SourceError as error:
            told.append(str(error))
    assert sorted(read) == ["# Good", *["Good."] * 6]
    assert len(told) == 10
    assert all(line.isprintable() for line in told)
    assert "secret" not in "".join(told + read)


@pytest.mark.parametrize("reads", ["a.html", "a.txt"])
def test_long_files_are_read_in_a_time_that_grows_as_they_do(document, reads):
    began = time.process_time()
    document(reads, "<p>word " * 50_000)
    assert time.process_time() - began < 30


def test_whatever_a_library_raises_is_told(document, problem, monkeypatch):
    def breaks(*_):
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(texts, "read_text", breaks)
    assert problem("a.txt", "x") == r"cannot be read as text: ZeroDivisionError: a\nb"
