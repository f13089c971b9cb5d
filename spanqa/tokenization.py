"""A tokenizer from tokenizer.json or a vocabulary's older files, giving ids and character offsets.

WordPiece, byte-level BPE and SentencePiece's unigram: whatever the tokenizers library reads.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import TokenizerError
from spanqa.pair_template import PairTemplate, bert_pair, pair_from_document
from spanqa.text_backend import (
    ids_of_tokens,
    kind_of_model,
    pad_id_of,
    plain_tokens,
    special_tokens_of,
    text_backend,
)
from spanqa.visible_offsets import continuations, visible_offsets, with_marks
from spanqa.vocabulary_files import (
    BERT_TOKENS,
    BPE_MERGES_FILE,
    BPE_VOCABULARY_FILE,
    VOCABULARY_FILE,
    tokenizer_json_from_bpe,
    tokenizer_json_from_vocab_txt,
)

TOKENIZER_FILE = "tokenizer.json"
_SPACE_SIGN, _SPACE_BYTE = "▁", "Ġ"
"""What stands for a space in SentencePiece's pieces (U+2581), and in those of bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The word pieces of one text.

    Args:
        ids: `int32 (n_pieces,)`.
        chars: `int32 (n_pieces, 2)`: start and end (exclusive) of each piece, in code points of the text, without white
            space on either side; a piece of nothing visible has its start at its end or behind it.
        continues: `bool (n_pieces,)`: whether a piece belongs to the word of the piece before it.
    """

    ids: NDArray[np.int32]
    chars: NDArray[np.int32]
    continues: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_blank(self) -> bool:
        """Whether no piece has a visible character."""
        return not bool((self.chars[:, 0] < self.chars[:, 1]).any())


class Tokenizer:
    """Turns text into word pieces, never adding, truncating or padding.

    Special tokens written in a text ("[SEP]") are ordinary text: nobody who asks can end a segment early.

    Args:
        serialized: The content of a tokenizer.json.

    Raises:
        TokenizerError: If it cannot be parsed, or does not say how a question and a context are joined and padded.

    Attributes:
        pair: The special tokens around a question and a context.
        special_tokens: Roles as in special_tokens_map.json (cls_token, sep_token, pad_token, unk_token, mask_token) ->
            tokens, those that the file has.
        kind: The model's type as the file names it: WordPiece, BPE, Unigram.
        vocab_size: The largest id and one, added tokens included: a vocabulary may leave ids out.
    """

    def __init__(self, serialized: str) -> None:
        try:
            document: dict[str, Any] = json.loads(serialized)
            self.kind = kind_of_model(document)
            ids = ids_of_tokens(document)
            self.pair = _pair_of(document, ids)
            self._backend = text_backend(serialized, document, self.pair)
        except TokenizerError:
            raise
        except Exception as error:  # the Rust library raises a bare Exception
            raise TokenizerError(f"not a tokenizer.json: {error}") from error
        self._has_added_words = bool(plain_tokens(document, self.pair))
        self._serialized = serialized
        self.special_tokens = special_tokens_of(document, ids, self.pair)
        self.vocab_size = 1 + max(ids.values())
        sign = _SPACE_BYTE if "ByteLevel" in json.dumps(document.get("pre_tokenizer")) else _SPACE_SIGN
        spaces = [index for token, index in ids.items() if token and not token.strip(sign)]
        self._space_ids = np.array(spaces, dtype=np.int32)
        self._normalizer = self._backend.normalizer
        self._deleted: dict[str, bool] = {}

    @property
    def serialized(self) -> str:
        """The tokenizer.json that this tokenizer was made from, unchanged."""
        return self._serialized

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of `serialized` in UTF-8, as hexadecimal digits."""
        return hashlib.sha256(self._serialized.encode()).hexdigest()

    @property
    def cls_id(self) -> int:
        """Id of the first token of every input: [CLS], <s>."""
        return self.pair.before[0]

    @property
    def sep_id(self) -> int:
        """Id of the token that ends a text: [SEP], </s>."""
        return (self.pair.after or self.pair.between or self.pair.before)[0]

    @property
    def pad_id(self) -> int:
        """Id of the padding."""
        return self.pair.pad_id

    @property
    def lower_cases(self) -> bool:
        """Whether text is lower-cased."""
        return self._normalizer is not None and self._normalizer.normalize_str("A").strip(_SPACE_SIGN) == "a"

    def pieces(self, text: str) -> Pieces:
        """Cut one text into word pieces.

        Raises:
            TokenizerError: If the text holds half of a surrogate pair, which UTF-8 cannot carry.
        """
        return self.pieces_of_many([text])[0]

    def pieces_of_many(self, texts: list[str]) -> list[Pieces]:
        """Cut several texts into word pieces, on all cores; each result equals `pieces` of that text alone."""
        try:
            skipped = [self._n_deleted(text) for text in texts]
            encodings = self._backend.encode_batch(
                [text[n:] if n else text for text, n in zip(texts, skipped, strict=True)], add_special_tokens=False
            )
        except TypeError as error:
            raise TokenizerError("a text holds half of a surrogate pair: it cannot be encoded as UTF-8") from error
        return [self._pieces_of(*one) for one in zip(texts, encodings, skipped, strict=True)]

    def _n_deleted(self, text: str) -> int:
        """Count the characters at a text's beginning that the normaliser deletes.

        Deleted by a precompiled charsmap they would move the offsets of all the text (tokenizers 0.23).
        """
        n_deleted = 0
        if self.kind != "WordPiece" and self._normalizer is not None:
            while n_deleted < len(text) and self._is_deleted(text[n_deleted]):
                n_deleted += 1
        return n_deleted

    def _is_deleted(self, character: str) -> bool:
        if character.isalnum():
            return False
        if character not in self._deleted:
            self._deleted[character] = self._normalizer.normalize_str(character) == ""
        return self._deleted[character]

    def _pieces_of(self, text: str, encoding: Any, skipped: int) -> Pieces:
        ids = np.array(encoding.ids, dtype=np.int32)
        # Flat: numpy takes pairs one by one, at twice the time.
        chars = np.fromiter(chain.from_iterable(encoding.offsets), np.int32, 2 * len(encoding)).reshape(-1, 2)
        if self.kind == "WordPiece":
            # Its words are those of the tokenizer, and none of its pieces holds a space, but for words that were added.
            chars = visible_offsets(text, chars) if self._has_added_words else chars
            return Pieces(ids=ids, chars=with_marks(text, chars), continues=_continues(encoding.word_ids))
        chars = visible_offsets(text, chars + np.int32(skipped), np.isin(ids, self._space_ids))
        return Pieces(ids=ids, chars=chars, continues=continuations(text, chars))


