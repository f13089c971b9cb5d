"""A tokenizer.json made from older files: BERT's vocab.txt, and the vocab.json and merges.txt of byte-level BPE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanqa.errors import TokenizerError

VOCABULARY_FILE = "vocab.txt"
BPE_VOCABULARY_FILE = "vocab.json"
BPE_MERGES_FILE = "merges.txt"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
_NETWORK_CONFIG_FILE = "config.json"
ROLES = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
"""What a special token is for: the keys of special_tokens_map.json."""
BERT_TOKENS = dict(zip(ROLES, ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"), strict=True))
ROBERTA_TOKENS = dict(zip(ROLES, ("<s>", "</s>", "<pad>", "<unk>", "<mask>"), strict=True))
NORMALIZATION = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys of tokenizer_config.json -> arguments of BertNormalizer, whose defaults are BERT's."""
_ANY_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")
BERT_CLASSES = tuple(
    f"{name}Tokenizer" for name in ("Bert", "ConvBert", "DistilBert", "Electra", "MobileBert", "MPNet", "Splinter")
)
_WORD_PIECE_CLASSES = (*BERT_CLASSES, *_ANY_CLASS)
_BYTE_LEVEL_CLASSES = (*(f"{name}Tokenizer" for name in ("Bart", "GPT2", "Longformer", "Roberta")), *_ANY_CLASS)
"""tokenizer_class in the configurations, with or without "Fast": those that cut words as is assumed here."""


