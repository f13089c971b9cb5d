"""Words, fields and queries of an index by tantivy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tantivy

from spanqa_retrieval.document import Scalar, label_of

ANALYZER = "whitespace"
"""One of tantivy's own: the index gets the words that `Words` makes, with spaces between them."""
NO_WORDS = "spanqa-none"
"""Makes no word of a text, which is only kept: tantivy's bytes would do, but take their time on the way from Python."""
COMMON = 0.5
"""Of the passages: a word that stands in more of them tells little, and costs half of a query's time (measured)."""
MANY = 1000
"""Passages from which on that can be said of a word."""


def schema_of() -> tantivy.Schema:
    """Give the fields of an index."""
    builder = tantivy.SchemaBuilder()
    for name in ("kind", "source", "label"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    for name in ("title", "text"):
        builder.add_text_field(name, tokenizer_name=ANALYZER, index_option="freq")
    builder.add_text_field("stored", tokenizer_name=NO_WORDS, index_option="basic", stored=True)
    return builder.build()


def register_analyzers(index: tantivy.Index) -> None:
    """Tell an index that is to be written what the names in its schema mean."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.raw()).filter(tantivy.Filter.remove_long(1))
    index.register_tokenizer(NO_WORDS, builder.build())


def telling(searcher: tantivy.Searcher, words: Sequence[str]) -> Sequence[str]:
    """Leave out of a query the words that stand nearly everywhere, where others of it stand anywhere.

    Args:
        searcher: The index.
        words: The query's.
    """
    n_passages = searcher.num_docs
    if n_passages < MANY:
        return words
    found = {word: searcher.doc_freq("text", word) for word in words}
    rare = [word for word in words if found[word] <= COMMON * n_passages]
    return rare if any(found[word] or searcher.doc_freq("title", word) for word in rare) else words


def query_of(schema: tantivy.Schema, words: Sequence[str], title_weight: float) -> tantivy.Query:
    """Make the query for passages that hold any of some words.

    Args:
        schema: The index's.
        words: As `Words` makes them.
        title_weight: What a word found in a title counts against one found in the text.
    """
    should = tantivy.Occur.Should
    terms = [(should, tantivy.Query.term_query(schema, "text", word, index_option="freq")) for word in words]
    for word in words if title_weight else ():
        term = tantivy.Query.term_query(schema, "title", word, index_option="freq")
        terms.append((should, tantivy.Query.boost_query(term, title_weight)))
    return tantivy.Query.boolean_query(terms)


def filtered(schema: tantivy.Schema, query: tantivy.Query, filters: Mapping[str, Sequence[Scalar]]) -> tantivy.Query:
    """Keep of a query's passages those that have one of the values of each key; scores stay as they are.

    Args:
        schema: The index's.
        query: The query.
        filters: Values by key.
    """
    if not filters:
        return query
    must = [(tantivy.Occur.Must, query)]
    for key, values in filters.items():
        labels = [tantivy.Query.term_query(schema, "label", label_of(key, value)) for value in values]
        either = tantivy.Query.boolean_query([(tantivy.Occur.Should, label) for label in labels])
        must.append((tantivy.Occur.Must, tantivy.Query.const_score_query(either, 0.0)))
    return tantivy.Query.boolean_query(must)
