"""What a tokenizer.json leaves to the files beside it: which token pads, what stands around a pair, and BERT's case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spanqa.errors import TokenizerError
from spanqa.pair_template import pair_from_document
from spanqa.text_backend import ids_of_tokens, kind_of_model, pad_id_of
from spanqa.vocabulary_files import BERT_CLASSES, BERT_TOKENS, NORMALIZATION, is_of_class

_TWO_SEPARATORS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
"""model_type of models that read <s> question </s></s> context </s>; the others read one separator."""


def completed_tokenizer_json(
    serialized: str, config: Mapping[str, Any], special_tokens: Mapping[str, str], said: Mapping[str, Any] | None = None
) -> str:
    """Write into a tokenizer.json what only the files beside it say, or what they say with precedence.

    Args:
        serialized: The content of the tokenizer.json.
        config: The network's config.json.
        special_tokens: Roles as in special_tokens_map.json -> tokens.
        said: The tokenizer_config.json.

    Returns:
        The same text where nothing is missing or contradicted, or where nothing beside it says what is.
    """
    try:
        document = json.loads(serialized)
        ids = ids_of_tokens(document)
        changes = {**_padding(document, ids, config, special_tokens), **_pairs(document, ids, config, special_tokens)}
        changes |= _normalizer(document, said or {})
    except (ValueError, KeyError, TypeError, AttributeError, TokenizerError):
        return serialized  # whoever loads it says what is wrong
    return json.dumps({**document, **changes}, ensure_ascii=False) if changes else serialized


def _normalizer(document: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """BERT's normaliser as tokenizer_config.json has it: transformers' classes of that tokenizer believe it."""
    normalizer = document.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer" or not is_of_class(said, BERT_CLASSES):
        return {}
    told = {ours: said[key] for key, ours in NORMALIZATION.items() if isinstance(said.get(key), bool)}
    changed = {**normalizer, **told}
    return {"normalizer": changed} if changed != normalizer else {}


def _padding(
    document: Mapping[str, Any], ids: Mapping[str, int], config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> dict[str, Any]:
    try:
        pad_id_of(document, ids)
    except TokenizerError:
        token_of_id = {index: token for token, index in ids.items()}
        token = special_tokens.get("pad_token") or token_of_id.get(config.get("pad_token_id", -1), "")
        if token not in ids:
            return {}
        numbers = {"pad_to_multiple_of": None, "pad_id": ids[token], "pad_type_id": 0, "pad_token": token}
        return {"padding": {"strategy": "BatchLongest", "direction": "Right", **numbers}}
    return {}


def _pairs(
    document: Mapping[str, Any], ids: Mapping[str, int], config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> dict[str, Any]:
    cls, sep = special_tokens.get("cls_token", ""), special_tokens.get("sep_token", "")
    is_bert = kind_of_model(document) == "WordPiece" and all(token in ids for token in list(BERT_TOKENS.values())[:4])
    if cls not in ids or sep not in ids or is_bert or pair_from_document(dict(document), pad_id=0) is not None:
        return {}
    has_types = config.get("type_vocab_size", 0) > 1
    n_between = 2 if config.get("model_type") in _TWO_SEPARATORS else 1

    def token(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    kind = int(has_types)
    single = [token(cls, 0), text("A", 0), token(sep, 0)]
    pair = [token(cls, 0), text("A", 0), *[token(sep, 0)] * n_between, text("B", kind), token(sep, kind)]
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (cls, sep)}
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    if document.get("post_processor"):  # a ByteLevel that trims offsets
        template = {"type": "Sequence", "processors": [document["post_processor"], template]}
    return {"post_processor": template}
