"""CUDA graphs: a fixed piece of work on a GPU, recorded once and then started as one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from spanqa_training.errors import RunError

Work = Callable[[], None]
"""Reads tensors and writes tensors that stay where they are."""
Record = Callable[[Work], Work]
"""Gives what does the same work again, over whatever the tensors hold then."""
_N_WARM_UPS = 3
"""Runs before a capture, in which libraries make their workspaces and choose their kernels."""


def plainly(work: Work) -> Work:
    """Record nothing: where there are no graphs, work is done as it stands."""
    return work


class CudaGraphs:
    """Captures work on one GPU. The graphs share the memory of what lies between input and output: one runs at a time.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Torch captures on a stream of its own alone, and what is warmed up must be what is captured.
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None  # torch's handle of it has no public type

    def record(self, work: Work) -> Work:
        """Capture work, after some runs of it; the largest comes first, so that the others fit into its memory.

        Raises:
            RunError: The GPU has too little memory, or an operator cannot be captured.
        """
        try:
            with torch.cuda.device(self._device):
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    for _ in range(_N_WARM_UPS):
                        work()
                torch.cuda.current_stream().wait_stream(self._stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    work()
                self._pool = self._pool or graph.pool()
        except RuntimeError as error:
            raise RunError(
                f"no CUDA graph on {self._device}: {first_line(error)}: free GPU memory, or use another torch"
            ) from error
        return graph.replay


def check_device(device: torch.device) -> None:
    """Refuse a device that torch cannot compute on.

    Raises:
        RunError: Torch sees no such GPU, or was built without kernels for it.
    """
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise RunError(
            f"torch {torch.__version__} sees no GPU: check NVIDIA's driver and CUDA_VISIBLE_DEVICES, and that this"
            " torch is made for CUDA (`spanqa build --plan` names one), or build with --device cpu"
        )
    n_gpus = torch.cuda.device_count()
    if (device.index or 0) >= n_gpus:
        raise RunError(f"GPU {device.index} is asked for and torch sees {n_gpus}: check CUDA_VISIBLE_DEVICES")
    try:
        torch.ones(1, dtype=torch.float16, device=device).add_(1).item()
    except RuntimeError as error:
        major, minor = torch.cuda.get_device_capability(device)
        raise RunError(
            f"torch {torch.__version__} cannot compute on {torch.cuda.get_device_name(device)} ({major}.{minor}):"
            f" {first_line(error)}: install the torch that `spanqa build --plan` names"
        ) from error


def first_line(error: Exception) -> str:
    """Give what an error says without the advice that torch appends to it."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
