"""Both forms of a tokenizer give the same pieces, nothing in a text is a special token, offsets are code points."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from spanqa.errors import TokenizerError
from spanqa.tokenization import Tokenizer, load_tokenizer
from spanqa.vocabulary_files import tokenizer_json_from_vocab_txt

TEXTS = [
    "The bridge stands near the old RIVER station.",
    "the [SEP] cat [CLS] sat [PAD] on [MASK] the mat [UNK]",
    "École Γβω яДя שבא 東京大学 한국어 \u00a0\t🚀😀 zebra",
    "e\u0301te\u0301 Straße I\u0307stanbul ﬁne",
    "",
    " \n\t",
]


@pytest.fixture
def folder(tmp_path, tokenizer, vocabulary_file):
    """A folder whose tokenizer.json a test may change."""
    (tmp_path / "tokenizer.json").write_text(tokenizer.serialized, encoding="utf-8")
    return tmp_path


def changed(folder, change):
    """Load the folder's tokenizer.json after a change to its document."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return load_tokenizer(folder)


def assert_same_pieces(one, other, texts=TEXTS):
    for text in texts:
        first, second = one.pieces(text), other.pieces(text)
        np.testing.assert_array_equal(first.ids, second.ids)
        np.testing.assert_array_equal(first.chars, second.chars)


def test_tokenizer_json_and_vocab_txt_give_equal_pieces(folder, tokenizer, vocabulary_file):
    assert_same_pieces(load_tokenizer(folder), tokenizer)
    assert load_tokenizer(vocabulary_file.parent).sha256 == tokenizer.sha256


def test_ids_are_the_line_numbers_of_vocab_txt(tokenizer, vocabulary_file):
    lines = vocabulary_file.read_text(encoding="utf-8").splitlines()
    pieces = tokenizer.pieces("the bridges stands")
    assert [lines[index] for index in pieces.ids] == ["the", "bridge", "##s", "stands"]
    assert [lines[index] for index in (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)] == [
        "[CLS]",
        "[SEP]",
        "[PAD]",
    ]
    assert tokenizer.vocab_size == len(lines)


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_only_line_feeds_end_the_lines_of_vocab_txt(tmp_path, separator):
    """Vocabularies hold such characters as entries; taking one for a line's end would shift all ids after it."""
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", f"a{separator}b", "cat"]) + "\n", encoding="utf-8"
    )
    assert load_tokenizer(tmp_path).pieces("cat").ids.tolist() == [5]


def test_a_vocab_txt_with_windows_line_ends_is_the_same(tmp_path, tokenizer, vocabulary_file):
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes().replace(b"\n", b"\r\n"))
    assert_same_pieces(load_tokenizer(tmp_path), tokenizer)


@pytest.mark.parametrize("token", ["[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]"])
def test_a_special_token_in_a_text_is_ordinary_text(tokenizer, token):
    pieces = tokenizer.pieces(f"the {token} cat")
    assert not {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id} & set(pieces.ids.tolist())
    assert pieces.chars[1].tolist() == [4, 5]  # the bracket alone


