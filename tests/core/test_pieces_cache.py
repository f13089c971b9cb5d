"""A text is tokenised once while it is kept, and what is kept takes no more memory than was said."""

import gc
import random
import tracemalloc

import numpy as np
import pytest

from spanqa.pieces_cache import PiecesCache

WORDS = {
    "ascii": ["the", "bridge", "towers", "1950s", "."],
    "latin": ["école", "straße", "où"],
    "east": ["東京", "한국어", "שבא"],
    "emoji": ["🚀", "😀", "cat"],
}


@pytest.fixture
def made(tokenizer):
    """Makes a cache, and the list of what it has tokenised."""

    def make(limit_bytes=1_000_000):
        tokenised = []

        def tokenize(texts):
            tokenised.extend(texts)
            return tokenizer.pieces_of_many(texts)

        return PiecesCache(tokenize, limit_bytes=limit_bytes), tokenised

    return make


def assert_same(found, tokenizer):
    for text, pieces in found.items():
        expected = tokenizer.pieces(text)
        for name in ("ids", "chars", "continues"):
            np.testing.assert_array_equal(getattr(pieces, name), getattr(expected, name))


def test_pieces_are_the_tokenizers_first_and_later(made, tokenizer):
    cache, tokenised = made()
    for _ in range(3):
        found = cache.pieces(["the cat", "École 東京 🚀", "the cat", "\t"], ["who?", "the cat", ""])
        assert set(found) == {"the cat", "École 東京 🚀", "\t", "who?", ""}
        assert_same(found, tokenizer)
    assert tokenised.count("the cat") == tokenised.count("École 東京 🚀") == 1
    assert tokenised.count("who?") == 3  # a question is not kept


def test_hits_and_misses_are_those_of_texts_that_are_kept(made):
    cache, _ = made()
    cache.pieces(["a", "b", "a"], ["q", "r"])
    assert (cache.n_hits, cache.n_misses) == (1, 2)
    cache.pieces(["a", "c"], ["q", "b"])
    assert (cache.n_hits, cache.n_misses) == (2, 3)


def test_the_text_that_was_not_asked_about_for_the_longest_time_goes_first(made):
    texts = [f"text {number} " + "the " * 100 for number in range(10)]
    cache, tokenised = made()
    cache.pieces(texts[:1])
    cache, tokenised = made(limit_bytes=cache.n_bytes * 5 + 100)
    for text in texts[:5]:
        cache.pieces([text])
    cache.pieces([texts[0]])  # which makes the second the oldest
    cache.pieces([texts[5]])
    tokenised.clear()
    cache.pieces([texts[0], *texts[2:6]])
    assert tokenised == []
    cache.pieces([texts[1]])
    assert tokenised == [texts[1]]


def test_a_text_of_more_than_a_quarter_is_not_kept(made):
    cache, tokenised = made(limit_bytes=20_000)
    kept, large = "the " * 50, "the " * 2000
    cache.pieces([kept])
    for _ in range(2):
        cache.pieces([large])
    assert tokenised == [kept, large, large]
    cache.pieces([kept])
    assert tokenised == [kept, large, large]


def test_no_memory_keeps_nothing(made, tokenizer):
    cache, tokenised = made(limit_bytes=0)
    for _ in range(2):
        assert_same(cache.pieces(["the cat"]), tokenizer)
    assert (tokenised, cache.n_bytes) == (["the cat"] * 2, 0)


def test_the_count_of_bytes_comes_back_to_what_is_kept(made):
    chance = random.Random(3)
    cache, _ = made(limit_bytes=30_000)
    for number in range(300):
        words = [chance.choice(chance.choice(list(WORDS.values()))) for _ in range(chance.choice([1, 10, 100]))]
        cache.pieces([" ".join([str(number % 40), *words])])
        assert 0 <= cache.n_bytes <= 30_000
    sizes = [made() for _ in cache._kept]
    for (other, _), text in zip(sizes, cache._kept, strict=True):
        other.pieces([text])
    assert cache.n_bytes == sum(other.n_bytes for other, _ in sizes) > 15_000


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("n_words", [1, 30, 1000])
def test_what_is_kept_takes_the_memory_that_is_counted(tokenizer, kind, n_words):
    limit_bytes = 500_000
    chance = random.Random(n_words)
    words = [chance.choice(WORDS[kind]) for _ in range(n_words)]
    cache = PiecesCache(tokenizer.pieces_of_many, limit_bytes=limit_bytes)
    cache.pieces(["warm up"])
    gc.collect()
    tracemalloc.start()
    try:
        n_texts = 0
        while len(cache._kept) == n_texts + 1:  # until the first one goes
            sent = f"{n_texts} {' '.join(words)}".encode()
            cache.pieces([sent.decode()], ["who?"])  # a text of its own, as from a request
            n_texts += 1
        del sent
        gc.collect()
        # Of the code that keeps: the threads of whoever runs the tests allocate too.
        ours = [tracemalloc.Filter(True, pattern) for pattern in ("*/spanqa/*", "*/numpy/*", __file__)]
        taken = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)
    finally:
        tracemalloc.stop()
    assert cache.n_bytes > 0.7 * limit_bytes
    # A hundredth for what measuring takes itself.
    assert 0.7 * cache.n_bytes < taken <= 1.01 * limit_bytes + 4096
