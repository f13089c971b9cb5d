"""Batches for one process of a run: its share of each global batch, prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spanqa_training.data.labels import LabelledBatch

_AHEAD_PER_WORKER = 2


class WindowSource(Protocol):
    """Where labelled windows come from."""

    def batch(self, indices: NDArray[np.int64]) -> LabelledBatch:
        """Give some windows, padded to one length."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Prepares the shares of one process.

    Args:
        source: The labelled windows.
        rank: Which process.
        world_size: Of how many.
        num_workers: Threads that prepare ahead; 0 prepares each share when it is asked for.
        pin_memory: Whether the tensors lie in page-locked memory.
        device: Where the tensors go.
    """

    source: WindowSource
    rank: int
    world_size: int
    num_workers: int
    pin_memory: bool
    device: torch.device

    def shares(self, order: Sequence[NDArray[np.int64]]) -> Iterator[Share]:
        """Give the share of each global batch, in order."""
        if not self.num_workers:
            yield from (self._on_device(self._share(batch)) for batch in order)
            return
        waiting: deque[Future[Share]] = deque()
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="feed") as pool:
            try:
                for batch in order:
                    waiting.append(pool.submit(self._share, batch))
                    if len(waiting) > _AHEAD_PER_WORKER * self.num_workers:
                        yield self._on_device(waiting.popleft().result())
                while waiting:
                    yield self._on_device(waiting.popleft().result())
            finally:
                for future in waiting:
                    future.cancel()

    def _share(self, batch: NDArray[np.int64]) -> Share:
        # Windows of a batch are sorted by length: every process takes each n-th, so that none has the longest alone.
        mine = batch[self.rank :: self.world_size]
        rows = self.source.batch(mine if len(mine) else batch[:1])
        inputs = (rows.inputs.input_ids, rows.inputs.attention_mask, rows.inputs.token_type_ids)
        tensors = [torch.from_numpy(array) for array in (*inputs, rows.starts, rows.ends)]
        if self.pin_memory and self.device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        ids, mask, types, starts, ends = tensors
        return Share(inputs=(ids, mask, types), starts=starts, ends=ends, weight=len(mine) / len(batch))

    def _on_device(self, share: Share) -> Share:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=self.pin_memory)

        ids, mask, types = share.inputs
        return Share(
            inputs=(move(ids), move(mask), move(types)),
            starts=move(share.starts),
            ends=move(share.ends),
            weight=share.weight,
        )


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
