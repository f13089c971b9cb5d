"""What a tokenizer.json says of its tokens, and the library's tokenizer of it to which every text is text."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from spanqa.errors import TokenizerError
from spanqa.pair_template import PairTemplate
from spanqa.vocabulary_files import BERT_TOKENS, ROBERTA_TOKENS

_NAMES = (BERT_TOKENS, ROBERTA_TOKENS)
"""Names that padding and masks have where a tokenizer.json does not say."""


def kind_of_model(document: Mapping[str, Any]) -> str:
    """Give the model's type: WordPiece, BPE, Unigram or WordLevel; files from before tokenizers 0.10 do not name it."""
    model = document["model"]
    if "type" in model:
        return str(model["type"])
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def ids_of_tokens(document: Mapping[str, Any]) -> dict[str, int]:
    """Give every token's id: those of the vocabulary, and added ones."""
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, dict):
        ids = {str(token): int(index) for token, index in vocabulary.items()}
    else:
        ids = {str(token): index for index, (token, _) in enumerate(vocabulary)}
    for added in document.get("added_tokens") or ():
        ids[added["content"]] = int(added["id"])
    return ids


def pad_id_of(document: Mapping[str, Any], ids: Mapping[str, int]) -> int:
    """Find the padding: the token [PAD] or <pad>, else what the file pads with.

    Raises:
        TokenizerError: If there is neither.
    """
    # The file's own padding comes second: whoever switches it on without a word writes id 0 there.
    for names in _NAMES:
        if names["pad_token"] in ids:
            return ids[names["pad_token"]]
    padding = document.get("padding")
    if not padding:
        raise TokenizerError(
            "the vocabulary lacks [PAD] and <pad>, and the file has no padding entry that names another: add one"
        )
    return int(padding["pad_id"])


def special_tokens_of(document: Mapping[str, Any], ids: Mapping[str, int], pair: PairTemplate) -> dict[str, str]:
    """Name the special tokens by their roles, as special_tokens_map.json does; those that there are."""
    token_of_id = {index: token for token, index in ids.items()}
    model = document["model"]
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:
        unknown = token_of_id.get(model["unk_id"])
    found = {
        "cls_token": token_of_id.get(pair.before[0]),
        "sep_token": token_of_id.get((pair.after or pair.between or pair.before)[0]),
        "pad_token": token_of_id.get(pair.pad_id),
        "unk_token": unknown or _named("unk_token", ids),
        "mask_token": _named("mask_token", ids),
    }
    return {role: token for role, token in found.items() if token is not None}


def _named(role: str, ids: Mapping[str, int]) -> str | None:
    return next((names[role] for names in _NAMES if names[role] in ids), None)


def text_backend(serialized: str, document: Mapping[str, Any], pair: PairTemplate) -> Any:
    """Make a tokenizer of the tokenizers library for which special tokens written in a text are ordinary text.

    Words that were added to the vocabulary are found as the file says.

    Args:
        serialized: The tokenizer.json.
        document: Its content.
        pair: Its special tokens.

    Raises:
        TokenizerError: If a text could hold a special token nevertheless.
    """
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    plain = plain_tokens(document, pair)
    pre_tokenizer = document.get("pre_tokenizer") or {}
    if kind_of_model(document) == "WordPiece" and pre_tokenizer.get("type") == "BertPreTokenizer":
        # It parts "[SEP]" at the brackets. Only tokens marked as special are ordinary text below: mark all but words.
        backend = Backend.from_str(serialized)
        backend.no_truncation()
        backend.no_padding()
        others = [token.content for token in backend.get_added_tokens_decoder().values() if token.content not in plain]
        backend.add_special_tokens([AddedToken(token, special=True) for token in others])
        backend.encode_special_tokens = True
        return backend
    secret = secrets.token_hex(16)  # a name that nobody who asks can write
    kept = {key: document.get(key) for key in ("version", "normalizer", "pre_tokenizer", "decoder")}
    model = _model_of_text(document, pair, secret)
    # The others are there under such a name too: tokens get their ids by their order.
    added = [
        token if token["content"] in plain else {**token, "content": secret + token["content"]}
        for token in (document.get("added_tokens") or () if plain else ())
    ]
    backend = Backend.from_str(json.dumps({**kept, "added_tokens": added, "model": model}))
    if any(backend.token_to_id(token) != index for token, index in plain.items()):
        raise TokenizerError("its added_tokens have other ids than the places they stand at: save the tokenizer again")
    return backend


def plain_tokens(document: Mapping[str, Any], pair: PairTemplate) -> dict[str, int]:
    """Give the ids of added tokens that are words: those neither marked as special nor of a special token's role."""
    roles = {document["model"].get("unk_token"), *(token for names in _NAMES for token in names.values())}
    return {
        added["content"]: int(added["id"])
        for added in document.get("added_tokens") or ()
        if not added.get("special") and added["content"] not in roles and int(added["id"]) not in pair.ids
    }


def _model_of_text(document: Mapping[str, Any], pair: PairTemplate, secret: str) -> dict[str, Any]:
    """The model without its special tokens' names: unigram and WordPiece find "</s>" in a text as any other piece."""
    model = document["model"]
    special = {added["id"] for added in document.get("added_tokens") or () if added.get("special")} | pair.ids
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict):
        special |= {model.get("unk_id")}
        named = [[secret + token if index in special else token, p] for index, (token, p) in enumerate(vocabulary)]
        return {**model, "vocab": named}
    if kind_of_model(document) == "BPE":
        made = {_merged(merge) for merge in model.get("merges") or ()}
        found = {index for token, index in vocabulary.items() if token in made}
        if found & pair.ids:
            raise TokenizerError("its merges make a special token of a pair: anybody could write it in a text")
        special -= found
    kept = model.get("unk_token")
    return {**model, "vocab": {secret + t if i in special and t != kept else t: i for t, i in vocabulary.items()}}


def _merged(merge: str | list[str]) -> str:
    # Written as "a b" until tokenizers 0.19, as a pair since.
    return merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
