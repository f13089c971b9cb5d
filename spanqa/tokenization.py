"""A WordPiece tokenizer from tokenizer.json or vocab.txt, giving ids and character offsets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import TokenizerError

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocab.txt"
_NORMALIZATION = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys of tokenizer_config.json -> arguments of BertNormalizer, whose defaults are BERT's."""
_SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The word pieces of one text.

    Args:
        ids: `int32 (n_pieces,)`.
        chars: `int32 (n_pieces, 2)`: start and end (exclusive) of each piece, in code points of the text.
        continues: `bool (n_pieces,)`: whether a piece belongs to the word of the piece before it.
    """

    ids: NDArray[np.int32]
    chars: NDArray[np.int32]
    continues: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """Turns text into word pieces, never adding, truncating or padding.

    Special tokens written in a text ("[SEP]") are ordinary text: nobody who asks can end a segment early.

    Args:
        serialized: The content of a tokenizer.json.

    Raises:
        TokenizerError: If it cannot be parsed, or lacks [CLS], [SEP], [PAD] or [UNK].
    """

    def __init__(self, serialized: str) -> None:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        try:
            backend = Backend.from_str(serialized)
        except Exception as error:  # the Rust library raises a bare Exception
            raise TokenizerError(f"not a tokenizer.json: {error}") from error
        backend.no_truncation()
        backend.no_padding()
        # Only tokens marked as special are ordinary text below: mark them all.
        added = [token.content for token in backend.get_added_tokens_decoder().values()]
        backend.add_special_tokens([AddedToken(token, special=True) for token in added])
        backend.encode_special_tokens = True
        ids = {token: backend.token_to_id(token) for token in _SPECIAL}
        missing = [token for token, index in ids.items() if index is None]
        if missing:
            raise TokenizerError(f"the vocabulary lacks {', '.join(missing)}: only BERT's WordPiece is supported")
        self._backend = backend
        self._serialized = serialized
        self.cls_id, self.sep_id, self.pad_id = (int(ids[token] or 0) for token in ("[CLS]", "[SEP]", "[PAD]"))

    @property
    def serialized(self) -> str:
        """The tokenizer.json that this tokenizer was made from, unchanged."""
        return self._serialized

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of `serialized` in UTF-8, as hexadecimal digits."""
        return hashlib.sha256(self._serialized.encode()).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """The largest id and one, added tokens included: a vocabulary may leave ids out."""
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values())

    @property
    def lower_cases(self) -> bool:
        """Whether text is lower-cased."""
        normalizer = self._backend.normalizer
        return normalizer is not None and normalizer.normalize_str("A") == "a"

    def pieces(self, text: str) -> Pieces:
        """Cut one text into word pieces.

        Raises:
            TokenizerError: If the text holds half of a surrogate pair, which UTF-8 cannot carry.
        """
        return self.pieces_of_many([text])[0]

    def pieces_of_many(self, texts: list[str]) -> list[Pieces]:
        """Cut several texts into word pieces, on all cores; each result equals `pieces` of that text alone."""
        try:
            encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        except TypeError as error:
            raise TokenizerError("a text holds half of a surrogate pair: it cannot be encoded as UTF-8") from error
        return [
            Pieces(
                ids=np.array(encoding.ids, dtype=np.int32),
                # Flat: numpy takes pairs one by one, at twice the time.
                chars=np.fromiter(chain.from_iterable(encoding.offsets), np.int32, 2 * len(encoding)).reshape(-1, 2),
                continues=_continues(encoding.word_ids),
            )
            for encoding in encodings
        ]


def _continues(word_ids: list[int | None]) -> NDArray[np.bool_]:
    # Read from the words, not from "##": a WordPiece vocabulary may name its continuations otherwise. A piece of no
    # word (None) becomes NaN, which equals nothing.
    words = np.array(word_ids, dtype=np.float64)
    return np.concatenate((np.zeros(min(1, len(words)), dtype=np.bool_), words[1:] == words[:-1]))


def load_tokenizer(path: str | Path, *, do_lower_case: bool | None = None) -> Tokenizer:
    """Load a tokenizer from a tokenizer.json, a vocab.txt, or a folder that holds either.

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
        found = [path / name for name in (TOKENIZER_FILE, VOCABULARY_FILE) if (path / name).is_file()]
        if not found:
            raise TokenizerError(f"{path}: holds neither {TOKENIZER_FILE} nor {VOCABULARY_FILE}")
        path = found[0]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read as a tokenizer: {error}") from error
    try:
        if path.suffix == ".txt":
            said = _normalization_beside(path)
            if do_lower_case is not None:
                said["lowercase"] = do_lower_case
            return Tokenizer(_serialized_from_vocabulary(text.split("\n"), said))
        return Tokenizer(text)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _normalization_beside(vocabulary: Path) -> dict[str, bool]:
    """What a tokenizer_config.json says of a vocab.txt, as arguments of the tokenizers library's normalizer."""
    config = vocabulary.with_name("tokenizer_config.json")
    if not config.is_file():
        return {}
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
        return {ours: bool(said[key]) for key, ours in _NORMALIZATION.items() if said.get(key) is not None}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"{config}: cannot be read: {error}") from error


def _serialized_from_vocabulary(lines: list[str], normalization: dict[str, bool]) -> str:
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    vocabulary = {token: index for index, token in enumerate(lines) if token}
    if "[UNK]" not in vocabulary:
        raise TokenizerError("line by line it is no WordPiece vocabulary: [UNK] is missing")
    # 100: the longest word BERT's WordPiece looks at before it gives up with [UNK], the model's default here too.
    backend = Backend(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))  # noqa: S106 no password
    backend.normalizer = normalizers.BertNormalizer(**normalization)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL if token in vocabulary])
    return str(backend.to_str())
