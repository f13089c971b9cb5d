"""A document's passages: whole paragraphs where they are short, otherwise runs of whole sentences."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from spanqa.sentences import sentence_spans
from spanqa_retrieval.document import Document, Passage
from spanqa_retrieval.settings import IndexSettings

CHARS_A_WORD = 8
"""Where words are not set apart by spaces, so many code points count as one."""
_SPACES = " \n\t\u00a0"
LONG = 1.5
"""A passage may have so many times the words that are asked for, rather than leave a few sentences of a paragraph."""
SHORT = 0.5
"""A passage of fewer than so many times these words takes in the next paragraph: headings, entries of lists."""


_PARAGRAPH_ENDS = re.compile(r"(?:\n[^\S\n]*\n|[\f\u2029])\s*")


class _Sentence(NamedTuple):
    """A sentence, or a short paragraph, which is not cut."""

    start: int
    end: int
    n_words: int
    is_first: bool
    """Whether a paragraph begins with it."""


def passages_of(document: Document, settings: IndexSettings) -> Iterator[Passage]:
    """Cut a document into passages, in order; together they hold all of its text but white space between sentences.

    Args:
        document: The document.
        settings: How long they are, and what they have in common.
    """
    sentences = list(_sentences(document.text, settings))
    for first, last in _runs(sentences, settings):
        start, end = sentences[first].start, sentences[last - 1].end
        page = document.page_at(start)
        begins = document.page_starts
        own = begins[bisect_right(begins, start) : bisect_left(begins, end)] if page else ()
        yield Passage(
            document=document.id,
            title=document.title,
            text=document.text[start:end],
            char_start=start,
            page_starts=(0, *(begin - start for begin in own)) if page else (),
            first_page=page,
            metadata=document.metadata,
        )


def _runs(sentences: list[_Sentence], settings: IndexSettings) -> Iterator[tuple[int, int]]:
    """Give the sentences of each passage as a range."""
    wanted = settings.passage_words
    left = _words_left(sentences)
    first, n_words = 0, 0
    for place, sentence in enumerate(sentences):
        is_full = n_words + sentence.n_words > LONG * wanted or (n_words >= wanted and left[place] > SHORT * wanted)
        if n_words and (is_full or (sentence.is_first and n_words >= SHORT * wanted)):
            yield first, place
            first = place if sentence.is_first else _shared_from(sentences, first, place, settings)
            n_words = sum(shared.n_words for shared in sentences[first:place])
        n_words += sentence.n_words
    if sentences:
        yield first, len(sentences)


def _words_left(sentences: list[_Sentence]) -> list[int]:
    """Give for each sentence the words from it to the end of its paragraph."""
    left = [0] * len(sentences)
    n_words = 0
    for place in range(len(sentences) - 1, -1, -1):
        n_words += sentences[place].n_words
        left[place] = n_words
        if sentences[place].is_first:
            n_words = 0
    return left


def _shared_from(sentences: list[_Sentence], first: int, place: int, settings: IndexSettings) -> int:
    """Give the first sentence that a passage has in common with the one before, which is never all of that one."""
    shared, n_words = place, 0
    while shared - 1 > first and place - shared < settings.overlap_sentences and not sentences[shared].is_first:
        n_words += sentences[shared - 1].n_words
        if n_words > SHORT * settings.passage_words:
            break
        shared -= 1
    return shared


def _sentences(text: str, settings: IndexSettings) -> Iterator[_Sentence]:
    """Give short paragraphs whole, and the sentences of the others, those that are too long in pieces."""
    most = 2 * settings.passage_words * CHARS_A_WORD
    for start, end in _paragraphs(text):
        paragraph = text[start:end]
        n_words = _n_words(paragraph)
        if n_words <= settings.passage_words:
            yield _Sentence(start, end, n_words, True)
            continue
        is_first = True
        for low, high in sentence_spans(paragraph):
            for piece, cut in _pieces(paragraph, low, high, most):
                yield _Sentence(start + piece, start + cut, _n_words(paragraph[piece:cut]), is_first)
                is_first = False


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Give the paragraphs of a text, without the white space around them."""
    start = len(text) - len(text.lstrip())
    has_gaps = any(sign in text for sign in "\n\f\u2029")  # far sooner found out than where they are
    for gap in _PARAGRAPH_ENDS.finditer(text, start) if has_gaps else ():
        yield start, gap.start() - _n_spaces_before(text, gap.start())
        start = gap.end()
    if start < len(text):
        yield start, len(text.rstrip())


def _n_spaces_before(text: str, end: int) -> int:
    n = 0
    while text[end - n - 1].isspace():
        n += 1
    return n


def _pieces(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut a sentence that is too long, at spaces where there are any."""
    while end - start > most:
        cut = max(text.rfind(space, start + 1, start + most) for space in _SPACES) + 1 or start + most
        yield start, cut
        start = cut
    yield start, end


def _n_words(text: str) -> int:
    return max(len(text.split()), len(text) // CHARS_A_WORD)