def test_an_added_token_that_is_not_marked_special_is_ordinary_text_too(folder, tokenizer):
    def unmark(document):
        for token in document["added_tokens"]:
            token["special"] = False

    ids = changed(folder, unmark).pieces("the [SEP] cat").ids.tolist()
    assert tokenizer.sep_id not in ids


ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def test_a_word_that_was_added_to_the_vocabulary_is_one_piece(folder, tokenizer):
    first = tokenizer.vocab_size

    def add(document):
        document["added_tokens"] += [
            {**ADDED, "id": first, "content": "<ours>", "special": True},
            {**ADDED, "id": first + 1, "content": "RX-7", "lstrip": True},
        ]

    added = changed(folder, add)
    pieces = added.pieces("the RX-7 <ours> [SEP]")
    assert pieces.ids[1] == first + 1
    assert pieces.chars[1].tolist() == [4, 8]
    assert not {first, tokenizer.sep_id} & set(pieces.ids.tolist())
    assert_same_pieces(added, tokenizer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("e\u0301te\u0301", ["e\u0301t", "e\u0301"]),
        ("שָׁלוֹם", ["שָׁ", "ל", "וֹ", "ם"]),
        ("\u0301 a", ["a"]),
    ],
)
def test_a_mark_that_the_normaliser_takes_away_stays_with_its_letter(text, words):
    letters = ["cafe", "x", "et", "##e", *"שa", "##ל", "##ו", "##ם"]
    made = tokenizer_json_from_vocab_txt(Path("vocab.txt"), "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]))
    chars = Tokenizer(made).pieces(text).chars
    assert [text[start:end] for start, end in chars.tolist()] == words


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "HerbertTokenizerFast"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_vocabulary_whose_words_are_cut_by_rules_of_their_own_is_refused(tmp_path, vocabulary_file, name, file):
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    (tmp_path / file).write_text(json.dumps({"tokenizer_class": "BertTokenizerFast"}))
    load_tokenizer(tmp_path)
    (tmp_path / file).write_text(json.dumps({"tokenizer_class": name}))
    with pytest.raises(TokenizerError, match=f"names the tokenizer_class {name}, .*: give the model's tokenizer.json"):
        load_tokenizer(tmp_path)


def test_truncation_and_padding_of_a_tokenizer_json_are_switched_off(folder, tokenizer):
    def limit(document):
        document["truncation"] = {
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        document["padding"] = {
            "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        }  # fmt: skip

    limited = changed(folder, limit)
    assert_same_pieces(limited, tokenizer)
    assert len(limited.pieces("the cat sat on the mat")) == 6
    assert len(limited.pieces_of_many(["the", "the cat sat"])[0]) == 1


def test_a_post_processor_adds_nothing(folder, tokenizer):
    def frame(document):
        document["post_processor"] = {
            "type": "BertProcessing", "sep": ["[SEP]", tokenizer.sep_id], "cls": ["[CLS]", tokenizer.cls_id],
        }  # fmt: skip

    assert_same_pieces(changed(folder, frame), tokenizer)


def test_offsets_index_code_points_of_the_text(tokenizer):
    text = "😀 the\u00a0École\t東京 e\u0301 한"
    pieces = tokenizer.pieces(text)
    assert pieces.ids.dtype == pieces.chars.dtype == np.int32
    words = [text[start:end] for start, end in pieces.chars.tolist()]
    assert words[:4] == ["😀", "the", "É", "c"]
    assert "".join(words).startswith("😀theÉcole東京e")
    assert set(words[-3:]) == {"한"}  # its three parts stand at the one character


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_that_continue_a_word_are_those_with_number_signs(tokenizer, vocabulary_file, text):
    lines = vocabulary_file.read_text(encoding="utf-8").splitlines()
    pieces = tokenizer.pieces(text + " ##s bridges 3.5s")
    assert pieces.continues.dtype == np.bool_
    assert pieces.continues.tolist() == [lines[index].startswith("##") for index in pieces.ids.tolist()]
    assert pieces.continues.any()


def test_a_text_without_a_word_has_no_piece(tokenizer):
    for text in ["", "  \n", "\x00\x07\ufffd"]:
        pieces = tokenizer.pieces(text)
        assert len(pieces) == 0
        assert pieces.chars.shape == (0, 2)


def test_many_texts_at_once_equal_each_alone(tokenizer):
    for text, pieces in zip(TEXTS, tokenizer.pieces_of_many(TEXTS), strict=True):
        alone = tokenizer.pieces(text)
        np.testing.assert_array_equal(pieces.ids, alone.ids)
        np.testing.assert_array_equal(pieces.chars, alone.chars)
    assert tokenizer.pieces_of_many([]) == []


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        tokenizer.pieces("the \ud800 cat")


@pytest.mark.parametrize("lower", [True, False])
def test_do_lower_case_is_read_from_tokenizer_config_json(tmp_path, vocabulary_file, lower):
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert (loaded.pieces("C").ids.tolist() == loaded.pieces("c").ids.tolist()) is lower
    assert_same_pieces(loaded, load_tokenizer(vocabulary_file, do_lower_case=lower))


def test_an_argument_decides_before_the_configuration(tmp_path, vocabulary_file):
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    cased = load_tokenizer(tmp_path, do_lower_case=False)
    assert cased.pieces("C").ids.tolist() != cased.pieces("c").ids.tolist()


@pytest.mark.parametrize("content", [b"{", b"[]", "{'é': 1}".encode("latin-1")])
def test_a_broken_tokenizer_config_json_is_named(tmp_path, vocabulary_file, content):
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[PAD]"])
def test_a_vocabulary_without_a_special_token_is_refused(tmp_path, vocabulary_file, token):
    path = tmp_path / "vocab.txt"
    path.write_text(vocabulary_file.read_text(encoding="utf-8").replace(f"{token}\n", "x\n"), encoding="utf-8")
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(path)
    assert str(caught.value) == (
        f"{path}: the vocabulary lacks {token}, and the file does not say which tokens stand around a question and a "
        "context: it needs a post_processor"
    )


@pytest.mark.parametrize("content", ["", "# Read me\n\nSome text.\n"])
def test_a_text_file_that_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"notes\.txt: .*no WordPiece vocabulary: \[UNK\] is missing"):
        load_tokenizer(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": "1.0"}', '{"model": {"type": "WordPiece"}}'])
def test_a_broken_tokenizer_json_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_file_in_another_encoding_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(TokenizerError, match="cannot be read as a tokenizer"):
        load_tokenizer(path)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"holds neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match=r"none\.json: cannot be read"):
        load_tokenizer(tmp_path / "none.json")


def test_the_serialized_form_makes_the_same_tokenizer(tokenizer):
    again = Tokenizer(tokenizer.serialized)
    assert_same_pieces(again, tokenizer)
    assert again.sha256 == hashlib.sha256(tokenizer.serialized.encode()).hexdigest()


def test_a_folder_with_both_files_takes_tokenizer_json(folder, tokenizer):
    (folder / "vocab.txt").write_text("[UNK]\n", encoding="utf-8")
    assert load_tokenizer(folder).sha256 == tokenizer.sha256


@pytest.mark.parametrize(
    ("key", "value", "text", "characters"),
    [
        ("strip_accents", False, "é", ["é"]),
        ("strip_accents", True, "é", ["e"]),
        ("strip_accents", None, "é", ["é"]),
        ("tokenize_chinese_chars", False, "東京", ["東京"]),
        ("tokenize_chinese_chars", True, "東京", ["東", "京"]),
    ],
)
@pytest.mark.parametrize("lower", [None, False])
def test_accents_and_chinese_are_as_tokenizer_config_json_says(tmp_path, key, value, text, characters, lower):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "e", "é", "東", "京", "東京"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, key: value}), encoding="utf-8")
    ids = load_tokenizer(tmp_path, do_lower_case=lower).pieces(text).ids
    assert [tokens[index] for index in ids] == characters


def test_the_size_is_the_largest_id_and_one_whatever_lines_are_empty_or_repeated(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n\n[CLS]\n[SEP]\nthe\nthe\ncat\n\n", encoding="utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.pieces("the cat").ids.tolist() == [6, 7]
    assert tokenizer.vocab_size == 8


@pytest.mark.parametrize("lower", [True, False])
def test_a_tokenizer_says_whether_it_lower_cases(vocabulary_file, lower):
    assert load_tokenizer(vocabulary_file, do_lower_case=lower).lower_cases is lower
