"""SQuAD's answer normalisation: a text as the tuple of its normalised words."""

from __future__ import annotations

import re
import string

_ARTICLES = frozenset({"a", "an", "the"})
_DELETE_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalized_words(text: str) -> tuple[str, ...]:
    """Give the words that SQuAD's metrics compare.

    The definition (SQuAD 2.0 evaluation): lower-case, delete ASCII punctuation, replace the articles "a", "an"
    and "the" by a space, split at whitespace. Punctuation goes before articles, so "a.m." is "am" and "a-b" is
    "ab"; curly quotes, dashes and accents stay.

    Args:
        text: An answer, gold or predicted.

    Returns:
        The words; none for a text of articles and punctuation only.
    """
    text = text.lower().translate(_DELETE_PUNCTUATION)
    if text.isascii() and text.isprintable():
        # Without punctuation only letters, digits and spaces are left, so articles are whole words.
        return tuple([word for word in text.split() if word not in _ARTICLES])
    # Elsewhere a word boundary can lie inside a word: a curly quote or a dash next to an article.
    return tuple(_ARTICLE.sub(" ", text).split())