def _pair_of(document: dict[str, Any], ids: dict[str, int]) -> PairTemplate:
    """The template that the file gives; BERT's where it gives none and is a WordPiece vocabulary of BERT's."""
    is_word_piece = kind_of_model(document) == "WordPiece"
    needed = [token for role, token in BERT_TOKENS.items() if role != "mask_token"]
    missing = [token for token in needed if token not in ids]
    if is_word_piece and missing and document.get("post_processor") is None:
        raise TokenizerError(
            f"the vocabulary lacks {', '.join(missing)}, and the file does not say which tokens stand around a question"
            " and a context: it needs a post_processor"
        )
    pair = pair_from_document(document, pad_id_of(document, ids))
    if pair is None and is_word_piece and not missing:
        return bert_pair(*(ids[token] for token in ("[CLS]", "[SEP]", "[PAD]")))
    if pair is None:
        raise TokenizerError(
            "the file does not say which special tokens stand around a question and a context: it needs a "
            "post_processor that adds them, which `spanqa import` writes where it knows the model"
        )
    lacking = sorted(pair.ids - set(ids.values()))
    if lacking:
        raise TokenizerError(f"its post_processor adds the id {lacking[0]}, which no token has: restore the file")
    return pair


def _continues(word_ids: list[int | None]) -> NDArray[np.bool_]:
    # Read from the words, not from "##": a WordPiece vocabulary may name its continuations otherwise. A piece of no
    # word (None) becomes NaN, which equals nothing.
    words = np.array(word_ids, dtype=np.float64)
    return np.concatenate((np.zeros(min(1, len(words)), dtype=np.bool_), words[1:] == words[:-1]))


def load_tokenizer(path: str | Path, *, do_lower_case: bool | None = None) -> Tokenizer:
    """Load a tokenizer from a tokenizer.json, a vocab.txt, a vocab.json beside its merges.txt, or a folder of them.

    Args:
        path: The file or folder. In a folder tokenizer.json is preferred.
        do_lower_case: For a vocab.txt: whether text is lower-cased and stripped of accents, as in BERT's
            uncased models. By default read from a tokenizer_config.json beside it, else true. What that file says
            of accents and of Chinese characters holds in any case.

    Raises:
        TokenizerError: If nothing is found there, or it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        names = (TOKENIZER_FILE, VOCABULARY_FILE, BPE_VOCABULARY_FILE)
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise TokenizerError(f"{path}: holds neither {TOKENIZER_FILE} nor {VOCABULARY_FILE}")
        path = found[0]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read as a tokenizer: {error}") from error
    try:
        if path.suffix == ".txt":
            return Tokenizer(tokenizer_json_from_vocab_txt(path, text, do_lower_case))
        if path.name == BPE_VOCABULARY_FILE and path.with_name(BPE_MERGES_FILE).is_file():
            return Tokenizer(tokenizer_json_from_bpe(path.parent))
        return Tokenizer(text)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
