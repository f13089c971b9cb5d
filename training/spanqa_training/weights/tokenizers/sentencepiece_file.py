"""SentencePiece's models: what a unigram tokenizer needs of them, read from the protobuf itself.

The format is sentencepiece_model.proto (github.com/google/sentencepiece): a message of length-delimited fields. Its few
fields are read here, so that nothing has to be installed for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa.errors import TokenizerError

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE, _CONTROL = 1, 2, 3, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNK_ID, _UNIGRAM = 3, 35, 40, 1
_CHARSMAP = 2
_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceModel:
    """What a SentencePiece model says.

    Args:
        pieces: Pieces and their log probabilities, in the order of their ids.
        controls: Pieces that no text is cut into.
        unk_id: Id of the unknown piece.
        byte_fallback: Whether unknown characters become pieces of their bytes.
        charsmap: The normaliser's rules, compiled; empty where it has none.
    """

    pieces: list[tuple[str, float]]
    controls: list[str]
    unk_id: int
    byte_fallback: bool
    charsmap: bytes


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read a SentencePiece model of unigram type.

    Raises:
        TokenizerError: If it cannot be read, or is of another type.
    """
    try:
        data = memoryview(path.read_bytes())
        pieces: list[tuple[str, float]] = []
        controls: list[str] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for field, value in _fields(data):
            if field == _PIECES:
                said = dict(_fields(value))
                pieces.append((bytes(said[_PIECE]).decode(), struct.unpack("<f", said.get(_SCORE, b"\0" * 4))[0]))
                controls += [pieces[-1][0]] * (said.get(_TYPE) == _CONTROL)
            elif field == _TRAINER:
                trainer = dict(_fields(value))
            elif field == _NORMALIZER:
                normalizer = dict(_fields(value))
        model = SentencePieceModel(
            pieces=pieces,
            controls=controls,
            unk_id=int(trainer.get(_UNK_ID, 0)),
            byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
            charsmap=bytes(normalizer.get(_CHARSMAP, b"")),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise TokenizerError(f"{path}: cannot be read as a SentencePiece model: {error}") from error
    if not pieces or not 0 <= model.unk_id < len(pieces):
        raise TokenizerError(f"{path}: cannot be read as a SentencePiece model: it has no unknown piece")
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise TokenizerError(
            f"{path}: a SentencePiece model that is not of unigram type: only unigram is read: give the tokenizer.json "
            "of this model (--tokenizer)"
        )
    return model


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Give a message's fields: numbers as int, all else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == _DELIMITED:
            size, at = _varint(data, at)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if at + size > len(data):
            raise ValueError("it ends amid a field")
        yield field, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
