"""Vocabularies of every family's kind, trained on a few texts and written as the family's models are published.

vocab.txt, vocab.json with merges.txt, or a SentencePiece model under the name that the family gives it; for DeBERTa
also the tokenizer.json that transformers saves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 4000
"""Pieces of each vocabulary."""
CASED = ("distilbert",)
"""Families whose vocab.txt keeps case here; the others of vocab.txt have lower-cased text."""
UNKNOWN = "[UNK]"
WORD_PIECES = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "mpnet": ("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"),
}
"""Special tokens of a vocab.txt, in the order of their ids."""
BYTE_PIECES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
UNIGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "xlm-roberta": ("sentencepiece.bpe.model", {}),
    "camembert": ("sentencepiece.bpe.model", {}),
    "albert": (
        "spiece.model",
        {
            "pad_id": 0,
            "pad_piece": "<pad>",
            "unk_id": 1,
            "bos_id": -1,
            "eos_id": -1,
            "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
            "user_defined_symbols": ["(", ")", '"', "-", ".", "€"],
        },
    ),
    "deberta-v2": (
        "spm.model",
        {
            "pad_id": 0,
            "pad_piece": "[PAD]",
            "bos_id": 1,
            "bos_piece": "[CLS]",
            "eos_id": 2,
            "eos_piece": "[SEP]",
            "unk_id": 3,
            "unk_piece": "[UNK]",
        },
    ),
}
"""The name of a family's SentencePiece model, and its special pieces where they are not SentencePiece's own."""


def write_vocabulary(family: str, folder: Path, contexts: Sequence[str]) -> None:
    """Train a vocabulary of a family's kind, and write it as the family's models are published."""
    if family in UNIGRAMS:
        name, symbols = UNIGRAMS[family]
        texts = [text.lower() for text in contexts] if family == "albert" else contexts
        write_unigram(folder / name, texts, symbols)
        if family == "deberta-v2":
            write_metaspace(folder, folder / name)
    elif family == "roberta":
        write_byte_pieces(folder, contexts)
    else:
        special = WORD_PIECES["mpnet" if family == "mpnet" else "bert"]
        write_word_pieces(folder, contexts, special, lower_case=family not in CASED)


def write_word_pieces(folder: Path, contexts: Sequence[str], special: Sequence[str], *, lower_case: bool) -> None:
    """A vocab.txt."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False)
    backend.train_from_iterator(contexts, trainer)
    tokens = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in tokens), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}), "utf-8")


def write_byte_pieces(folder: Path, contexts: Sequence[str]) -> None:
    """A vocab.json and a merges.txt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(BYTE_PIECES),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(contexts, trainer)
    backend.model.save(str(folder))


def write_unigram(path: Path, contexts: Sequence[str], symbols: dict[str, Any]) -> None:
    """A SentencePiece model."""
    from sentencepiece import SentencePieceTrainer

    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(contexts),
            model_writer=file,
            vocab_size=VOCABULARY,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            **symbols,
        )


def write_metaspace(folder: Path, model: Path) -> None:
    """The tokenizer.json that transformers' own class makes of DeBERTa's pieces: words hold the space before them."""
    from sentencepiece import SentencePieceProcessor
    from transformers import DebertaV2Tokenizer

    read = SentencePieceProcessor(model_file=str(model))
    pieces = [(read.id_to_piece(index), read.get_score(index)) for index in range(read.vocab_size())]
    DebertaV2Tokenizer(vocab=pieces, unk_id=read.unk_id()).save_pretrained(folder)
