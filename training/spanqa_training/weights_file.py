"""The weights of a model as one safetensors file, checked when it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel


def write_weights(model: SpanModel, path: Path, dtype: torch.dtype) -> str:
    """Write a model's weights in `dtype`.

    Returns:
        SHA-256 of the file, as hexadecimal digits.

    Raises:
        CheckpointError: A weight is not finite in that precision.
    """
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{len(bad)} weights, first {bad[0]}, are not finite as {dtype}: nothing is saved")
    save_file(weights, path, metadata={"format": "pt"})
    return _sha256(path)


def read_model(path: Path, config: EncoderConfig, sha256: str, device: torch.device, dtype: torch.dtype) -> SpanModel:
    """Make a model of weights.

    Args:
        path: What `write_weights` wrote.
        config: The architecture it should be of.
        sha256: What `write_weights` returned.
        device: Where the model goes.
        dtype: Precision of the model, whatever the file's.

    Raises:
        CheckpointError: The file is missing, damaged or another, or of another architecture.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing: restore it, or save the checkpoint again")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is damaged or incomplete: {error}") from error
    with torch.device("meta"):
        model = SpanModel(config)
    _check_shapes(path, weights, model)
    if _sha256(path) != sha256:
        raise CheckpointError(f"{path}: are not the weights that the checkpoint was saved with: restore the file")
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    return model


def _check_shapes(path: Path, weights: dict[str, torch.Tensor], model: SpanModel) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ weights.keys()):
        what = "lacks" if name in expected else "holds the unknown"
        raise CheckpointError(f"{path}: {what} weight {name}: config.json describes another architecture")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(weights[name].shape)} and config.json asks for {shape}:"
                " the two files do not belong together"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
