"""Offsets lose the space that a piece carries, gain what was composed, and say what continues a word."""

import numpy as np
import pytest

from spanqa.visible_offsets import continuations, visible_offsets


def offsets(*pairs):
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def visible(text, *pairs, spaces=()):
    is_space = np.array([index in spaces for index in range(len(pairs))], dtype=bool)
    return visible_offsets(text, offsets(*pairs), is_space).tolist()


def test_white_space_and_controls_are_taken_off_both_ends():
    assert visible("a  bc \x07d", (0, 2), (2, 6), (6, 8)) == [[0, 1], [3, 5], [7, 8]]
    assert visible("\u3000東\u00a0", (0, 3)) == [[1, 2]]


def test_a_blank_piece_has_the_next_start_and_the_last_end():
    assert visible(" a\n\nb ", (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)) == [
        [1, 0],
        [1, 2],
        [4, 2],
        [4, 2],
        [4, 5],
        [6, 5],
    ]


def test_a_sign_for_a_space_that_stands_where_the_word_begins_is_blank():
    assert visible("ab cd", (0, 1), (0, 2), (3, 4), (3, 5), spaces=(0, 2)) == [[0, 0], [0, 2], [3, 2], [3, 5]]


def test_pieces_of_one_character_keep_it():
    assert visible("x🚀y", (0, 1), (1, 2), (1, 2), (2, 3)) == [[0, 1], [1, 2], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("text", "pairs", "expected"),
    [
        ("cafe\u0301 x", [(0, 3), (3, 4), (6, 7)], [[0, 3], [3, 5], [6, 7]]),  # é of e and its accent
        ("\u1112\u1161\u11ab글", [(0, 1), (3, 4)], [[0, 3], [3, 4]]),  # 한 of its three parts
        ("ｶﾞ", [(0, 1)], [[0, 2]]),
        ("a ``b''", [(0, 1), (3, 4), (4, 5), (6, 7)], [[0, 1], [2, 4], [4, 5], [5, 7]]),  # " for two signs
        ("a\x00b\u200b", [(0, 1), (2, 3)], [[0, 1], [2, 3]]),  # what was deleted belongs to nobody
        ("\u0301a", [(1, 2)], [[1, 2]]),
    ],
)
def test_what_a_normaliser_made_one_of_several_is_one_piece(text, pairs, expected):
    assert visible(text, *pairs) == expected


def test_no_pieces_have_no_offsets():
    assert visible("\x07") == []
    assert continuations("", offsets()).tolist() == []


@pytest.mark.parametrize(
    ("text", "pairs", "expected"),
    [
        ("towers", [(0, 5), (5, 6)], [0, 1]),
        ("1950s", [(0, 4), (4, 5)], [0, 1]),
        ("don't", [(0, 3), (3, 4), (4, 5)], [0, 0, 0]),
        ("$5 €5", [(0, 1), (1, 2), (3, 4), (4, 5)], [0, 0, 0, 0]),
        ("東京a", [(0, 1), (1, 2), (2, 3)], [0, 0, 0]),
        ("น้ำ", [(0, 1), (1, 2), (2, 3)], [0, 1, 0]),
        ("한국어", [(0, 1), (1, 3)], [0, 1]),
        ("मीनार", [(0, 1), (1, 2), (2, 5)], [0, 1, 1]),
        ("می\u200cسازد", [(0, 3), (3, 7)], [0, 1]),
        ("👩\u200d🚀", [(0, 1), (1, 2), (2, 3)], [0, 1, 1]),
        ("🚀🚀", [(0, 1), (0, 1), (1, 2)], [0, 1, 0]),
    ],
)
def test_a_piece_continues_a_word_of_letters_digits_and_marks(text, pairs, expected):
    assert continuations(text, offsets(*pairs)).tolist() == [bool(one) for one in expected]
