"""A tokenizer.json made from a SentencePiece model, for the kinds of models that came with one alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa.errors import TokenizerError
from spanqa.tokenization import TOKENIZER_FILE
from spanqa.vocabulary_files import (
    BERT_TOKENS,
    ROBERTA_TOKENS,
    TOKENIZER_CONFIG_FILE,
    read_json_file,
    special_tokens_beside,
)
from spanqa_training.weights.tokenizers.sentencepiece_file import SentencePieceModel, read_sentencepiece_model

SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "spm.model")
"""As XLM-RoBERTa and CamemBERT, ALBERT, and DeBERTa name it."""
_CONFIG_FILE = "config.json"
_NO_NUMBER_COMMA = -100.0
"""Added by ALBERT to pieces such as "19," so that the comma stays a piece of its own (its tokenization.py)."""
_ROBERTA_PAIR = ("{cls} $A {sep}", "{cls} $A {sep} {sep} $B {sep}")
_BERT_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnigramFamily:
    """How a kind of model uses its SentencePiece model.

    Args:
        tokens: Special tokens by role, where nothing beside the model says otherwise.
        pair: Templates of one text and of a pair.
        first: Tokens before the model's own, in order, with their log probabilities.
        n_dropped: Pieces of the model in whose place they stand.
        unk_id: Id of the unknown token; None for the model's own.
        as_albert: Whether quotes, accents, case and numbers are treated as ALBERT's tokenizer does.
    """

    tokens: Mapping[str, str]
    pair: tuple[str, str]
    first: tuple[tuple[str, float], ...] = ()
    n_dropped: int = 0
    unk_id: int | None = None
    as_albert: bool = False


# The ids of fairseq's dictionary, which begins with its own special tokens; transformers' tokenizers of these names.
FAMILIES = {
    "xlm-roberta": UnigramFamily(
        tokens=ROBERTA_TOKENS,
        pair=_ROBERTA_PAIR,
        first=(("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)),
        n_dropped=3,
        unk_id=3,
    ),
    "camembert": UnigramFamily(
        tokens=ROBERTA_TOKENS,
        pair=_ROBERTA_PAIR,
        first=(("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)),
        n_dropped=1,
        unk_id=3,
    ),
    "albert": UnigramFamily(
        tokens={**BERT_TOKENS, "pad_token": "<pad>", "unk_token": "<unk>"}, pair=_BERT_PAIR, as_albert=True
    ),
    "deberta-v2": UnigramFamily(tokens=BERT_TOKENS, pair=_BERT_PAIR),
}
"""model_type of config.json -> its family."""


def sentencepiece_file_at(path: Path) -> Path | None:
    """Give the SentencePiece model that a path names, or that its folder has in a tokenizer.json's place."""
    if path.is_file():
        return path if path.suffix == ".model" else None
    if (path / TOKENIZER_FILE).is_file():
        return None
    return next((path / name for name in SENTENCEPIECE_FILES if (path / name).is_file()), None)


def tokenizer_json_from_sentencepiece(path: Path, config: Mapping[str, Any] | None = None) -> str:
    """Make a tokenizer.json from a SentencePiece model.

    Args:
        path: The model, beside which tokenizer_config.json and special_tokens_map.json may say more.
        config: The network's config.json, whose model_type says how the model is used; by default the one beside it.

    Raises:
        TokenizerError: If the model cannot be read, or it is not known how it is used.
    """
    config = read_json_file(path.with_name(_CONFIG_FILE)) if config is None else config
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise TokenizerError(
            f"{path}: how a SentencePiece model is used is known of {', '.join(FAMILIES)} (model_type in a "
            f"{_CONFIG_FILE} beside it), not of {config.get('model_type')!r}: give the model's tokenizer.json "
            "(--tokenizer)"
        )
    said = read_json_file(path.with_name(TOKENIZER_CONFIG_FILE))
    tokens = {**family.tokens, **special_tokens_beside(path.parent)}
    try:
        return _serialized(read_sentencepiece_model(path), family, tokens, said)
    except TokenizerError:
        raise
    except Exception as error:  # the Rust library raises a bare Exception
        raise TokenizerError(f"{path}: no tokenizer can be made of it: {error}") from error


def _serialized(
    model: SentencePieceModel, family: UnigramFamily, tokens: Mapping[str, str], said: Mapping[str, Any]
) -> str:
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    pieces = [*family.first, *model.pieces[family.n_dropped :]]
    if family.as_albert:
        pieces = [(piece, score if _may_stay(piece) else score + _NO_NUMBER_COMMA) for piece, score in pieces]
    named = {piece for piece, _ in pieces}
    if tokens["mask_token"] not in named:
        pieces.append((tokens["mask_token"], 0.0))
    unk_id = model.unk_id if family.unk_id is None else family.unk_id
    backend = Backend(models.Unigram(pieces, unk_id=unk_id, byte_fallback=model.byte_fallback))
    rules = _albert_rules(said) if family.as_albert else []
    if said.get("do_lower_case") and not family.as_albert:
        rules.append(normalizers.Lowercase())
    if model.charsmap:
        rules.append(normalizers.Precompiled(model.charsmap))
    backend.normalizer = normalizers.Sequence(rules)
    # Words one by one, as SentencePiece takes runs of spaces for one and drops those at both ends.
    splits: list[Any] = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    if said.get("split_by_punct"):
        splits.insert(1, pre_tokenizers.Punctuation(behavior="isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    cls, sep = tokens["cls_token"], tokens["sep_token"]
    single, pair = (template.format(cls=cls, sep=sep) for template in family.pair)
    special = dict.fromkeys((*tokens.values(), *model.controls, *(token for token, _ in family.first)))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys((cls, sep))]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return str(backend.to_str())


def _albert_rules(said: Mapping[str, Any]) -> list[Any]:
    from tokenizers import normalizers

    rules: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not said.get("keep_accents", False):
        rules += [normalizers.NFKD(), normalizers.StripAccents()]
    return rules + ([normalizers.Lowercase()] if said.get("do_lower_case", True) else [])


def _may_stay(piece: str) -> bool:
    return len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit()
