"""Masks over whole words, drawn anew in each epoch: what the masked language model is asked, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from spanqa_training.data.feed import Objective, Place

MASKED_SHARE = 0.15
"""Of the word pieces (Devlin et al. 2018, section 3.1)."""
_AS_MASK, _AS_OTHER = 0.8, 0.1
"""Shares of them that become [MASK] and another piece; the rest stays as it is (ibid.)."""
_TRAINING, _HELD_OUT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids that are no text.

    Args:
        cls: [CLS].
        sep: [SEP].
        pad: [PAD].
        mask: [MASK].
        plain: `int32 (n,)`: every other id of the vocabulary, one of which may take a piece's place.
    """

    cls: int
    sep: int
    pad: int
    mask: int
    plain: NDArray[np.int32]


class Sequences(Protocol):
    """Where sequences come from."""

    special: SpecialIds
    seed: int

    def pieces(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Give a sequence's ids, without special tokens, and whether each continues the word before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedShare:
    """One process's part of a global batch of masked sequences.

    Args:
        inputs: input_ids, attention_mask and token_type_ids, each `int32 (n, length)`.
        places: `int64 (n_masked,)`: the places that are asked for, row * length + position.
        labels: `int64 (n_masked,)`: what stood there.
        weight: Its part of the global batch's mean: masked pieces here over those of all processes.
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    places: Tensor
    labels: Tensor
    weight: float

    def moved(self, move: Callable[[Tensor], Tensor]) -> MaskedShare:
        """Give the same with every tensor moved."""
        ids, mask, types = map(move, self.inputs)
        return MaskedShare(
            inputs=(ids, mask, types), places=move(self.places), labels=move(self.labels), weight=self.weight
        )

    def weighted(self, factor: float) -> MaskedShare:
        """Give the same with another weight: as many times its own."""
        return replace(self, weight=factor * self.weight)


def chosen_pieces(continues: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose the pieces to ask for: whole words, in random order, until 15 % of the pieces are reached.

    As in Google's whole-word masking (`create_pretraining_data.py` of google-research/bert, since May 2019): a word
    that would exceed the share is passed over. Where every word would, the first one drawn is taken.

    Args:
        continues: `bool (n_pieces,)`: whether each piece belongs to the word of the one before it.
        rng: Draws the words.

    Returns:
        Ascending places of the pieces, at least one.
    """
    n_pieces = len(continues)
    firsts = np.flatnonzero(~continues | (np.arange(n_pieces) == 0))
    sizes = np.diff(np.append(firsts, n_pieces))
    n_wanted = max(1, round(MASKED_SHARE * n_pieces))
    order = rng.permutation(len(firsts))
    taken: list[int] = []
    n_left = n_wanted
    for word in order.tolist():
        if sizes[word] <= n_left:
            taken.append(word)
            n_left -= int(sizes[word])
            if not n_left:
                break
    words = np.sort(np.array(taken or order[:1], dtype=np.int64))
    return np.concatenate([np.arange(firsts[word], firsts[word] + sizes[word]) for word in words])


def masked_sequence(
    ids: NDArray[np.int32], continues: NDArray[np.bool_], special: SpecialIds, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Mask a sequence: of the pieces chosen 80 % become [MASK], 10 % another piece, 10 % stay.

    Args:
        ids: `int32 (n_pieces,)`.
        continues: As in `chosen_pieces`.
        special: The special ids.
        rng: Draws.

    Returns:
        The ids with some replaced, and the places of all that were chosen.
    """
    places = chosen_pieces(continues, rng)
    draws = rng.random(len(places))
    others = special.plain[rng.integers(len(special.plain), size=len(places))]
    kept = ids[places]
    masked = ids.copy()
    masked[places] = np.where(draws < _AS_MASK, special.mask, np.where(draws < _AS_MASK + _AS_OTHER, others, kept))
    return masked, places


def share_of_sequences(source: Sequences, batch: NDArray[np.int64], place: Place) -> MaskedShare:
    """Make a process's share of a global batch, its masks drawn by seed, epoch and sequence alone.

    Args:
        source: The sequences.
        batch: Which of them, `int64 (n_global,)`.
        place: The process and the epoch.
    """
    return _share(source, batch, (source.seed, _TRAINING, place.epoch), place.rank, place.world_size)


def share_of_held_out(source: Sequences, batch: NDArray[np.int64]) -> MaskedShare:
    """Make a batch of held-out sequences, masked in the same way whenever it is asked for."""
    return _share(source, batch, (source.seed, _HELD_OUT, 0), 0, 1)


def _share(source: Sequences, batch: NDArray[np.int64], stream: tuple[int, ...], rank: int, size: int) -> MaskedShare:
    # A process with nothing of a small batch takes its first sequence, which then counts for nothing.
    mine = range(rank, len(batch), size) or range(1)
    rows, n_masked = [], 0
    for number, index in enumerate(batch.tolist()):
        if size > 1 or number in mine:
            ids, continues = source.pieces(index)
            masked, places = masked_sequence(ids, continues, source.special, np.random.default_rng((*stream, index)))
            n_masked += len(places)
            if number in mine:
                rows.append((masked, places, ids[places]))
    n_mine = sum(len(places) for _, places, _ in rows) if rank < len(batch) else 0
    return _padded(rows, source.special, n_mine / n_masked)


def _padded(
    rows: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]], special: SpecialIds, weight: float
) -> MaskedShare:
    length = max(len(ids) for ids, _, _ in rows) + 2
    input_ids = np.full((len(rows), length), special.pad, dtype=np.int32)
    attention_mask = np.zeros((len(rows), length), dtype=np.int32)
    for row, (ids, _, _) in enumerate(rows):
        input_ids[row, : len(ids) + 2] = (special.cls, *ids, special.sep)
        attention_mask[row, : len(ids) + 2] = 1
    places = np.concatenate([row * length + 1 + places for row, (_, places, _) in enumerate(rows)])
    labels = np.concatenate([kept for _, _, kept in rows]).astype(np.int64)
    inputs = (torch.from_numpy(input_ids), torch.from_numpy(attention_mask), torch.from_numpy(input_ids * 0))
    return MaskedShare(inputs=inputs, places=torch.from_numpy(places), labels=torch.from_numpy(labels), weight=weight)


def _loss(model: nn.Module, share: MaskedShare) -> Tensor:
    return functional.cross_entropy(model(*share.inputs, share.places), share.labels)


MASKED_WORDS = Objective(share=share_of_sequences, loss=_loss)
"""Learning to tell masked words from what stands around them."""
