"""Files of every kind become documents; what is wrong with one is told in one line, and reads nothing else."""

import gzip
import json
import os
import time
from datetime import date, datetime, timezone
from decimal import Decimal

import pyarrow
import pytest
from pyarrow import parquet

from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.readers import html_pages, parquet_rows, pdf_pages, reading, rows, texts
from spanqa_retrieval.readers.reading import read_documents
from spanqa_retrieval.sources import find_sources


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


# HTML

PAGE = """<!DOCTYPE html>
<html><head><title> Bridges &amp;
 towers </title><style>p { color: red }</style><script>var x = "no";</script></head>
<body><h1>The <i>bridge</i></h1>
<p>It was <b>built</b>   in&nbsp;1907.<br>By whom?</p><div>One<div>Two</div>three</div>
<ul><li>stone<li>wood<ol><li>oak</ol></ul>
<table style="margin-top: 99em"><tr><th>Name<th>Year</tr><tr><td>Old<td></td><td>1907</td></tr></table>
<!-- no --><p hidden>no</p><p style="color: red; DISPLAY : none">no</p><noscript>no</noscript>
<pre>a
  b</pre><p>&amp;lt;b&amp;gt; &lt; <q>so</q></p><img src="http://example.invalid/a.png" alt="no">
<iframe src="file:///etc/passwd"></iframe><a href="no">link</a><object data="no">no</object></body></html>"""
SHOWN = """The bridge

It was built in 1907.
By whom?

One

Two

three

- stone
- wood

1. oak

Name | Year

Old | | 1907

a
  b

&lt;b&gt; < "so"

link"""


def test_a_page_is_read_as_a_browser_shows_it(document):
    made = document("a.html", PAGE)
    assert made.text == SHOWN
    assert (made.id, made.title, made.metadata) == ("a.html", "Bridges & towers", {"source": "a.html"})


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title> </title><h1>The <b>head</b></h1>", "The head"),
        ("<svg><title>no</title></svg><p>x", "page"),
        ("<h2>x</h2>", "page"),
    ],
)
def test_a_page_without_a_title_has_its_heading_s_or_its_file_s(document, page, title):
    assert document("page.htm", page + "<p>text").title == title


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<p>Zürich", "Zürich"),
        (b"<p>Z\xfcrich", "Zürich"),
        (b"\xef\xbb\xbf<meta charset=latin1><p>Z\xc3\xbcrich", "Zürich"),
        ("\ufeff<p>Zürich".encode("utf-16-le"), "Zürich"),
        ("\ufeff<p>Zürich".encode("utf-16-be"), "Zürich"),
        (b"<meta charset='ISO-8859-1'><p>Z\xfcrich \x80", "Zürich €"),
        ('<meta charset="utf-16"><p>Zürich', "Zürich"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>Мост'.encode("cp1251"), "Мост"),
        ('<?xml version="1.0" encoding="koi8-r"?><html><p>Мост'.encode("koi8-r"), "Мост"),
        ("<meta charset=shift_jis><p>東京".encode("shift_jis"), "東京"),
        (b"<meta charset=utf-8><p>Z\xfcrich", "Z\ufffdrich"),
        ("<meta charset=zlib><p>Zürich", "Zürich"),
        ("<meta charset=punycode><p>Zürich", "Zürich"),
        ("<meta charset=nothing><p>Zürich", "Zürich"),
    ],
)
def test_the_encoding_of_a_page_is_what_it_says(document, content, text):
    assert document("a.html", content).text == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"<html><body><p> </p><img src=a></body></html>", "holds no text"),
        (b"<!-- only this -->", "holds no text"),
        (b"<p>a\0b", "holds a zero character, which no page does: is it HTML?"),
        (b"<div>" * 1500 + b"x", "its elements are nested too deeply to be read: mend the page, or leave it out"),
        (b"<div>" * 5000 + b"x", "its elements are nested too deeply to be read: mend the page, or leave it out"),
        (b"<p>x" * 400_000, "has 400,002 elements: 300,000 at most are read: split it"),
    ],
)
def test_a_page_that_shows_nothing_or_too_much_is_told(problem, content, message):
    assert problem("a.html", content) == message


