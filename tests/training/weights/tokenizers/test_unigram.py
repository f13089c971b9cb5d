"""A tokenizer.json made of a SentencePiece model cuts text as SentencePiece and transformers do."""

import json
import shutil
import struct
import unicodedata

import pytest
from sentencepiece import SentencePieceProcessor

from spanqa.errors import TokenizerError
from spanqa.text_backend import ids_of_tokens
from spanqa.tokenization import Tokenizer
from spanqa_training.weights.tokenizers.sentencepiece_file import read_sentencepiece_model
from spanqa_training.weights.tokenizers.unigram import (
    FAMILIES,
    sentencepiece_file_at,
    tokenizer_json_from_sentencepiece,
)

MORE = ["  the \t tower\n\n built ", "ﬁne ½ ㍿ Ⅷ ｶﾞ", "cafe\u0301 e\u0301te\u0301", "\x07the\x07 tower", "zq龘 🚀🚀 x"]


@pytest.fixture(params=sorted(FAMILIES))
def family(request, tokenizer_folders):
    return request.param, tokenizer_folders[request.param]


@pytest.fixture
def model_file(tokenizer_folders, tmp_path):
    """A SentencePiece model that a test may damage."""
    return shutil.copy(tokenizer_folders["xlm-roberta"] / "sentencepiece.bpe.model", tmp_path / "spm.model")


def as_albert_sees(text):
    text = text.replace("``", '"').replace("''", '"')
    return "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c)[0] != "M").lower()


def test_pieces_are_those_of_sentencepiece(family, scripts):
    name, folder = family
    path = sentencepiece_file_at(folder)
    reference = SentencePieceProcessor(model_file=str(path))
    tokenizer = Tokenizer(tokenizer_json_from_sentencepiece(path))
    token_of_id = {index: token for token, index in ids_of_tokens(json.loads(tokenizer.serialized)).items()}
    unknown = tokenizer.special_tokens["unk_token"]
    # ALBERT takes syllables apart, and the library puts them together again only where they are short.
    seen = {script: sentences for script, sentences in scripts.items() if (name, script) != ("albert", "hangul")}
    for text in [*(sentence for sentences in seen.values() for sentence in sentences), *MORE]:
        expected = [
            reference.id_to_piece(index)
            for index in reference.encode(as_albert_sees(text) if name == "albert" else text)
        ]
        expected = [unknown if piece == reference.id_to_piece(reference.unk_id()) else piece for piece in expected]
        assert [token_of_id[index] for index in tokenizer.pieces(text).ids.tolist()] == expected, text


def test_ids_are_those_of_the_published_models(tokenizer_folders):
    """fairseq's dictionaries begin with tokens of their own, and the mask is the last."""
    made = {
        name: ids_of_tokens(
            json.loads(tokenizer_json_from_sentencepiece(sentencepiece_file_at(tokenizer_folders[name])))
        )
        for name in FAMILIES
    }
    roberta, camembert = made["xlm-roberta"], made["camembert"]
    assert [roberta[token] for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert [camembert[token] for token in ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<s>", "</s>")] == [
        *(0, 1, 2, 3, 5, 6),
    ]
    assert [made["albert"][token] for token in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert [made["deberta-v2"][token] for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")] == [0, 1, 2, 3]
    for name, mask in (("xlm-roberta", "<mask>"), ("camembert", "<mask>"), ("deberta-v2", "[MASK]")):
        assert made[name][mask] == max(made[name].values())


def test_albert_parts_commas_from_numbers():
    from spanqa_training.weights.tokenizers.unigram import _may_stay

    assert [_may_stay(piece) for piece in ("1,", "▁19,", ",", "a,", "▁19")] == [False, False, True, True, True]


def test_what_lies_beside_the_model_decides(tokenizer_folders, tmp_path):
    path = shutil.copy(tokenizer_folders["albert"] / "spiece.model", tmp_path / "spiece.model")
    config = {"model_type": "albert"}
    assert Tokenizer(tokenizer_json_from_sentencepiece(path, config)).lower_cases
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "keep_accents": true}')
    (tmp_path / "special_tokens_map.json").write_text('{"sep_token": {"content": "[MASK]", "lstrip": false}}')
    tokenizer = Tokenizer(tokenizer_json_from_sentencepiece(path, config))
    assert not tokenizer.lower_cases
    assert tokenizer.special_tokens["sep_token"] == "[MASK]"
    assert tokenizer.pair.between == tokenizer.pair.after == (4,)


@pytest.mark.parametrize("config", [{}, {"model_type": "t5"}])
def test_an_unknown_kind_of_model_is_refused_with_the_way_out(model_file, config):
    with pytest.raises(
        TokenizerError, match=r"known of xlm-roberta, camembert, albert, deberta-v2 .* not of .*--token"
    ):
        tokenizer_json_from_sentencepiece(model_file, config)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no model",
        lambda data: data[: len(data) // 2],
        lambda data: b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        lambda data: b"\x0b" + data,
        lambda data: b"\x0a\x03\x0a\x01\xff" + data,
    ],
)
def test_a_damaged_model_is_one_sentence(model_file, damage):
    model_file.write_bytes(damage(model_file.read_bytes()))
    with pytest.raises(TokenizerError, match=r"spm\.model: cannot be read as a SentencePiece model"):
        read_sentencepiece_model(model_file)


def test_a_model_of_another_type_is_refused(model_file):
    trainer = bytes([3 << 3, 2])  # model_type: BPE
    model_file.write_bytes(model_file.read_bytes() + bytes([2 << 3 | 2, len(trainer)]) + trainer)
    with pytest.raises(TokenizerError, match="only unigram is read"):
        read_sentencepiece_model(model_file)


def test_scores_are_read_to_the_bit(model_file):
    reference = SentencePieceProcessor(model_file=str(model_file))
    for index, (piece, score) in enumerate(read_sentencepiece_model(model_file).pieces):
        assert piece == reference.id_to_piece(index)
        assert struct.pack("<f", score) == struct.pack("<f", reference.get_score(index))
