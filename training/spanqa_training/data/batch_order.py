"""The order of training: windows of similar length in batches, drawn by the seed and the epoch alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spanqa_training.errors import RunError

_POOL_BATCHES = 50
"""Batches sorted by length at a time: little padding, while each batch stays a random draw from a large pool."""


def shared_order(
    lengths: NDArray[np.int32],
    batch_size: int,
    batch_tokens: int | None,
    *,
    world_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    drop_last: bool,
) -> list[NDArray[np.int64]]:
    """Group windows into the batches that all processes of a run share.

    Args:
        lengths: Tokens of each window.
        batch_size: Windows in a batch of each process.
        batch_tokens: In its place, most tokens in a batch of each process, padding counted.
        world_size: Processes that share each batch.
        seed: The run's seed.
        epoch: Counted from 0.
        shuffle: Whether to draw at random.
        drop_last: Whether to leave out the batch that holds fewer windows than batch_size.

    Returns:
        Indices of the windows of each batch; there is at least one, and every epoch has as many.

    Raises:
        RunError: The windows do not fill one batch, or one of them is longer than a batch may be.
    """
    if batch_tokens is None:
        batch_size *= world_size
        order = batch_order(lengths, batch_size, seed=seed, epoch=epoch, shuffle=shuffle, drop_last=drop_last)
    else:
        order = token_batch_order(lengths, batch_tokens, world_size=world_size, seed=seed, epoch=epoch, shuffle=shuffle)
    if not order:
        raise RunError(f"{len(lengths)} windows do not fill one batch: lower batch_size, or drop_last=false")
    return order


def batch_order(
    lengths: ArrayLike, batch_size: int, *, seed: int, epoch: int, shuffle: bool, drop_last: bool = False
) -> list[NDArray[np.int64]]:
    """Group windows of similar length into batches, in an order that only the seed and the epoch decide.

    Args:
        lengths: Tokens of each window.
        batch_size: Windows in a batch; one batch may hold fewer.
        seed: The run's seed.
        epoch: Counted from 0.
        shuffle: Whether to draw pools and batches at random; otherwise file order decides.
        drop_last: Whether to leave out the batch that holds fewer.

    Returns:
        Indices of the windows of each batch; every window stands in at most one.
    """
    lengths = np.asarray(lengths)
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths)) if shuffle else np.arange(len(lengths))
    pool = batch_size * _POOL_BATCHES
    for low in range(0, len(order), pool):
        drawn = order[low : low + pool]
        order[low : low + pool] = drawn[np.argsort(lengths[drawn], kind="stable")]
    batches = [order[low : low + batch_size] for low in range(0, len(order), batch_size)]
    if shuffle:
        batches = [batches[index] for index in rng.permutation(len(batches))]
    return [batch for batch in batches if len(batch) == batch_size] if drop_last else batches


def token_batch_order(
    lengths: ArrayLike, batch_tokens: int, *, world_size: int, seed: int, epoch: int, shuffle: bool
) -> list[NDArray[np.int64]]:
    """Group windows of nearly equal length into batches of many short or few long ones, by seed and epoch alone.

    All windows are sorted by length, so that every epoch has as many batches; chance decides among equal lengths, and
    the order of the batches.

    Args:
        lengths: Tokens of each window.
        batch_tokens: Most tokens that one process gets of a batch, padding counted; at least those of the longest
            window.
        world_size: Processes that share each batch.
        seed: The run's seed.
        epoch: Counted from 0.
        shuffle: Whether to draw at random; otherwise batches come in the order of their first windows in the file.

    Returns:
        Indices of the windows of each batch; every window stands in exactly one.

    Raises:
        RunError: A window is longer than a batch may be.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    longest = int(np.max(lengths, initial=0))
    if longest > batch_tokens:
        raise RunError(
            f"batch_tokens is {batch_tokens}, the longest window {longest} word pieces: give at least as many"
        )
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths)) if shuffle else np.arange(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches = []
    low = 0
    while low < len(order):
        most = min(len(order) - low, world_size * (batch_tokens // int(lengths[order[low]])))
        rows_of_one = -(-np.arange(1, most + 1) // world_size)
        tokens_of_one = rows_of_one * lengths[order[low : low + most]]
        high = low + int(np.searchsorted(tokens_of_one, min(batch_tokens, tokens_of_one[-1]), side="right"))
        batches.append(order[low:high])
        low = high
    if shuffle:
        return [batches[index] for index in rng.permutation(len(batches))]
    return sorted(batches, key=min)
