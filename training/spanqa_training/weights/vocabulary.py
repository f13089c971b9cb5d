"""The vocabulary of weights that are taken over: found beside them, and matched with their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spanqa.errors import TokenizerError
from spanqa.tokenization import TOKENIZER_FILE, VOCABULARY_FILE, Tokenizer, load_tokenizer
from spanqa.vocabulary_files import (
    BPE_MERGES_FILE,
    BPE_VOCABULARY_FILE,
    TOKENIZER_CONFIG_FILE,
    read_json_file,
    special_tokens_beside,
)
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.import_types import ImportOptions
from spanqa_training.weights.tokenizers.completion import completed_tokenizer_json
from spanqa_training.weights.tokenizers.unigram import SENTENCEPIECE_FILES, tokenizer_json_from_sentencepiece

PADDED_TO = 128
"""Megatron-LM makes the word embedding's rows a multiple of this (`--make-vocab-size-divisible-by`) ..."""

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
"""... times the GPUs that shared it, which merging the shards need not undo."""

_CAPITAL = re.compile(r"^(?!\[).*[A-Z]", re.MULTILINE)
"""In a piece that is no special token: vocabularies of lower-cased text have none."""


def load_vocabulary(
    options: ImportOptions,
    folders: Iterable[Path],
    *,
    do_lower_case: bool | None = None,
    config: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Load the tokenizer that the user names, or else the one beside the weights.

    A bare vocabulary does not say whether it is one of lower-cased text, and a wrong guess makes answers quietly
    worse. Without a word of the user, one with capitals keeps case whatever the source says.

    Args:
        options: What the user says.
        folders: Where else to look: for a tokenizer.json, a vocab.txt, a vocab.json with its merges.txt, a
            SentencePiece model, or the only file *vocab.txt.
        do_lower_case: What the source says of its vocabulary; by default read from a tokenizer_config.json beside it.
        config: The network's config.json, where it has one.

    Raises:
        ImportWeightsError: There is none.
        TokenizerError: It cannot be used.
    """
    folders = list(folders)
    path = Path(options.tokenizer) if options.tokenizer else _found(folders)
    if path is None:
        places = " and ".join(map(str, dict.fromkeys(folders)))
        raise ImportWeightsError(
            f"{places}: no {TOKENIZER_FILE} or {VOCABULARY_FILE} there: give the one that the weights were trained with"
            f" (--tokenizer); {BPE_VOCABULARY_FILE} with {BPE_MERGES_FILE}, and {', '.join(SENTENCEPIECE_FILES)} do too"
        )
    if path.is_dir():
        path = _found([path]) or path
    if path.suffix == ".model":
        return Tokenizer(tokenizer_json_from_sentencepiece(path, config))
    if path.name == TOKENIZER_FILE and config is not None:
        return _completed(path, config)
    if options.do_lower_case is not None:
        return load_tokenizer(path, do_lower_case=options.do_lower_case)
    if path.suffix == ".txt" and not path.with_name("tokenizer_config.json").is_file():
        do_lower_case = False if _has_capitals(path) else do_lower_case
    return load_tokenizer(path, do_lower_case=do_lower_case)


def rows_without_padding(n_rows: int, tokenizer: Tokenizer) -> int:
    """Count the rows of a word embedding that belong to the tokenizer.

    Args:
        n_rows: Rows of the embedding.
        tokenizer: The tokenizer.

    Returns:
        The tokenizer's size.

    Raises:
        ImportWeightsError: The others are not Megatron-LM's own padding: it is another vocabulary.
    """
    size = tokenizer.vocab_size
    padded = [-(-size // (PADDED_TO * parallel)) * PADDED_TO * parallel for parallel in TENSOR_PARALLEL_SIZES]
    if n_rows == size or n_rows in padded:
        return size
    raise ImportWeightsError(
        f"the word embedding has {n_rows:,} rows, and the tokenizer has {size:,} tokens, which Megatron-LM pads to"
        f" {padded[0]:,}: they do not belong together; BERT's cased vocabulary (28,996 tokens, 29,056 rows) and its"
        " uncased one (30,522 tokens, 30,592 rows) are easily mixed up: give the right one (--tokenizer)"
    )


def _completed(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    try:
        serialized = path.read_text(encoding="utf-8")
        said = read_json_file(path.with_name(TOKENIZER_CONFIG_FILE))
        return Tokenizer(completed_tokenizer_json(serialized, config, special_tokens_beside(path.parent), said))
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read as a tokenizer: {error}") from error
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _found(folders: Iterable[Path]) -> Path | None:
    for folder in folders:
        names = [TOKENIZER_FILE, VOCABULARY_FILE, *SENTENCEPIECE_FILES]
        if (folder / BPE_MERGES_FILE).is_file():
            names.append(BPE_VOCABULARY_FILE)
        named = [folder / name for name in names if (folder / name).is_file()]
        similar = sorted(folder.glob(f"*{VOCABULARY_FILE}"))
        if named or len(similar) == 1:
            return (named or similar)[0]
    return None


def _has_capitals(path: Path) -> bool:
    try:
        return _CAPITAL.search(path.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read as a vocabulary: {error}") from error
