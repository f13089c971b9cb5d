"""HTML pages as documents: the text that a browser shows, with paragraphs, lists and rows of tables apart."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

from inscriptis.css_profiles import STRICT_CSS_PROFILE
from inscriptis.html_engine import Inscriptis
from inscriptis.html_properties import Display
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_element import HtmlElement
from inscriptis.model.tag import CustomHtmlTagHandlerMapping
from lxml import etree
from lxml.html import HTMLParser, document_fromstring

from spanqa_retrieval.document import Document
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.readers.texts import bytes_of, document_of
from spanqa_retrieval.sources import Source

LIMIT_BYTES = 16 << 20
"""Of a page: its tree takes some ten times as much."""
MOST_ELEMENTS = 300_000
"""Of a page: inscriptis copies a paragraph for each element in it."""
_HIDDEN = (
    "head", "script", "style", "template", "noscript", "noframes", "svg", "iframe", "object", "canvas", "audio",
    "video", "select", "datalist",
)  # fmt: skip
_APART = (
    "body", "p", "div", "main", "article", "section", "header", "footer", "nav", "aside", "address", "hgroup", "h1",
    "h2", "h3", "h4", "h5", "h6", "blockquote", "figure", "pre", "figcaption", "table",
    "caption", "tr", "form", "fieldset", "details", "summary",
)  # fmt: skip
"""What is set apart by blank lines, so that no sentence crosses its borders."""
_CODECS = re.compile(
    r"utf-8|cp\d{3,4}|iso8859-\d+|koi8-[rtu]|shift_jis|euc_jp|iso2022_jp|euc_kr|gbk|gb2312|gb18030|big5(hkscs)?|"
    r"tis-620|mac-roman"
)
"""Encodings of the Web, as Python names them; others could be used to make much of little."""
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(
    rb"<(?:meta|\?xml)\b[^>]{0,300}?\b(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.I
)
_DECLARED_WITHIN = 4096
"""Bytes in which a page says its encoding."""


def read_html(source: Source) -> Document:
    """Read a page; its title is what `<title>` says, else its first heading of the first level.

    Nothing that it refers to is loaded.

    Raises:
        SourceError: It cannot be read, is too large, or shows no text.
    """
    content = _decoded(bytes_of(source.path, LIMIT_BYTES))
    if "\0" in content:
        raise SourceError(f"{source.path}: holds a zero character, which no page does: is it HTML?")
    # What the page says of its encoding is behind us.
    parser = HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True)
    try:
        tree = document_fromstring(content.encode(errors="replace"), parser=parser)
    except etree.ParserError as error:
        raise SourceError(f"{source.path}: holds no text") from error
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise _too_deep(source)
    title = _title(tree)
    _tidy(source, tree)
    try:
        text = Inscriptis(tree, _CONFIG).get_text().strip("\n")
    except RecursionError as error:
        raise _too_deep(source) from error
    return document_of(source, text, title)


def _too_deep(source: Source) -> SourceError:
    return SourceError(f"{source.path}: its elements are nested too deeply to be read: mend the page, or leave it out")


def _decoded(content: bytes) -> str:
    """Decode a page as a browser does: by its first bytes, else as it says, else as UTF-8 or Western European."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="replace")
    declared = _DECLARED.search(content[:_DECLARED_WITHIN])
    if declared and (encoding := _encoding(declared.group(1).decode("ascii", errors="replace"))):
        return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _encoding(label: str) -> str:
    """Give the name of an encoding that a page may be in; empty for another."""
    try:
        name = codecs.lookup(label).name
    except LookupError:
        return ""
    # The Web's Latin-1 is Windows's; a page that says UTF-16 in letters of one byte is not in it.
    name = {"iso8859-1": "cp1252", "ascii": "cp1252", "utf-16": "utf-8"}.get(name, name)
    return name if _CODECS.fullmatch(name) else ""


def _title(tree: Any) -> str:
    for path in ("./head//title", ".//h1"):
        for element in tree.iterfind(path):
            if title := " ".join("".join(element.itertext()).split()):
                return title
    return ""


def _tidy(source: Source, tree: Any) -> None:
    """Prepare a page for inscriptis, which then needs no memory beyond a few times the page's."""
    n_elements = 0
    for element in tree.iter():
        n_elements += 1
        if not isinstance(element.tag, str):
            continue
        attributes = element.attrib
        if "hidden" in attributes or "display:none" in "".join(attributes.get("style", "").lower().split()):
            element.tag = "template"
        # Margins and indents of their own would become white space without end.
        attributes.clear()
        for name in ("text", "tail"):
            if "&" in (text := getattr(element, name) or ""):
                setattr(element, name, text.replace("&", "&amp;"))  # inscriptis decodes what is decoded
        if element.tag in ("td", "th") and element.getprevious() is not None:
            element.text = " | " + (element.text or "")
    if n_elements > MOST_ELEMENTS:
        raise SourceError(f"{source.path}: has {n_elements:,} elements: {MOST_ELEMENTS:,} at most are read: split it")


def _profile() -> dict[str, HtmlElement]:
    profile: dict[str, HtmlElement] = dict(STRICT_CSS_PROFILE)
    profile.update({name: HtmlElement(display=Display.none) for name in _HIDDEN})
    for name in _APART:
        kept: Mapping[str, Any] = {"whitespace": profile[name].whitespace} if name in profile else {}
        profile[name] = HtmlElement(display=Display.block, margin_before=1, margin_after=1, **kept)
    # inscriptis gives a block's lower margin to those in it as their upper one: entries would stand apart.
    profile.update({name: HtmlElement(display=Display.block, margin_before=1) for name in ("ul", "ol", "dl", "dt")})
    profile["dd"] = HtmlElement(display=Display.block)
    return profile


def _open_list(state: Any, _: Any) -> None:
    state.li_counter.append("- ")


# Tables drawn in columns would grow with rows times the longest cell.
_TABLES = ("table", "tr", "td", "th")
_CONFIG = ParserConfig(
    css=_profile(),
    custom_html_tag_handler_mapping=CustomHtmlTagHandlerMapping(
        start_tag_mapping={"ul": _open_list, **dict.fromkeys(_TABLES)},
        end_tag_mapping=dict.fromkeys(_TABLES),
    ),
)
