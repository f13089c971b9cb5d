"""A page becomes the text that a browser shows, in the encoding that it says, and brings in no other file."""

import pytest

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