def test_a_page_makes_no_more_text_than_it_holds(document):
    wide = "<table><tr><td>" + "x" * 20_000 + "</td></tr>" + "<tr><td>a<td>b</tr>" * 2000 + "</table>"
    deep = "<ul><li>x" * 100 + "<li>x" * 2000
    for page in (wide, deep, "<p style='margin-top:999em;padding-left:999em'>x" * 100):
        assert len(document("a.html", page).text) < 2 * len(page)


def test_entities_of_files_are_not_read(document, tmp_path):
    (tmp_path / "other").write_text("words of another file")
    page = f"<!DOCTYPE html [<!ENTITY x SYSTEM 'file://{tmp_path}/other'>]><p>a &x; b"
    text = document("a.html", page).text
    assert "a &x; b" in text
    assert "words" not in text


# PDF


def pdf(*pages, title=None, trailer=""):
    """Write a PDF file by hand, each page given as its lines."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        shown = "BT /F 12 Tf 14 TL 72 720 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    if title is not None:
        objects.append(f"<< /Title ({title}) >>")
        trailer += f" /Info {len(objects)} 0 R"
    content, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{text}\nendobj\n".encode("cp1252")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        content
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{len(content)}\n%%EOF\n"
        ).encode()
    )


def test_a_pdf_is_read_page_by_page(document):
    made = document("a.pdf", pdf(["The bridge", "was built."], [], ["In 1907 by Zoë."], title="On  bridges"))
    assert made.text == "The bridge\nwas built.\n\n\n\nIn 1907 by Zoë."
    assert made.page_starts == (0, 23, 25)
    assert [made.page_at(made.text.index(word)) for word in ("bridge", "built", "1907")] == [1, 1, 3]
    assert (made.id, made.title, made.metadata) == ("a.pdf", "On bridges", {"source": "a.pdf"})


def test_a_pdf_without_a_title_has_its_file_s(document):
    assert document("bridges.pdf", pdf(["Text"])).title == "bridges"
    assert document("bridges.pdf", pdf(["Text"], title=" ")).title == "bridges"


def test_a_word_that_is_cut_at_the_end_of_a_line_stays_cut(document):
    assert (
        document("a.pdf", pdf(["The draw-", "bridge was", "well-", "known."])).text
        == "The draw-\nbridge was\nwell-\nknown."
    )


ENCRYPTED = f"/ID [<{'22' * 16}> <{'22' * 16}>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 "
ENCRYPTED += f"/O <{'00' * 32}> /U <{'11' * 32}> >>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is broken, or no PDF: mend it, or leave it out"),
        (b"A text that says it is a PDF.", "is broken, or no PDF: mend it, or leave it out"),
        (pdf(["Text"])[:150], "is broken, or no PDF: mend it, or leave it out"),
        (pdf(["Text"], trailer=ENCRYPTED), "is encrypted: take its password off first, or leave it out"),
        (pdf(), "is broken, or no PDF: mend it, or leave it out"),
        (pdf([], []), "holds only pictures, no text (pages: 2): recognise their text first (OCR)"),
    ],
)
def test_a_pdf_that_cannot_be_read_is_told(problem, content, message):
    assert problem("a.pdf", content) == message


def test_a_page_that_cannot_be_read_is_told_and_empty(document, tmp_path):
    broken = pdf(["One"], ["Two"], ["Three"]).replace(b"/Type /Page /Parent", b"/Typo /Page /Parent", 2)
    broken = broken.replace(b"/Kids [4 0 R 6 0 R", b"/Kids [4 0 R 1 0 R")
    told = []
    made = document("a.pdf", broken, told)
    assert made.text.endswith("Three")
    assert len(made.page_starts) == 3
    assert told == [f"{tmp_path}/a.pdf: 1 of its 3 pages cannot be read: 2"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MOST_CHARS", "holds more than the 10 characters that are read of a PDF: split it"),
        ("MOST_PAGES", "has 11 pages, more than the 10 that are read: split it"),
    ],
)
def test_a_pdf_that_holds_too_much_is_told(problem, monkeypatch, limit, message):
    # The limits are those of another process.
    code = f"from spanqa_retrieval.readers import pdf_pages; pdf_pages.{limit} = 10; pdf_pages.main()"
    monkeypatch.setattr(pdf_pages, "_CODE", code)
    assert problem("a.pdf", pdf(*[["A long line"]] * 11)) == message


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MEMORY_BYTES = 1 << 20", "breaks the PDF library, or takes more than its 2,048 MiB: leave it out"),
        (
            "_read = lambda _: __import__('os').abort()",
            "breaks the PDF library, or takes more than its 2,048 MiB: leave it out",
        ),
        (
            "CPU_S = 1; pdf_pages._read = lambda _: [0 for _ in iter(int, 1)]",
            "takes more than the 600 s that a PDF may: leave it out",
        ),
    ],
)
def test_a_pdf_that_takes_too_much_takes_only_its_own_process_down(problem, monkeypatch, limit, message):
    monkeypatch.setattr(
        pdf_pages, "_CODE", f"from spanqa_retrieval.readers import pdf_pages; pdf_pages.{limit}; pdf_pages.main()"
    )
    assert problem("a.pdf", pdf(["Text"])) == message


def test_a_module_beside_the_documents_is_not_run(document, tmp_path, monkeypatch):
    (tmp_path / "pypdfium2.py").write_text("raise SystemExit(3)")
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert document("a.pdf", pdf(["Text"])).text == "Text"


# Rows

ROWS = [
    {"id": "x1", "title": "Bridges", "text": "A bridge 🌉.", "year": 1907, "open": True, "height": 1.5, "by": "Zoë"},
    {"id": 2, "text": "A tower.", "title": None, "tags": ["a"], "of": {"b": 1}, "none": None, "bad": float("nan")},
    {"text": "A river."},
]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_parquet(rows, **options):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **options)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", as_lines(ROWS), "line 3"),
        ("a.json", as_lines(ROWS), "line 3"),
        ("a.json", json.dumps(ROWS), "[2]"),
        ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1), "data[2]"),
        (
            "a.parquet",
            as_parquet(
                [{key: None for row in ROWS for key in row} | row | {"id": str(row.get("id", ""))} for row in ROWS]
            ),
            "row 2",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_row_is_a_document(documents, name, content, place, packed):
    content = content if isinstance(content, bytes) else content.encode()
    name, content = (f"{name}.gz", gzip.compress(content)) if packed else (name, content)
    first, second, third = documents(name, content)
    assert (first.id, first.title, first.text) == ("x1", "Bridges", "A bridge 🌉.")
    assert first.metadata == {"year": 1907, "open": True, "height": 1.5, "by": "Zoë"}
    assert (second.id, second.title, second.text, second.metadata) == ("2", "", "A tower.", {})
    assert (third.id, third.title, third.text, third.metadata) == (f"{name}#{place}", "", "A river.", {})


def test_an_object_with_a_text_is_one_row(document):
    made = document("a.json", json.dumps({"title": "T", "text": "A bridge.", "year": 1907, "other": [1]}, indent=1))
    assert (made.id, made.title, made.text, made.metadata) == ("a.json", "T", "A bridge.", {"year": 1907})


def test_dates_and_decimals_of_parquet_are_metadata_as_they_are_written(document):
    row = {
        "text": "x",
        "day": date(1907, 5, 1),
        "at": datetime(1907, 5, 1, 12, tzinfo=timezone.utc),
        "price": Decimal("1.50"),
        "bytes": b"x",
        "list": [1],
    }
    metadata = document("a.parquet", as_parquet([row])).metadata
    assert metadata.pop("at").startswith("1907-05-01 12:00:00")
    assert metadata == {"day": "1907-05-01", "price": "1.50"}


GOOD = {"id": "good", "text": "A bridge."}
DEFECTS = [
    ('{"id": 1; }', "line 2 column 9: not valid JSON: Expecting ',' delimiter"),
    ("[" * 100_000, "line 2: not a dataset: its JSON is nested too deeply"),
    ('"text"', 'line 2: expected an object, got a string ("text")'),
    ({"id": "q", "context": "x"}, "line 2: text: missing; keys here: 'id', 'context'"),
    ({"text": 1}, "line 2: text: expected a string, got an integer (1)"),
    ({"text": None}, "line 2: text: expected a string, got null"),
    ({"text": " \n"}, "line 2: text: is empty"),
    ({"text": "x", "id": [1]}, "line 2: id: expected a string, got a list ([1])"),
    ({"text": "x", "title": 1}, "line 2: title: expected a string, got an integer (1)"),
    (
        {"text": "a\ud83c"},
        "line 2: text: character 1 is half of a surrogate pair, which no text may hold: fix the escape",
    ),
    (
        {"text": "x", "by": "\ud83c"},
        "line 2: by: character 0 is half of a surrogate pair, which no text may hold: fix the escape",
    ),
]


@pytest.mark.parametrize(("line", "message"), DEFECTS)
def test_a_broken_row_is_told_and_the_others_are_read(documents, tmp_path, line, message):
    told = []
    broken = line if isinstance(line, str) else json.dumps(line)
    lines = [json.dumps(GOOD), broken, json.dumps({**GOOD, "id": "behind"})]
    made = documents("a.jsonl", "\n".join(lines), told)
    assert [one.id for one in made] == ["good", "behind"]
    assert told == [f"{tmp_path}/a.jsonl: {message}"]


def test_of_many_broken_rows_the_first_are_told(documents, tmp_path):
    told = []
    documents("a.jsonl", as_lines([GOOD, *[{"id": 1}] * 100]), told)
    assert len(told) == reading.MOST_DEFECTS + 1
    assert told[-1] == f"{tmp_path}/a.jsonl: 80 more parts are left out"


def test_a_long_value_is_no_metadata_which_is_told_once(documents, tmp_path):
    told = []
    made = documents("a.jsonl", as_lines([{**GOOD, "html": "x" * 1001, "by": "Zoë"}] * 3), told)
    assert [one.metadata for one in made] == [{"by": "Zoë"}] * 3
    assert told == [
        f"{tmp_path}/a.jsonl: line 1: 'html' is longer than 1,000 characters: "
        "such values are left out of the metadata, here and in other rows"
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no text: give rows with `text`, or SQuAD's data[].paragraphs[].context"),
        ("a.json", b"[]", "holds no text: give rows with `text`, or SQuAD's data[].paragraphs[].context"),
        ("a.json", b"", "line 1 column 1: not valid JSON: Expecting value"),
        ("a.json", b'[{"text": "x"}', "line 1 column 15: not valid JSON: Expecting ',' delimiter"),
        ("a.json", b'[{"text": "x"}] []', "line 1 column 17: not valid JSON: Extra data"),
        ("a.json", b'{"a": 1, "b": "c"}', "data or text: missing; keys here: 'a', 'b'"),
        ("a.json", b"5", "top level: expected a list, got an integer (5)"),
        ("a.jsonl", b'{"text": "x"}\n\xff', "byte 14 is not UTF-8 (0xff): convert the file to UTF-8 first"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-20],
            "cannot be read: Compressed file ended before",
        ),
        ("a.parquet", b"", "row 0: cannot be read as Parquet: "),
        ("a.parquet", b"PAR1" * 10, "row 0: cannot be read as Parquet: "),
        ("a.parquet.gz", b"PAR1" * 10, "row 0: cannot be read as Parquet: "),
        ("a.parquet", as_parquet([{"id": "x", "context": "y"}]), "column text: missing; keys here: 'id', 'context'"),
    ],
)
def test_a_file_of_rows_that_cannot_be_read_is_told(problem, name, content, message):
    assert problem(name, content, []).startswith(message)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_too_long_is_told_before_it_is_held(problem, monkeypatch, name):
    monkeypatch.setattr(rows, "LONGEST_ROW", 1 << 20)
    row = '{"text": "' + "x" * (1 << 26)
    content = row if name == "a.jsonl" else f"[{row}"
    message = "holds a row of more than 1,048,576 characters, the most that is read: split it"
    assert problem(f"{name}.gz", gzip.compress(content.encode())) == message


def test_a_fault_far_from_the_end_of_a_long_file_is_told_as_it_is(problem, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST_ROW", 1 << 20)
    content = '[{"text": "x"}; ' + '{"text": "x"}, ' * 500_000
    assert problem("a.json", content) == "line 1 column 15: not valid JSON: Expecting ',' delimiter"


def test_a_parquet_file_that_unpacks_to_too_much_is_told(problem, monkeypatch):
    monkeypatch.setattr(parquet_rows, "UNPACKED_BYTES", 100)
    message = "unpacks to more than 100 bytes: unpack it, or split it"
    assert problem("a.parquet.gz", gzip.compress(as_parquet(ROWS[:1]))) == message


def test_rows_are_read_one_after_the_other(tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines([GOOD]) + "{")
    (source,) = find_sources([tmp_path / "a.jsonl"], pytest.fail)
    assert next(read_documents(source, pytest.fail)).id == "good"


# SQuAD


def article(title, *contexts):
    paragraphs = [{"context": context, "qas": [{"id": "q", "question": "?", "answers": []}]} for context in contexts]
    return {"title": title, "paragraphs": paragraphs}


@pytest.mark.parametrize("wrap", [lambda data: {"version": "2.0", "data": data}, lambda data: data])
def test_a_paragraph_of_squad_is_a_document(documents, wrap):
    data = [article("Old_bridges", "One.", "Two.", "One.", "Three."), article("Towers", "Two.", "Four.")]
    made = documents("dev.json", json.dumps(wrap(data)))
    assert [(one.id, one.title, one.text) for one in made] == [
        ("Old_bridges#1", "Old_bridges", "One."),
        ("Old_bridges#2", "Old_bridges", "Two."),
        ("Old_bridges#4", "Old_bridges", "Three."),
        ("Towers#2", "Towers", "Four."),
    ]
    assert {one.metadata["source"] for one in made} == {"dev.json"}


def test_articles_of_one_title_or_of_none_have_ids_that_differ(documents):
    data = [article("", "One."), article("T", "Two."), article("T", "Three."), article(None, "Four.")]
    made = documents("dev.json", json.dumps({"data": data}))
    assert [one.id for one in made] == ["dev.json#1", "T#1", "T#2", "dev.json#2"]


def test_a_broken_paragraph_is_told_and_the_others_are_read(documents, tmp_path):
    data = [article("T", "One.", 5, "Two."), {"title": "U", "paragraphs": 1}, {"title": 1, "paragraphs": []}]
    told = []
    made = documents("dev.json", json.dumps({"data": data}), told)
    assert [one.id for one in made] == ["T#1", "T#3"]
    assert told == [
        f"{tmp_path}/dev.json: data[0].paragraphs[1].context: expected a string, got an integer (5)",
        f"{tmp_path}/dev.json: data[1].paragraphs: expected a list, got an integer (1)",
        f"{tmp_path}/dev.json: data[2].title: expected a string, got an integer (1)",
    ]


def test_the_development_set_is_its_paragraphs(root):
    (source,) = find_sources([root / "tests" / "data" / "squad" / "dev-v2.0.json.gz"], pytest.fail)
    made = list(read_documents(source, pytest.fail))
    assert len(made) == len({one.id for one in made}) == 1204


# A folder of everything


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
