"""Passages hold all of a document, end where sentences end, and know where they stand."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa_retrieval.document import Document
from spanqa_retrieval.passages import passages_of
from spanqa_retrieval.settings import IndexSettings

SENTENCE = "The old bridge near the river was built in ten short years by people whose names nobody wrote down."
PLAIN = IndexSettings(passage_words=40, overlap_sentences=0)


def cut(text, chosen=PLAIN, **fields):
    return list(passages_of(Document(id="d", text=text, **fields), chosen))


def test_a_short_text_is_one_passage():
    (passage,) = cut(f"  {SENTENCE}\n")
    assert (passage.text, passage.char_start, passage.char_end) == (SENTENCE, 2, 2 + len(SENTENCE))


def test_a_long_paragraph_is_cut_between_sentences_and_none_is_left_over():
    text = " ".join([SENTENCE] * 9)  # 19 words each
    passages = cut(text)
    assert [passage.text.count("bridge") for passage in passages] == [3, 3, 3]
    assert all(passage.text == text[passage.char_start : passage.char_end] for passage in passages)


def test_passages_of_a_paragraph_have_sentences_in_common_and_those_of_two_paragraphs_none():
    shared = IndexSettings(passage_words=40, overlap_sentences=1)
    paragraph = " ".join(f"{SENTENCE[:-1]} {number}." for number in range(7))
    first, second, *_ = cut(paragraph, shared)
    assert second.char_start < first.char_end
    assert second.text.startswith(SENTENCE[:-1])
    assert first.text.endswith(second.text[: second.text.index(".") + 1])
    one, other = cut(f"{SENTENCE} {SENTENCE}\n\n{SENTENCE} {SENTENCE}", shared)
    assert one.char_end <= other.char_start


def test_headings_and_entries_of_lists_go_with_what_follows():
    (passage,) = cut(f"Bridges\n\n- one\n\n- two\n\n{SENTENCE}")
    assert passage.text.startswith("Bridges")


def test_a_paragraph_that_is_a_little_too_long_stays_whole():
    assert len(cut(" ".join([SENTENCE] * 3))) == 1  # 57 words


def test_a_text_without_sentences_is_cut_at_spaces():
    passages = cut("word " * 5000)
    assert all(len(passage.text.split()) <= 4 * 40 for passage in passages)
    assert sum(len(passage.text.split()) for passage in passages) == 5000


def test_lines_without_stops_are_cut_between_words():
    words = [f"hydrogenperoxide{number}" for number in range(400)]
    cut_words = [word for passage in cut("\n".join(words)) for word in passage.text.split()]
    assert cut_words == words


def test_a_text_without_spaces_is_cut_all_the_same():
    text = "x" * 100_000
    passages = cut(text)
    assert "".join(passage.text for passage in passages) == text
    assert max(len(passage.text) for passage in passages) <= 1000


def test_pages_are_known_within_a_passage():
    text = " ".join([SENTENCE] * 6)
    starts = (0, 150, 420)
    passages = cut(text, page_starts=starts, title="Bridges", metadata={"year": 1999})
    for passage in passages:
        assert (passage.title, passage.metadata) == ("Bridges", {"year": 1999})
        for place in range(len(passage.text)):
            expected = sum(start <= passage.char_start + place for start in starts)
            assert passage.page_at(place) == expected
    assert cut(SENTENCE)[0].page_at(3) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("ab .!?\n。東\u00a0é"), max_size=400), st.integers(0, 5))
def test_whatever_the_text_every_word_is_in_a_passage(text, overlap):
    passages = cut(text, IndexSettings(passage_words=10, overlap_sentences=overlap))
    covered = set()
    for passage in passages:
        assert passage.text == text[passage.char_start : passage.char_end]
        assert passage.text.strip()
        covered.update(range(passage.char_start, passage.char_end))
    assert all(char.isspace() for place, char in enumerate(text) if place not in covered)
    starts = [passage.char_start for passage in passages]
    assert starts == sorted(set(starts))
