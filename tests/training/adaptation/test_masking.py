"""Masks cover whole words, in the shares of the paper, and are the same for the same seed, epoch and sequence."""

import numpy as np
import pytest
import torch

from spanqa_training.adaptation.masking import (
    SpecialIds,
    chosen_pieces,
    masked_sequence,
    share_of_held_out,
    share_of_sequences,
)
from spanqa_training.data.feed import Place

SPECIAL = SpecialIds(cls=2, sep=3, pad=0, mask=4, plain=np.arange(5, 1000, dtype=np.int32))


class Drawn:
    """Forty sequences of words of one to four pieces."""

    special, seed = SPECIAL, 7

    def pieces(self, index):
        rng = np.random.default_rng(index)
        sizes = rng.integers(1, 5, size=rng.integers(1, 60))
        continues = np.concatenate([np.arange(size) > 0 for size in sizes])
        return rng.integers(5, 1000, size=len(continues)).astype(np.int32), continues


def words_of(continues):
    return np.cumsum(~continues)


def place(rank=0, world_size=1, epoch=0):
    return Place(rank=rank, world_size=world_size, epoch=epoch)


@pytest.mark.parametrize("index", range(20))
def test_a_word_is_masked_as_a_whole_or_not_at_all(index):
    _, continues = Drawn().pieces(index)
    words, rng = words_of(continues), np.random.default_rng(index)
    for _ in range(20):
        places = chosen_pieces(continues, rng)
        assert np.array_equal(places, np.flatnonzero(np.isin(words, words[places])))
        n_words = len(set(words[places]))
        assert len(places) <= max(1, round(0.15 * len(words))) or n_words == 1


def test_fifteen_percent_are_asked_for_and_eighty_ten_ten_of_them_replaced():
    ids, rng = np.full(200, 500, dtype=np.int32), np.random.default_rng(0)
    continues = np.zeros(200, dtype=np.bool_)
    asked = masks = others = kept = 0
    for _ in range(1000):
        masked, places = masked_sequence(ids, continues, SPECIAL, rng)
        assert np.array_equal(np.delete(masked, places), np.delete(ids, places))
        asked += len(places)
        masks += int((masked[places] == 4).sum())
        kept += int((masked[places] == 500).sum())
        others += int((~np.isin(masked[places], (4, 500))).sum())
        assert masked.min() >= 4
    assert asked == 30_000
    assert masks / asked == pytest.approx(0.8, abs=0.01)
    assert others / asked == pytest.approx(0.1, abs=0.01)
    assert kept / asked == pytest.approx(0.1, abs=0.01)


def test_every_word_has_its_turn():
    continues = np.array([False, True, True, False, False, True, False, False, False, True] * 4)
    rng, seen = np.random.default_rng(1), np.zeros(40)
    for _ in range(2000):
        seen[chosen_pieces(continues, rng)] += 1
    assert seen.min() > 0.5 * seen.mean()


def test_a_sequence_of_one_long_word_is_asked_for_as_a_whole():
    assert chosen_pieces(np.array([True, True, True]), np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_masks_are_those_of_seed_epoch_and_sequence_whatever_the_number_of_processes():
    """What one process asks of each sequence of a batch, three ask as well; their weights make the same mean."""
    batch = np.array([3, 11, 7, 25, 19], dtype=np.int64)

    def asked(share, numbers):
        length = share.inputs[0].shape[1]
        rows = {number: [] for number in numbers}
        for at, label in zip(share.places.tolist(), share.labels.tolist(), strict=True):
            row, position = divmod(at, length)
            rows[numbers[row]].append((position, label, int(share.inputs[0][row, position])))
        return rows

    whole = share_of_sequences(Drawn(), batch, place(epoch=2))
    parts = [share_of_sequences(Drawn(), batch, place(rank, 3, epoch=2)) for rank in range(3)]
    assert asked(whole, batch.tolist()) == {
        number: rows for rank, part in enumerate(parts) for number, rows in asked(part, batch[rank::3].tolist()).items()
    }
    assert whole.weight == 1
    assert sum(part.weight for part in parts) == pytest.approx(1)
    assert [part.weight * len(whole.labels) for part in parts] == pytest.approx([len(part.labels) for part in parts])
    again = share_of_sequences(Drawn(), batch[::-1].copy(), place(epoch=2))
    assert asked(again, batch[::-1].tolist()) == asked(whole, batch.tolist())
    other = share_of_sequences(Drawn(), batch, place(epoch=3))
    assert asked(other, batch.tolist()) != asked(whole, batch.tolist())


def test_a_process_without_a_sequence_counts_for_nothing():
    share = share_of_sequences(Drawn(), np.array([5], dtype=np.int64), place(1, 2))
    assert share.weight == 0
    assert len(share.labels)


def test_sequences_stand_between_their_special_tokens_and_labels_are_what_stood_there():
    batch = np.array([3, 11], dtype=np.int64)
    share = share_of_held_out(Drawn(), batch)
    ids, mask, types = share.inputs
    assert not types.any()
    restored = ids.reshape(-1).clone()
    restored[share.places] = share.labels.int()
    for row, index in enumerate(batch.tolist()):
        pieces = Drawn().pieces(index)[0].tolist()
        n = len(pieces) + 2
        assert restored.reshape(ids.shape)[row].tolist() == [2, *pieces, 3] + [0] * (ids.shape[1] - n)
        assert mask[row].tolist() == [1] * n + [0] * (ids.shape[1] - n)
    again = share_of_held_out(Drawn(), batch)
    assert torch.equal(again.inputs[0], ids), "before and after are asked the same"
