"""Windows hold the whole context, exactly as specified, for any text that Unicode allows."""

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spanqa.errors import InputError, SettingsError, TokenizerError
from spanqa.pair_template import bert_pair
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, Windows, WindowSettings, batch_windows, cut_windows

# One sample of every kind of trouble; any character of Unicode 3.2, which all libraries agree about, may follow.
TROUBLE = (
    "the bridge of cats [SEP] zqx0",
    "😀🚀👍🏽👩\u200d🚀🇩🇪",  # astral, skin tones, joiners, flags
    "e\u0301o\u0308\u0323\u0301a\u20dd",  # combining marks, several on one letter
    "東京大学に行く。",
    "한국어 \u1112\u1161\u11ab",  # Hangul as syllables and as parts
    "שָׁלוֹם עולם مَرْحَبًا",  # right to left, with points
    "\t\n\r\u00a0\u3000\u2009\u200b\u2028\u2029\u0085",  # white space of all widths, and what only looks so
    "\x00\x01\x07\x1b\x7f\u00ad\ufeff\u202e\ufffd",  # control and format characters
    "İıßŉǰﬁﷺſK",  # lower-casing that changes lengths
    "𝒳𐍈𠀀\U0010fffd",
)
CHARACTERS = st.one_of(
    st.sampled_from("".join(TROUBLE)),
    st.characters(blacklist_categories=("Cs", "Cn")).filter(
        lambda character: unicodedata.ucd_3_2_0.category(character) != "Cn"
    ),
)
TEXTS = st.lists(st.one_of(st.text(CHARACTERS, max_size=6), st.sampled_from(TROUBLE)), max_size=8).map(" ".join)


@st.composite
def window_settings(draw):
    query, stride = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    return WindowSettings(
        max_query_length=query, doc_stride=stride, max_seq_length=query + 3 + stride + draw(st.integers(0, 12))
    )


def kept_characters(text):
    """Indices of the characters that lower-casing WordPiece keeps: no space, no control character, no lone mark."""
    return [
        index
        for index, character in enumerate(text)
        if character != "\ufffd"
        and not character.isspace()
        and unicodedata.category(character)[0] not in "CZ"
        and any(unicodedata.category(part) != "Mn" for part in unicodedata.normalize("NFD", character))
    ]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXTS, TEXTS, window_settings())
@example("the", " ".join(TROUBLE), WindowSettings(max_query_length=1, doc_stride=1, max_seq_length=5))
@example("what is it", "the " * 128 + "x" * 300, WindowSettings())
def test_windows_hold_every_piece_and_character_as_specified(tokenizer, question, context, window_settings):
    maker = WindowMaker(tokenizer, window_settings)
    question_pieces, document = tokenizer.pieces(question), tokenizer.pieces(context)
    if not len(question_pieces) or not len(document):
        with pytest.raises(InputError, match="holds no word"):
            maker.windows(question, context)
        return
    windows = maker.windows(question, context)
    np.testing.assert_array_equal(windows.document.chars, document.chars)
    assert_pieces_index(context, document)
    assert_cut(windows, len(question_pieces), window_settings)
    assert_laid_out(windows, question_pieces, tokenizer)
    covered = set()
    for start, length in zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True):
        for low, high in document.chars[start : start + length].tolist():
            covered.update(range(low, high))
    assert set(kept_characters(context)) <= covered


def assert_pieces_index(text, pieces):
    """Each piece is a slice of the text that is not empty, and pieces stand in the text's order."""
    chars = pieces.chars
    assert (chars[:, 0] < chars[:, 1]).all()
    assert chars.min() >= 0
    assert chars.max() <= len(text)
    assert (np.diff(chars, axis=0) >= 0).all()
    following = chars[1:][(chars[1:] != chars[:-1]).any(axis=1)]
    before = chars[:-1][(chars[1:] != chars[:-1]).any(axis=1)]
    assert (following[:, 0] >= before[:, 1]).all()  # apart, unless they share the same character


