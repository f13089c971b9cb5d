"""Texts as sequences of word pieces on the disk: cut within documents, a part of the documents held out."""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spanqa.tokenization import Pieces, Tokenizer
from spanqa_training.adaptation.sequence_file import CONTINUES, N_SPECIAL, PIECES_FILE, ROW
from spanqa_training.errors import RunError

_HEADER = "header.json"
_BLOCK_CHARS = 200_000
"""Of a text that is cut into word pieces at once."""
_HASH_VALUES = 1 << 64

OnWords = Callable[[str, Pieces], None]
"""Is told a stretch of text and its word pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCounts:
    """What an index holds.

    Args:
        n_documents: Texts to train on.
        n_sequences: Sequences of them.
        n_pieces: Word pieces in these.
        n_held_out_documents: Texts that are held out.
        n_held_out_sequences: Sequences of them.
    """

    n_documents: int
    n_sequences: int
    n_pieces: int
    n_held_out_documents: int
    n_held_out_sequences: int


def cut_places(continues: NDArray[np.bool_], room: int) -> Iterator[tuple[int, int]]:
    """Cut a document's pieces into sequences of about the same length, none of more than some pieces.

    Args:
        continues: `bool (n_pieces,)`: whether each belongs to the word of the one before it; words stay whole, but for
            one that is longer than a sequence.
        room: Most pieces of a sequence.

    Yields:
        First piece and the one after the last of each, in order; together they hold every piece once.
    """
    start, n_pieces = 0, len(continues)
    while start < n_pieces:
        n_left = n_pieces - start
        end = full = start + -(-n_left // -(-n_left // room))
        while end < n_pieces and end > start and continues[end]:
            end -= 1
        end = end if end > start else full
        yield start, end
        start = end


def build_text_index(
    texts: Iterable[str],
    held_out: Iterable[str] | float,
    *,
    tokenizer: Tokenizer,
    max_seq_length: int,
    folder: Path,
    on_words: OnWords = lambda *_: None,
) -> tuple[Path, TextCounts]:
    """Write an index in a folder that no other process writes to.

    Args:
        texts: The documents.
        held_out: The documents to hold out; or a share of `texts`, chosen by the hashes of their content: equal texts
            go together, and at least one is held out where there are two.
        tokenizer: The model's.
        max_seq_length: Tokens of a sequence, special tokens included.
        folder: Holds indices, each in a folder named by its content.
        on_words: Is told all text to train on, and what may be held out of it.

    Returns:
        The index's folder, and what it holds.

    Raises:
        RunError: There is less text than one sequence, or the folder cannot be written.
    """
    new = folder / ".new"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with _Writer(new, tokenizer, max_seq_length - N_SPECIAL) as writer:
            hashes = [writer.add(text, on_words) for text in texts]
            n_given = len(hashes)
            if not isinstance(held_out, float):
                hashes += [writer.add(text) for text in held_out]
            out = np.array(_held_out(hashes, held_out) if isinstance(held_out, float) else [], dtype=np.int64)
            kept = np.setdiff1d(np.arange(n_given), out)
            out = out if isinstance(held_out, float) else np.arange(n_given, len(hashes))
            counts = writer.finish(kept, out)
        if counts.n_pieces < max_seq_length - N_SPECIAL:
            raise RunError(
                f"the texts hold {counts.n_pieces:,} word pieces, less than one sequence of {max_seq_length}: give "
                "more text, or lower model.dataset.max_seq_length"
            )
        (new / _HEADER).write_text(json.dumps(asdict(counts)), encoding="utf-8")
        target = folder / _digest(new)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    except OSError as error:
        raise RunError(f"{folder}: the index of texts cannot be kept there: {error}") from error
    return target, counts


def _held_out(hashes: list[int], share: float) -> list[int]:
    """Documents of a share, by their hashes: those below it, or the lowest."""
    if share <= 0 or len(set(hashes)) < 2:
        return []
    limit = max(int(share * _HASH_VALUES), min(hashes) + 1)
    return [number for number, value in enumerate(hashes) if value < limit]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:32]


class _Writer:
    def __init__(self, folder: Path, tokenizer: Tokenizer, room: int) -> None:
        self._folder, self._tokenizer, self._room = folder, tokenizer, room
        self._rows = {name: array("q") for name in ("start", "n_pieces", "document")}
        self._n_pieces = self._n_documents = 0

    def __enter__(self) -> _Writer:
        self._file = (self._folder / PIECES_FILE).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, text: str, on_words: OnWords = lambda *_: None) -> int:
        """Add a document; gives the hash of its content."""
        blocks = list(_blocks(text))
        pieces = self._tokenizer.pieces_of_many(blocks)
        for block, of_block in zip(blocks, pieces, strict=True):
            on_words(block, of_block)
        ids = np.concatenate([one.ids for one in pieces]).astype(np.uint32)
        continues = np.concatenate([one.continues for one in pieces])
        (ids | continues * CONTINUES).astype("<u4").tofile(self._file)
        for start, end in cut_places(continues, self._room):
            for name, value in (("start", self._n_pieces + start), ("n_pieces", end - start)):
                self._rows[name].append(value)
            self._rows["document"].append(self._n_documents)
        self._n_pieces += len(ids)
        self._n_documents += 1
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def finish(self, kept: NDArray[np.int64], out: NDArray[np.int64]) -> TextCounts:
        rows = np.zeros(len(self._rows["start"]), dtype=ROW)
        for name, values in self._rows.items():
            rows[name] = values
        training, held_out = (rows[np.isin(rows["document"], documents)] for documents in (kept, out))
        training.tofile(self._folder / "training.bin")
        held_out.tofile(self._folder / "held_out.bin")
        return TextCounts(
            n_documents=len(kept),
            n_sequences=len(training),
            n_pieces=int(training["n_pieces"].sum()),
            n_held_out_documents=len(out),
            n_held_out_sequences=len(held_out),
        )


def _blocks(text: str) -> Iterator[str]:
    """A text in stretches that no word crosses, the last of which may be empty."""
    start = 0
    while len(text) - start > _BLOCK_CHARS:
        end = start + _BLOCK_CHARS
        while end > start and not text[end].isspace():
            end -= 1
        end = end if end > start else start + _BLOCK_CHARS
        yield text[start:end]
        start = end
    yield text[start:]
