"""The order of training: windows of similar length in batches, drawn by the seed and the epoch alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_POOL_BATCHES = 50
"""Batches sorted by length at a time: little padding, while each batch stays a random draw from a large pool."""


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