def assert_cut(windows, n_question, window_settings):
    """Starts, lengths and number are those of the specification."""
    n_pieces, stride = len(windows.document), window_settings.doc_stride
    n_kept = min(n_question, window_settings.max_query_length)
    room = window_settings.max_seq_length - 3 - n_kept
    assert windows.room == room
    assert len(windows.question_ids) == n_kept
    assert windows.question_truncated is (n_question > window_settings.max_query_length)
    assert windows.starts.tolist() == [index * stride for index in range(len(windows))]
    assert windows.lengths.tolist() == [min(room, n_pieces - index * stride) for index in range(len(windows))]
    ends = (windows.starts + windows.lengths).tolist()
    assert ends[-1] == n_pieces
    assert n_pieces not in ends[:-1]
    pieces = {piece for start, end in zip(windows.starts.tolist(), ends, strict=True) for piece in range(start, end)}
    assert pieces == set(range(n_pieces))


def assert_laid_out(windows, question_pieces, tokenizer):
    """Each row is [CLS] question [SEP] window [SEP], with types, mask and padding to match."""
    batch = batch_windows([(windows, index) for index in range(len(windows))])
    n_question = len(windows.question_ids)
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.token_type_ids.shape
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.token_type_ids.dtype == np.int32
    assert batch.input_ids.shape == (len(windows), windows.seq_lengths.max())
    for index in range(len(windows)):
        start, length = int(windows.starts[index]), int(windows.lengths[index])
        expected = [
            tokenizer.cls_id,
            *question_pieces.ids[:n_question].tolist(),
            tokenizer.sep_id,
            *windows.document.ids[start : start + length].tolist(),
            tokenizer.sep_id,
        ]
        n_padding = batch.input_ids.shape[1] - len(expected)
        assert windows.input_ids(index).tolist() == expected
        assert windows.seq_lengths[index] == len(expected)
        assert windows.context_offset == n_question + 2
        assert batch.input_ids[index].tolist() == expected + [tokenizer.pad_id] * n_padding
        assert batch.attention_mask[index].tolist() == [1] * len(expected) + [0] * n_padding
        types = [0] * (n_question + 2) + [1] * (length + 1) + [0] * n_padding
        assert batch.token_type_ids[index].tolist() == types


def pieces_of(n_pieces, first_id=10):
    starts = np.arange(n_pieces, dtype=np.int32)
    chars = np.stack((starts, starts + 1), axis=1)
    return Pieces(ids=starts + np.int32(first_id), chars=chars, continues=np.zeros(n_pieces, dtype=bool))


def test_word_pieces_cannot_be_made_without_the_words_that_they_continue():
    pieces = pieces_of(2)
    with pytest.raises(TypeError, match="continues"):
        Pieces(ids=pieces.ids, chars=pieces.chars)


@pytest.mark.parametrize(
    ("n_pieces", "expected"),
    [
        (1, [(0, 1)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (4, 7)]),
        (14, [(0, 10), (4, 10)]),
        (15, [(0, 10), (4, 10), (8, 7)]),
    ],
)
def test_doc_stride_is_the_step_not_the_overlap(n_pieces, expected):
    window_settings = WindowSettings(max_seq_length=15, doc_stride=4, max_query_length=2)
    windows = cut_windows(pieces_of(5), pieces_of(n_pieces), window_settings, bert_pair(1, 2, 0))
    assert list(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True)) == expected


def test_a_shorter_question_leaves_its_room_to_the_context():
    window_settings = WindowSettings(max_seq_length=15, doc_stride=4, max_query_length=8)
    assert cut_windows(pieces_of(8), pieces_of(9), window_settings, bert_pair(1, 2, 0)).room == 4
    short = cut_windows(pieces_of(2), pieces_of(9), window_settings, bert_pair(1, 2, 0))
    assert (short.room, len(short), short.question_truncated) == (10, 1, False)


