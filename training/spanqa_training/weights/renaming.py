"""Renaming weights by declarative tables: our name of each weight and another project's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from spanqa_training.errors import ImportWeightsError


def expanded_keys(table: Mapping[str, str], num_layers: int) -> dict[str, str]:
    """Write a table out for every layer.

    Args:
        table: Our names -> theirs; `{layer}` stands for a layer's number, `{part}` for weight and bias.
        num_layers: Layers of the model.

    Returns:
        Our name of each weight -> theirs: one-to-one, so that the inverse renames back.
    """
    expanded = {}
    for ours, theirs in table.items():
        for layer in range(num_layers) if "{layer}" in ours else (0,):
            for part in ("weight", "bias") if "{part}" in ours else ("",):
                expanded[ours.format(layer=layer, part=part)] = theirs.format(layer=layer, part=part)
    return expanded


def tensors_only(weights: object) -> dict[str, Tensor]:
    """Check that a file held weights by name and nothing else.

    Raises:
        ImportWeightsError: It held something else.
    """
    if not isinstance(weights, Mapping):
        raise ImportWeightsError(f"holds a {type(weights).__name__} instead of weights by name: save the state_dict")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ImportWeightsError(
                f"holds under {name!r} a {type(tensor).__name__} instead of a weight: save the model's state_dict alone"
            )
    return dict(weights)


def matrix_shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Rows and columns of a weight.

    Raises:
        ImportWeightsError: It is missing, or no matrix.
    """
    if name not in weights:
        raise ImportWeightsError(f"lacks {name}: it is incomplete, or no BERT")
    if weights[name].ndim != 2:
        raise ImportWeightsError(f"{name} has shape {tuple(weights[name].shape)}: a matrix is expected")
    rows, columns = weights[name].shape
    return rows, columns


def num_layers(names: Iterable[str], layer: str) -> int:
    """Count the layers, by a pattern of their names whose group is the number."""
    return len({found[1] for name in names if (found := re.match(layer, name))})


def layers_to_expect(n_layers: int, names: Iterable[str], layer: str) -> int:
    """As many layers as a configuration says, but at most one more than there are: the first that is missing."""
    return min(n_layers, num_layers(names, layer) + 1)


def renamed_weights(
    weights: Mapping[str, Tensor], keys: Mapping[str, str], *, unused: re.Pattern[str] | None = None
) -> dict[str, Tensor]:
    """Rename another project's weights to ours.

    Args:
        weights: Their weights.
        keys: Our names -> theirs, of every weight that is needed.
        unused: Their names that may be there as well and are left out.

    Returns:
        Our names -> the weights, copied as float32.

    Raises:
        ImportWeightsError: A weight is missing or none that can be copied, or there is one that is neither needed nor
            unused.
    """
    lacking = [theirs for theirs in keys.values() if theirs not in weights]
    if lacking:
        raise ImportWeightsError(
            f"lacks {_first_of(lacking)}: it is incomplete, or of another architecture than its configuration says"
        )
    needed = set(keys.values())
    strange = [name for name in weights if name not in needed and not (unused and unused.fullmatch(name))]
    if strange:
        raise ImportWeightsError(
            f"holds {_first_of(strange)}, which the encoder that its configuration describes does not have: check it"
        )
    _check_copyable({theirs: weights[theirs] for theirs in keys.values()})
    return {ours: weights[theirs].to(torch.float32, copy=True) for ours, theirs in keys.items()}


def _check_copyable(weights: Mapping[str, Tensor]) -> None:
    """Refuse what is no array of floats, and arrays that are larger than what the file holds of them."""
    n_bytes, storages = 0, {}
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.is_floating_point():
            kind = "without content" if tensor.device.type != "cpu" else f"{tensor.layout} of {tensor.dtype}"
            raise ImportWeightsError(
                f"{name} is {kind.replace('torch.', '')}: weights must be dense and of floats: save them as float32"
            )
        storage = tensor.untyped_storage()
        n_bytes += tensor.numel() * tensor.itemsize
        storages[storage.data_ptr()] = storage.nbytes()
    if n_bytes > sum(storages.values()):
        raise ImportWeightsError(
            f"names {n_bytes:,} bytes of weights and holds {sum(storages.values()):,}: some overlap or repeat one"
            " number: save the model's state_dict again, each weight contiguous"
        )


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more weights"
