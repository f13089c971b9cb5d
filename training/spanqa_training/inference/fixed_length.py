"""A model for windows of one length, in batches of a few sizes: as CUDA graphs on a GPU, the same without on a CPU.

It is what `spanqa build --engine torch` holds against the checkpoint and what Triton's Python backend then serves.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spanqa import contract
from spanqa.errors import InputError
from spanqa.windows import Batch
from spanqa_training.checkpoints.weights_file import model_from_weights, weights_from_safetensors
from spanqa_training.errors import CheckpointError, RunError, TrainingError
from spanqa_training.inference.cuda_graphs import CudaGraphs, Record, Work, check_device, plainly
from spanqa_training.model import EncoderConfig, SpanModel

WEIGHTS_FILE = "model.safetensors"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Logits = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Start and end logits, each `float32 (n_windows, length)`."""


def batch_sizes(graph_rows: Iterable[int], largest: int) -> tuple[int, ...]:
    """Give the sizes that batches are padded to: those wanted, the largest, and doubles between where they leave a gap.

    Args:
        graph_rows: Sizes that are wanted; those above the largest are left out.
        largest: Most windows of a call.
    """
    sizes = {1, largest, *(n_rows for n_rows in graph_rows if n_rows < largest)}
    n_rows = max(sizes - {largest}, default=1)
    while n_rows < largest:
        sizes.add(n_rows)
        n_rows *= 2
    return tuple(sorted(sizes))


