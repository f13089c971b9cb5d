"""Sequences of word pieces on the disk, and the ids that they are masked with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from spanqa.text_backend import ids_of_tokens
from spanqa.tokenization import Tokenizer
from spanqa_training.adaptation.masking import SpecialIds
from spanqa_training.errors import RunError

N_SPECIAL = 2
"""[CLS] and [SEP]."""
PIECES_FILE = "pieces.bin"
CONTINUES = np.uint32(1 << 31)
"""Set in what is stored of a piece that continues the word before it."""
ROW = np.dtype([("start", "<i8"), ("n_pieces", "<i4"), ("document", "<i4")])
"""Where a sequence stands in the file of pieces."""


class SequenceFile:
    """The sequences to train on, or those held out; threads may share it, and processes open the same one.

    Args:
        folder: Where the index lies.
        part: "training" or "held_out".
        special: The tokenizer's special ids.
        seed: Of the masks.

    Attributes:
        special: The same.
        seed: The same.
        lengths: `int32 (n_sequences,)`: tokens of each, special tokens included.
    """

    def __init__(self, folder: Path, part: str, special: SpecialIds, seed: int) -> None:
        self.special, self.seed = special, seed
        self._rows = np.fromfile(folder / f"{part}.bin", dtype=ROW)
        self.lengths = (self._rows["n_pieces"] + N_SPECIAL).astype(np.int32)
        self._path = folder / PIECES_FILE
        self._pieces: BinaryIO = self._path.open("rb", buffering=0)

    def __enter__(self) -> SequenceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.close()

    def pieces(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Give a sequence's ids, without special tokens, and whether each continues the word before it.

        Raises:
            RunError: The index was cut short while it was in use.
        """
        row = self._rows[index]
        n_bytes = 4 * int(row["n_pieces"])
        data = os.pread(self._pieces.fileno(), n_bytes, 4 * int(row["start"]))
        if len(data) != n_bytes:
            raise RunError(f"{self._path}: was cut short: start again")
        stored = np.frombuffer(data, dtype="<u4")
        return (stored & ~CONTINUES).astype(np.int32), (stored & CONTINUES) > 0


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Find the ids that masks are made with.

    Raises:
        RunError: The vocabulary has no [MASK] or <mask>.
    """
    document = json.loads(tokenizer.serialized)
    ids = ids_of_tokens(document)
    mask = ids.get(tokenizer.special_tokens.get("mask_token", ""))
    if mask is None:
        raise RunError("the vocabulary has no [MASK], so that no masked language model can be trained: give another -m")
    added = {int(token["id"]) for token in document.get("added_tokens") or ()}
    plain = sorted({*ids.values()} - {mask, *tokenizer.pair.ids, *added})
    return SpecialIds(
        cls=tokenizer.cls_id,
        sep=tokenizer.sep_id,
        pad=tokenizer.pad_id,
        mask=int(mask),
        plain=np.array(plain, dtype=np.int32),
    )
