"""A PDF is read page by page in a process of its own: what is broken in it, or too much, is told and ends only that."""

import importlib.util
from pathlib import Path

import pytest

from spanqa_retrieval.readers import pdf_pages

SPEC = importlib.util.spec_from_file_location("handmade_pdf", Path(__file__).with_name("handmade_pdf.py"))
handmade_pdf = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(handmade_pdf)
pdf = handmade_pdf.pdf
ENCRYPTED = f"/ID [<{'22' * 16}> <{'22' * 16}>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 "
ENCRYPTED += f"/O <{'00' * 32}> /U <{'11' * 32}> >>"


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
