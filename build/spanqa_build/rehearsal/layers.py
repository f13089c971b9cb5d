"""What TensorRT saw in a network: its layers, their precisions, and whether they are the ones that the export meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spanqa_build.errors import PrecisionError

if TYPE_CHECKING:
    import tensorrt as trt

FLOAT16, FLOAT32 = "float16", "float32"
PRODUCT, SOFTMAX, NORM, CAST = "matrix product", "softmax", "layer norm", "cast"
OTHER = "other arithmetic"
_TYPES = {"HALF": FLOAT16, "FLOAT": FLOAT32}
"""TensorRT's names of the types that a precision is decided between; others keep theirs, in lower case."""
_ROLES = {"MATRIX_MULTIPLY": PRODUCT, "SOFTMAX": SOFTMAX, "NORMALIZATION": NORM, "CAST": CAST}
_STEPS = ("ELEMENTWISE", "UNARY", "REDUCE")
"""Kinds of which a layer norm consists where it is written as primitives."""
_NORM_STEP = re.compile(r"\.LayerNormalization(_\d+)?(\.\w+)?$")
"""What the export calls a layer norm, and the steps of one."""
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
"""How TensorRT's parser notes the ONNX node that a layer comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a network as TensorRT's parser made it.

    Args:
        kind: TensorRT's name of its kind, such as MATRIX_MULTIPLY.
        node: The ONNX node that it comes from; empty where the parser added it.
        reads: Types of its inputs.
        gives: Types of its outputs.
    """

    kind: str
    node: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def role(self) -> str | None:
        """What it is to a reader: a product, softmax, norm, cast or other arithmetic on floats; None for the rest."""
        if self.kind in _STEPS and _NORM_STEP.search(self.node):
            return NORM
        role = _ROLES.get(self.kind, OTHER if self.kind in _STEPS else None)
        floats = {FLOAT16, FLOAT32}
        return role if floats.issuperset(self.reads) and floats.issuperset(self.gives) else None

    @property
    def precision(self) -> str:
        """The type that it computes in; both types of a cast, and of a layer that mixes them."""
        return " to ".join(dict.fromkeys((*self.reads, *self.gives)))


def layers_of(network: trt.INetworkDefinition) -> list[Layer]:
    """Read the layers of a parsed network, in its order."""
    return [_layer(network.get_layer(index)) for index in range(network.num_layers)]


def _layer(layer: trt.ILayer) -> Layer:
    noted = _NODE.search(layer.metadata)
    inputs = (layer.get_input(index) for index in range(layer.num_inputs))
    outputs = (layer.get_output(index) for index in range(layer.num_outputs))
    return Layer(
        kind=layer.type.name,
        node=noted.group(1) if noted else "",
        reads=tuple(_type_name(tensor) for tensor in inputs if tensor is not None),
        gives=tuple(_type_name(tensor) for tensor in outputs),
    )


def _type_name(tensor: trt.ITensor) -> str:
    return _TYPES.get(tensor.dtype.name, tensor.dtype.name.lower())


def count_layers(layers: Sequence[Layer]) -> dict[str, dict[str, int]]:
    """Count the layers that compute with floats: by role, then by precision."""
    counts: dict[str, dict[str, int]] = {}
    found = Counter((layer.role, layer.precision) for layer in layers)
    for role in (PRODUCT, SOFTMAX, NORM, OTHER, CAST):
        of_role = {precision: n for (its_role, precision), n in sorted(found.items(), key=str) if its_role == role}
        if of_role:
            counts[role] = of_role
    return counts


def check_precisions(layers: Sequence[Layer], float32_products: Collection[str]) -> None:
    """Hold what TensorRT would compute in which precision against what the export meant.

    Args:
        layers: The layers of the parsed network.
        float32_products: ONNX nodes of the products that the export meant to be in float32; all others are float16.

    Raises:
        PrecisionError: A product is in the other precision or gone, or a norm or softmax is not in float32; the first
            of them, and how many more there are.
    """
    problems = precision_problems(layers, float32_products)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PrecisionError(f"TensorRT does not read the precisions that were meant: {problems[0]}{more}")


def precision_problems(layers: Sequence[Layer], float32_products: Collection[str]) -> list[str]:
    """Say what `check_precisions` would refuse, one clause each; arguments as there."""
    problems = []
    products = {layer.node for layer in layers if layer.role == PRODUCT}
    problems += [f"the product {node} is missing from its network" for node in float32_products if node not in products]
    for layer in layers:
        if layer.role == PRODUCT:
            meant = FLOAT32 if layer.node in float32_products else FLOAT16
        elif layer.role in (NORM, SOFTMAX):
            meant = FLOAT32
        else:
            continue
        if layer.precision != meant:
            problems.append(f"the {layer.role} {layer.node or 'of its own'} is in {layer.precision}, not {meant}")
    return problems
