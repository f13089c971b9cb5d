"""Weights as the content of a safetensors file, piece by piece, and back; what is read is held against the model."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel

DTYPES = {"float32": torch.float32, "float16": torch.float16}
_NAMES = {torch.float32: "F32", torch.float16: "F16"}


def check_finite(weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Refuse weights that a precision cannot hold.

    Raises:
        CheckpointError: A weight is not finite in it.
    """
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor.to(dtype)).all()]
    if bad:
        raise CheckpointError(f"{len(bad)} weights, first {bad[0]}, are not finite as {dtype}: nothing is saved")


def safetensors_from_weights(weights: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[bytes]:
    """Give the content of a safetensors file, with one tensor at a time in memory.

    The layout is that of https://huggingface.co/docs/safetensors: the size of the header as uint64, the header as
    JSON, padded to a multiple of 8 bytes, and the tensors.

    Args:
        weights: The tensors, of any precision and on any device.
        dtype: The precision to store: float32 or float16.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(weights.items()):
        start, end = end, end + tensor.numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, tensor in sorted(weights.items()):
        yield tensor.detach().to("cpu", dtype).numpy().tobytes()


def weights_from_safetensors(content: bytes, where: object) -> dict[str, Tensor]:
    """Read the content of a safetensors file.

    Args:
        content: The content.
        where: The file's name in errors.

    Raises:
        CheckpointError: It is something else.
    """
    try:
        return load(content)
    except Exception as error:  # SafetensorError, and others where a tensor has no type of torch's
        raise CheckpointError(f"{where}: holds no weights: {error}: restore it from a copy") from error


def model_from_weights(
    weights: Mapping[str, Tensor], config: EncoderConfig, device: torch.device, dtype: torch.dtype, where: object
) -> SpanModel:
    """Make a model of weights.

    Args:
        weights: The weights.
        config: The architecture that they should be of.
        device: Where the model goes.
        dtype: Precision of the model, whatever the weights'.
        where: The file's name in errors.

    Raises:
        CheckpointError: They are of another architecture.
    """
    with torch.device("meta"), _Unfilled():
        model = SpanModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ weights.keys()):
        what = "lacks" if name in expected else "holds the unknown"
        raise CheckpointError(f"{where}: {what} weight {name}: config.json describes another architecture")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(weights[name].shape)} and config.json asks for {shape}:"
                " the two files do not belong together"
            )
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    return model


class _Unfilled(TorchFunctionMode):
    """Leaves out the drawing of fresh weights: of tensors without content, for which torch would load 800 modules."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return None if func is nn.init.normal_ else func(*args, **(kwargs or {}))