class FixedLengthNetwork:
    """A network (Batch to Logits) whose inputs and outputs stay at their places, as CUDA graphs need it.

    Rows that pad a batch to one of the sizes are padding from end to end; rows do not see one another.

    Args:
        model: The model, in its precision and on its device; its head gives float32 where it is float32 itself.
        length: Tokens of every window.
        sizes: Windows of a batch that is run; larger ones are cut.
        record: How work is recorded; by default as graphs on a GPU, and plainly elsewhere.

    Raises:
        RunError: The work cannot be recorded.
    """

    def __init__(self, model: SpanModel, *, length: int, sizes: Sequence[int], record: Record | None = None) -> None:
        self.length, self.sizes = length, tuple(sorted(sizes))
        self._model = model.eval()
        self._device = model.head.weight.device
        self._on_gpu = self._device.type == "cuda"
        record = record or (CudaGraphs(self._device).record if self._on_gpu else plainly)
        inputs = torch.zeros((self.sizes[-1], 3, length), dtype=torch.int32, pin_memory=self._on_gpu)
        outputs = torch.zeros((self.sizes[-1], 2, length), dtype=torch.float32, pin_memory=self._on_gpu)
        self._given, self._taken = inputs.numpy(), outputs.numpy()
        self._host = inputs, outputs
        # On a CPU the two are one memory, and copying between them does nothing.
        self._inputs, self._outputs = inputs.to(self._device), outputs.to(self._device)
        self._lock = threading.Lock()
        with torch.inference_mode():
            self._work = {size: record(self._forward(size)) for size in reversed(self.sizes)}

    def __call__(self, batch: Batch) -> Logits:
        """Score every token of every window; several threads may call at once.

        Args:
            batch: Windows padded to the length.

        Raises:
            RunError: They are of another length.
            InputError: They hold ids that the network has not.
        """
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        n_rows, length = batch.input_ids.shape
        if length != self.length:
            raise RunError(f"windows of {length} tokens came to the network for {self.length}: pad them to that")
        self._check_ids(batch)
        logits = np.empty((2, n_rows, length), dtype=np.float32)
        largest = self.sizes[-1]
        with self._lock, torch.inference_mode():
            for low in range(0, n_rows, largest):
                rows = slice(low, min(low + largest, n_rows))
                logits[:, rows] = self._run([array[rows] for array in arrays])
        return logits[0], logits[1]

    def _check_ids(self, batch: Batch) -> None:
        """Refuse ids that an embedding has no row for: on a GPU one would break CUDA for this process for ever."""
        config = self._model.config
        for tensor, ids, n_ids in (
            (contract.INPUT_IDS, batch.input_ids, config.vocab_size),
            # Models without types of their own take what windows have.
            (contract.TOKEN_TYPE_IDS, batch.token_type_ids, max(2, config.type_vocab_size)),
        ):
            wrong = ids[(ids < 0) | (ids >= n_ids)]
            if wrong.size:
                raise InputError(
                    f"{tensor.name} holds {wrong[0]}, and the network takes 0 to {n_ids - 1}: send what the model's own"
                    " tokenizer gives"
                )

    def _run(self, arrays: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Run at most as many rows as the largest size; `(2, n_rows, length)`, valid until the next run."""
        n_rows = len(arrays[0])
        size = next(size for size in self.sizes if size >= n_rows)
        for place, array in enumerate(arrays):
            self._given[:n_rows, place] = array
        self._given[n_rows:size] = 0
        inputs, outputs = self._host
        if self._on_gpu:
            self._inputs[:size].copy_(inputs[:size], non_blocking=True)
        self._work[size]()
        if self._on_gpu:
            outputs[:size].copy_(self._outputs[:size], non_blocking=True)
            torch.cuda.current_stream(self._device).synchronize()
        return self._taken[:n_rows].swapaxes(0, 1)

    def _forward(self, size: int) -> Work:
        inputs, outputs = self._inputs[:size], self._outputs[:size]

        def forward() -> None:
            start, end = self._model(*inputs.unbind(1))
            torch.stack((start, end), dim=1, out=outputs)

        return forward


def network_from_file(
    path: Path, architecture: Mapping[str, Any], *, device: str, dtype: str, length: int, sizes: Sequence[int]
) -> FixedLengthNetwork:
    """Load a network; nothing but numbers is read of its file.

    Args:
        path: Its weights, safetensors of any precision.
        architecture: The fields of an EncoderConfig.
        device: As torch names it: "cpu" or "cuda:0".
        dtype: What is computed in, but for the head: one of DTYPES.
        length: Tokens of every window.
        sizes: Windows of a batch that is run.

    Raises:
        RunError: There is no such GPU, it has too little memory, or torch has no kernels for it.
        CheckpointError: The file is damaged, or of another architecture.
    """
    place = torch.device(device)
    check_device(place)
    # Sums in the precision of their results would lose what float16 keeps; torch allows itself both by default.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        config = EncoderConfig(**architecture)
        weights = weights_from_safetensors(path.read_bytes(), path)
    except (OSError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read as the manifest describes it: {error}: build again") from error
    model = model_from_weights(weights, config, torch.device("cpu"), torch.float32, path)
    try:
        return FixedLengthNetwork(placed(model, place, DTYPES[dtype]), length=length, sizes=sizes)
    except TrainingError:
        raise
    except RuntimeError as error:  # out of memory, above all
        raise RunError(f"{path}: cannot be put on {device}: {' '.join(str(error).split())[:200]}") from error


def placed(model: SpanModel, device: torch.device, dtype: torch.dtype) -> SpanModel:
    """Move a model to a device and into a precision; its head stays in float32, or near answers would tie."""
    head = copy.deepcopy(model.head)
    model.to(device, dtype)
    model.head = head.to(device)
    return model


class NetworkOfLengths:
    """Networks of several lengths as one: each batch goes to the shortest that holds it.

    Args:
        networks: One for each length.
    """

    def __init__(self, networks: Iterable[FixedLengthNetwork]) -> None:
        self._networks = sorted(networks, key=lambda network: network.length)

    def __call__(self, batch: Batch) -> Logits:
        """Score every token of every window.

        Raises:
            RunError: A window is longer than every network.
        """
        n_tokens = batch.input_ids.shape[1]
        network = next((one for one in self._networks if one.length >= n_tokens), None)
        if network is None:
            raise RunError(f"a window of {n_tokens} tokens is longer than the longest network: lower max_seq_length")
        padding = ((0, 0), (0, network.length - n_tokens))
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        input_ids, attention_mask, token_type_ids = (np.pad(array, padding) for array in arrays)
        start, end = network(Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids))
        return start[:, :n_tokens], end[:, :n_tokens]
