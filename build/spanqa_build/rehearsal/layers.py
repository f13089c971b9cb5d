"""What TensorRT saw in a network: its layers, their precisions, and whether they are the ones that the export meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spanqa_build.errors import PrecisionError

if TYPE_CHECKING:
    import tensorrt as trt

    from spanqa_build.meant_precisions import MeantPrecisions

FLOAT16, FLOAT32 = "float16", "float32"
PRODUCT, SOFTMAX, NORM, CAST = "matrix product", "softmax", "layer norm", "cast"
OTHER = "other arithmetic"
_TYPES = {"HALF": FLOAT16, "FLOAT": FLOAT32}
"""TensorRT's names of the types that a precision is decided between; others keep theirs, in lower case."""
_ROLES = {"MATRIX_MULTIPLY": PRODUCT, "SOFTMAX": SOFTMAX, "NORMALIZATION": NORM, "CAST": CAST}
_STEPS = ("ELEMENTWISE", "UNARY", "REDUCE")
"""Kinds of which a layer norm consists where it is written as primitives."""
_NORM_STEP = re.compile(r"^(.*\.LayerNormalization(?:_\d+)?)(?:\.\w+)?$")
"""What the export calls a layer norm, and the steps of one."""
_OTHER_PRODUCTS = ("EINSUM", "CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED")
"""Kinds of products that our networks are not made of."""
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
        if self.norm:
            return NORM
        role = _ROLES.get(self.kind, OTHER if self.kind in _STEPS else None)
        floats = {FLOAT16, FLOAT32}
        of_floats = floats.issuperset(self.reads) and floats.issuperset(self.gives)
        return role if of_floats or role not in (CAST, OTHER) else None

    @property
    def norm(self) -> str:
        """The layer norm that it is, or is a step of; empty where it is of none."""
        found = _NORM_STEP.match(self.node) if self.kind in (*_STEPS, "NORMALIZATION") else None
        return found.group(1) if found else ""

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


def check_precisions(layers: Sequence[Layer], meant: MeantPrecisions) -> None:
    """Hold what TensorRT would compute in which precision against what the export meant.

    Args:
        layers: The layers of the parsed network.
        meant: What the export meant.

    Raises:
        PrecisionError: A product is in another precision, or a norm or softmax is not in float32, or one of them is
            missing or of none that was meant; the first of them, and how many more there are.
    """
    problems = precision_problems(layers, meant)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PrecisionError(f"TensorRT does not read the precisions that were meant: {problems[0]}{more}")


def precision_problems(layers: Sequence[Layer], meant: MeantPrecisions) -> list[str]:
    """Say what `check_precisions` would refuse, one clause each; arguments as there."""
    wanted = {
        PRODUCT: dict.fromkeys(meant.float16_products, FLOAT16) | dict.fromkeys(meant.float32_products, FLOAT32),
        SOFTMAX: dict.fromkeys(meant.softmaxes, FLOAT32),
        NORM: dict.fromkeys(meant.norms, FLOAT32),
    }
    seen: dict[str, set[str]] = {role: set() for role in wanted}
    problems = [
        f"{layer.node or 'a layer'} is of kind {layer.kind}, of which none was written"
        for layer in layers
        if layer.kind in _OTHER_PRODUCTS
    ]
    for layer in layers:
        if layer.role in wanted:
            name = layer.norm or layer.node
            seen[layer.role].add(name)
            right = wanted[layer.role].get(name)
            if right is None:
                problems.append(f"the {layer.role} {layer.node or 'without a name'} is none that was written")
            elif layer.precision != right:
                problems.append(f"the {layer.role} {layer.node} is in {layer.precision}, not {right}")
    missing = [(role, name) for role, names in wanted.items() for name in names if name not in seen[role]]
    return problems + [f"the {role} {name} is missing from its network" for role, name in missing]
