"""Batches for one process of a run: its share of each global batch, prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from spanqa_training.data.labels import LabelledBatch

_AHEAD_PER_WORKER = 2


class WindowSource(Protocol):
    """Where labelled windows come from."""

    def batch(self, indices: NDArray[np.int64]) -> LabelledBatch:
        """Give some windows, padded to one length."""


class AnyShare(Protocol):
    """One process's part of a global batch, whatever is learned from it."""

    @property
    def weight(self) -> float:
        """Its part of the global batch's mean loss; over all processes 1, or what a batch counts beside others."""

    def moved(self, move: Callable[[Tensor], Tensor]) -> AnyShare:
        """Give the same with every tensor moved."""

    def weighted(self, factor: float) -> AnyShare:
        """Give the same with another weight: as many times its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One process's part of a global batch.

    Args:
        inputs: input_ids, attention_mask and token_type_ids, each `int32 (n, length)`.
        starts: `int64 (n,)`.
        ends: Same.
        weight: Its part of the global batch's mean: n / n_global. 0 where a global batch has fewer windows than there
            are processes; the one window that the share then holds counts for nothing.
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    starts: Tensor
    ends: Tensor
    weight: float

    def moved(self, move: Callable[[Tensor], Tensor]) -> Share:
        """Give the same with every tensor moved."""
        ids, mask, types = map(move, self.inputs)
        return Share(inputs=(ids, mask, types), starts=move(self.starts), ends=move(self.ends), weight=self.weight)

    def weighted(self, factor: float) -> Share:
        """Give the same with another weight: as many times its own."""
        return replace(self, weight=factor * self.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which part of a run's data is asked for.

    Args:
        rank: The process.
        world_size: Of how many.
        epoch: Counted from 0.
    """

    rank: int
    world_size: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is learned.

    Args:
        share: Makes a process's part of a global batch, of a source and the batch's indices; it decides nothing by
            chance but what its place in the run decides.
        loss: The mean loss of a model on a share.
    """

    share: Callable[[Any, NDArray[np.int64], Place], AnyShare]
    loss: Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Prepares the shares of one process.

    Args:
        source: What the objective makes shares of, such as labelled windows.
        objective: Makes them.
        rank: Which process.
        world_size: Of how many.
        num_workers: Threads that prepare ahead; 0 prepares each share when it is asked for.
        pin_memory: Whether the tensors lie in page-locked memory.
        device: Where the tensors go.
        mean_rows: Rows of a global batch on average, where batches differ: each row then counts alike over an epoch,
            and not each batch. None where all batches have as many.
    """

    source: Any
    objective: Objective
    rank: int
    world_size: int
    num_workers: int
    pin_memory: bool
    device: torch.device
    mean_rows: float | None = None

    def shares(self, order: Sequence[NDArray[np.int64]], epoch: int) -> Iterator[AnyShare]:
        """Give the share of each global batch of an epoch, in order."""
        if not self.num_workers:
            yield from (self._on_device(self._share(batch, epoch)) for batch in order)
            return
        waiting: deque[Future[AnyShare]] = deque()
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="feed") as pool:
            try:
                for batch in order:
                    waiting.append(pool.submit(self._share, batch, epoch))
                    if len(waiting) > _AHEAD_PER_WORKER * self.num_workers:
                        yield self._on_device(waiting.popleft().result())
                while waiting:
                    yield self._on_device(waiting.popleft().result())
            finally:
                for future in waiting:
                    future.cancel()

    def _share(self, batch: NDArray[np.int64], epoch: int) -> AnyShare:
        place = Place(rank=self.rank, world_size=self.world_size, epoch=epoch)
        share = self.objective.share(self.source, batch, place)
        if self.mean_rows:
            share = share.weighted(len(batch) / self.mean_rows)
        return share.moved(Tensor.pin_memory) if self.pin_memory and self.device.type == "cuda" else share

    def _on_device(self, share: AnyShare) -> AnyShare:
        return share.moved(lambda tensor: tensor.to(self.device, non_blocking=self.pin_memory))


def share_of_windows(source: WindowSource, batch: NDArray[np.int64], place: Place) -> Share:
    """Make a process's share of a global batch of windows.

    Args:
        source: The windows.
        batch: Which of them, `int64 (n_global,)`.
        place: The process.
    """
    # Windows of a batch are sorted by length: every process takes each n-th, so that none has the longest alone.
    mine = batch[place.rank :: place.world_size]
    rows = source.batch(mine if len(mine) else batch[:1])
    ids, mask, types, starts, ends = (
        torch.from_numpy(array)
        for array in (
            *(rows.inputs.input_ids, rows.inputs.attention_mask, rows.inputs.token_type_ids),
            *(rows.starts, rows.ends),
        )
    )
    return Share(inputs=(ids, mask, types), starts=starts, ends=ends, weight=len(mine) / len(batch))


def span_loss(start_logits: Tensor, end_logits: Tensor, share: Share) -> Tensor:
    """Mean of the cross-entropies of start and end over all positions (Devlin et al. 2018, section 4.2).

    Args:
        start_logits: `float32 (n, length)`.
        end_logits: Same.
        share: The windows and their labels.
    """
    padding = share.inputs[1] == 0
    start_logits = start_logits.masked_fill(padding, float("-inf"))
    end_logits = end_logits.masked_fill(padding, float("-inf"))
    return (functional.cross_entropy(start_logits, share.starts) + functional.cross_entropy(end_logits, share.ends)) / 2


def _loss_of_windows(model: nn.Module, share: Share) -> Tensor:
    start_logits, end_logits = model(*share.inputs)
    return span_loss(start_logits, end_logits, share)


SPANS = Objective(share=share_of_windows, loss=_loss_of_windows)
"""Learning where answers begin and end."""
