"""What many tests share: a small WordPiece vocabulary of our own, and the repository's root."""

from pathlib import Path

import pytest

from spanqa.datasets import read_dataset
from spanqa.tokenization import load_tokenizer

ROOT = Path(__file__).parents[1]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = [
    "the",
    "a",
    "of",
    "in",
    "is",
    "was",
    "what",
    "who",
    "where",
    "when",
    "how",
    "many",
    "which",
    "city",
    "river",
    "bridge",
    "tower",
    "stands",
    "near",
    "old",
    "king",
    "built",
    "year",
    "station",
    "train",
    "north",
    "south",
    "red",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "it",
    "has",
    "two",
    "three",
    "people",
    "live",
    "there",
]
_SUFFIXES = ["##s", "##ing", "##ed", "##er"]
_LETTERS = "".join(map(chr, [*range(ord("a"), ord("z") + 1), *range(ord("0"), ord("9") + 1)])) + "éßłαβωдяאבשعبم"
_SIGNS = ".,;:!?()[]'\"-/%$€§"
_IDEOGRAPHS = "中文東京大学日本語"
_JAMO = "".join(map(chr, [*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]))
_EMOJI = "😀🚀"


def _vocabulary_lines():
    letters = _LETTERS + _LETTERS.upper().replace("SS", "") + _JAMO
    pieces = [*_WORDS, *_SUFFIXES, *letters, *_SIGNS, *_IDEOGRAPHS, *_EMOJI, *("##" + letter for letter in letters)]
    return [*_SPECIAL, *dict.fromkeys(pieces)]


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def vocabulary_file(tmp_path_factory):
    """A vocab.txt of some words, letters of several scripts, signs, ideographs and Hangul's parts."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(_vocabulary_lines()) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(vocabulary_file):
    """The tokenizer of that vocabulary; it lower-cases."""
    return load_tokenizer(vocabulary_file)


@pytest.fixture(scope="session")
def real_questions(root):
    return read_dataset(root / "data" / "heldout200.json")