def read_json_file(path: Path) -> dict[str, Any]:
    """Read a JSON object beside a vocabulary; an empty one where there is no file.

    Raises:
        TokenizerError: If it cannot be read, or is something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: cannot be read: it holds no JSON object")
    return value


def special_tokens_beside(folder: Path) -> dict[str, str]:
    """Read which token has which role: special_tokens_map.json first, then tokenizer_config.json.

    Raises:
        TokenizerError: If one of them cannot be read.
    """
    said: dict[str, str] = {}
    for name in (TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE):
        values = read_json_file(folder / name)
        for role in ROLES:
            value = values.get(role)
            # Written by the slow tokenizers as an object with flags beside it.
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                said[role] = content
    return said


def is_of_class(config: Mapping[str, Any], known: tuple[str, ...]) -> bool:
    """Whether a configuration names one of some classes, with or without "Fast"."""
    return str(config.get("tokenizer_class", "")).removesuffix("Fast") in known


def _check_class(folder: Path, known: tuple[str, ...]) -> None:
    """Refuse a vocabulary whose words are cut by rules that stand in no file: BertJapaneseTokenizer's, Herbert's."""
    for file in (TOKENIZER_CONFIG_FILE, _NETWORK_CONFIG_FILE):
        config = read_json_file(folder / file)
        name = config.get("tokenizer_class")
        if isinstance(name, str) and not is_of_class(config, known):
            raise TokenizerError(
                f"{file} beside it names the tokenizer_class {name}, which may cut words in a way of its own: only "
                f"{', '.join(known)} are known: give the model's tokenizer.json"
            )


def tokenizer_json_from_vocab_txt(path: Path, text: str, do_lower_case: bool | None = None) -> str:
    """Make a tokenizer.json from a WordPiece vocabulary, one piece a line.

    Args:
        path: The file, beside which tokenizer_config.json, special_tokens_map.json and added_tokens.json may say more.
        text: Its content.
        do_lower_case: Whether text is lower-cased, in place of what they say.

    Raises:
        TokenizerError: If it is no such vocabulary or one of another tokenizer's, or a file beside it cannot be read.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    config = read_json_file(path.with_name(TOKENIZER_CONFIG_FILE))
    _check_class(path.parent, _WORD_PIECE_CLASSES)
    said = {ours: bool(config[key]) for key, ours in NORMALIZATION.items() if config.get(key) is not None}
    if do_lower_case is not None:
        said["lowercase"] = do_lower_case
    vocabulary = {token: index for index, token in enumerate(text.split("\n")) if token}
    pairs = ((role, BERT_TOKENS[role], ROBERTA_TOKENS[role]) for role in ROLES)
    named = {role: other if one not in vocabulary and other in vocabulary else one for role, one, other in pairs}
    tokens = {**named, **special_tokens_beside(path.parent)}
    if tokens["unk_token"] not in vocabulary:
        raise TokenizerError(f"line by line it is no WordPiece vocabulary: {tokens['unk_token']} is missing")
    # 100: the longest word BERT's WordPiece looks at before it gives up with [UNK], the model's default here too.
    backend = Backend(models.WordPiece(vocab=vocabulary, unk_token=tokens["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(**said)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    _add_tokens_beside(path.parent, backend, tokens)
    listed = [tokens[role] for role in ("cls_token", "sep_token", "pad_token", "unk_token")]
    backend.add_special_tokens([AddedToken(token, special=True) for token in listed if token in vocabulary])
    if tokens["cls_token"] != BERT_TOKENS["cls_token"]:  # MPNet's vocab.txt: <s> and </s>, joined as RoBERTa does
        _add_roberta_pairs(backend, tokens, trim_offsets=True, add_prefix_space=False)
    return str(backend.to_str())


def tokenizer_json_from_bpe(folder: Path) -> str:
    """Make a tokenizer.json from vocab.json and merges.txt, as RoBERTa's were published.

    Args:
        folder: Holds both, and may hold tokenizer_config.json, special_tokens_map.json and added_tokens.json.

    Raises:
        TokenizerError: If one of the files cannot be read or lacks a special token, or their bytes are no bytes.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    config = read_json_file(folder / TOKENIZER_CONFIG_FILE)
    _check_class(folder, _BYTE_LEVEL_CLASSES)
    tokens = {**ROBERTA_TOKENS, **special_tokens_beside(folder)}
    prefix = bool(config.get("add_prefix_space", False))
    try:
        vocabulary, merges = models.BPE.read_file(str(folder / BPE_VOCABULARY_FILE), str(folder / BPE_MERGES_FILE))
        backend = Backend(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    except Exception as error:  # the Rust library raises a bare Exception
        raise TokenizerError(f"with {BPE_MERGES_FILE} it is no byte-level BPE: {error}") from error
    if 10 * sum(token.endswith("</w>") for token in vocabulary) > len(vocabulary):
        raise TokenizerError(
            "its pieces end words with </w>: they are of characters, not of bytes as RoBERTa's: give the model's "
            "tokenizer.json"
        )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    _add_tokens_beside(folder, backend, tokens)
    _add_roberta_pairs(backend, tokens, trim_offsets=bool(config.get("trim_offsets", True)), add_prefix_space=prefix)
    listed = [token for role in ROLES if (token := tokens[role]) in vocabulary]
    backend.add_special_tokens([AddedToken(t, special=True, lstrip=t == tokens["mask_token"]) for t in listed])
    return str(backend.to_str())


def _add_tokens_beside(folder: Path, backend: Any, tokens: dict[str, str]) -> None:
    """Add the tokens of added_tokens.json: to be found in texts as transformers finds them, after normalisation.

    Raises:
        TokenizerError: If it is damaged, or gives one another id than that of its place.
    """
    from tokenizers import AddedToken

    ids = read_json_file(folder / ADDED_TOKENS_FILE)
    if not all(type(index) is int for index in ids.values()):
        raise TokenizerError(f"{ADDED_TOKENS_FILE} beside it is no table of tokens and their ids: restore it")
    special = {token for token in tokens.values() if token in ids}
    listed = sorted(ids, key=ids.__getitem__)
    backend.add_tokens(
        [AddedToken(token, special=token in special, normalized=token not in special) for token in listed]
    )
    for token in listed:
        if backend.token_to_id(token) != ids[token]:
            raise TokenizerError(
                f"{ADDED_TOKENS_FILE} beside it gives {token!r} the id {ids[token]}, and its place is "
                f"{backend.token_to_id(token)}: give the model's tokenizer.json"
            )


def _add_roberta_pairs(backend: Any, tokens: dict[str, str], *, trim_offsets: bool, add_prefix_space: bool) -> None:
    """RoBERTa's template: <s> question </s></s> context </s> (transformers' RobertaTokenizer)."""
    from tokenizers import processors

    ids = {role: backend.token_to_id(tokens[role]) for role in ROLES}
    missing = [tokens[role] for role in ("cls_token", "sep_token", "pad_token") if ids[role] is None]
    if missing:
        raise TokenizerError(
            f"the vocabulary lacks {', '.join(missing)}: name the tokens that stand for them in {SPECIAL_TOKENS_FILE} "
            "beside it"
        )
    backend.post_processor = processors.RobertaProcessing(
        (tokens["sep_token"], ids["sep_token"]),
        (tokens["cls_token"], ids["cls_token"]),
        trim_offsets,
        add_prefix_space,
    )
    if tokens["pad_token"] not in (BERT_TOKENS["pad_token"], ROBERTA_TOKENS["pad_token"]):
        backend.enable_padding(pad_id=ids["pad_token"], pad_token=tokens["pad_token"])