def test_a_question_over_the_limit_is_cut_and_says_so():
    window_settings = WindowSettings(max_query_length=4, doc_stride=4, max_seq_length=20)
    exact = cut_windows(pieces_of(4), pieces_of(3), window_settings, bert_pair(1, 2, 0))
    over = cut_windows(pieces_of(5), pieces_of(3), window_settings, bert_pair(1, 2, 0))
    assert (exact.question_truncated, over.question_truncated) == (False, True)
    np.testing.assert_array_equal(exact.input_ids(0), over.input_ids(0))


def test_windows_of_several_questions_share_a_batch():
    window_settings = WindowSettings(max_seq_length=15, doc_stride=4, max_query_length=4)
    one = cut_windows(pieces_of(1), pieces_of(11), window_settings, bert_pair(1, 2, 9))
    other = cut_windows(pieces_of(4), pieces_of(3, first_id=50), window_settings, bert_pair(1, 2, 9))
    batch = batch_windows([(other, 0), (one, 0)], length=20)
    assert batch.input_ids.tolist() == [
        [1, 10, 11, 12, 13, 2, 50, 51, 52, 2, *[9] * 10],
        [1, 10, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 2, *[9] * 5],
    ]
    assert batch.token_type_ids.tolist() == [[0] * 6 + [1] * 4 + [0] * 10, [0] * 3 + [1] * 12 + [0] * 5]
    assert batch.attention_mask.sum(axis=1).tolist() == [10, 15]
    assert batch_windows([(other, 0), (one, 0)]).input_ids.shape == (2, 15)


def test_a_window_that_does_not_fit_the_length_is_refused():
    windows = cut_windows(pieces_of(1), pieces_of(11), WindowSettings(), bert_pair(1, 2, 0))
    with pytest.raises(InputError, match="a window of 15 tokens does not fit into a batch of length 14"):
        batch_windows([(windows, 0)], length=14)


def test_each_distinct_text_is_tokenised_once(tokenizer):
    maker = WindowMaker(tokenizer, WindowSettings())
    context = "the cat sat on the mat"
    first, second = maker.windows_of_many([("who sat", context), ("where", context)])
    assert first.document is second.document
    np.testing.assert_array_equal(second.input_ids(0), maker.windows("where", context).input_ids(0))


@pytest.mark.parametrize("empty", ["", " \u00a0\n", "\x00\x07", "\ufffd", "\u0301"])
def test_a_text_without_a_word_is_named(tokenizer, empty):
    maker = WindowMaker(tokenizer, WindowSettings())
    with pytest.raises(InputError, match=r"^the question holds no word"):
        maker.windows(empty, "the cat")
    with pytest.raises(InputError, match=r"^the context holds no word"):
        maker.windows("the cat", empty)


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        WindowMaker(tokenizer, WindowSettings()).windows("the", "cat \udfff")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_stride": 0}, r"doc_stride \(0\) .* must be at least 1"),
        ({"doc_stride": -5}, r"doc_stride \(-5\)"),
        ({"max_query_length": 0}, r"max_query_length \(0\) must be at least 1"),
        ({"max_seq_length": 194}, "max_seq_length 194 is too short: .* need at least 195"),
        ({"doc_stride": 318}, "need at least 385: raise it, or lower one of the two"),
        ({"max_query_length": 254}, "need at least 385"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        WindowSettings(**changes)


def test_the_tightest_settings_are_accepted():
    assert WindowSettings(max_seq_length=195).max_seq_length == 195
    assert WindowSettings(doc_stride=317).doc_stride == 317


def test_windows_of_repositories_that_were_built_before_templates_are_the_same():
    """Their postprocess model says special_ids where today's says pair."""
    parts = {"question_ids": pieces_of(3).ids, "document": pieces_of(9), "room": 5, "question_truncated": False}
    parts |= {"starts": np.zeros(1, dtype=np.int32), "lengths": np.array([5], dtype=np.int32)}
    old, new = Windows(special_ids=(1, 2, 0), **parts), Windows(pair=bert_pair(1, 2, 0), **parts)
    assert old.pair == new.pair
    assert old.context_offset == 5
    assert old.seq_lengths.tolist() == [11]
    assert old.input_ids(0).tolist() == new.input_ids(0).tolist()
