"""What an export in explicit float16 means each product, softmax and layer norm to be computed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx

from spanqa_build.precision import float32_nodes

PRODUCTS = ("MatMul", "Gemm")
"""What the tensor cores are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeantPrecisions:
    """Nodes of a network by what they are to be computed in; all named as in the ONNX graph.

    Args:
        float16_products: Matrix products.
        float32_products: Those of the head, and those at tensors that float16 cannot hold.
        softmaxes: In float32.
        norms: Layer norms, in float32, whatever form they are written in.
    """

    float16_products: tuple[str, ...]
    float32_products: tuple[str, ...]
    softmaxes: tuple[str, ...]
    norms: tuple[str, ...]


def meant_precisions(graph: onnx.GraphProto, float32_tensors: Collection[str]) -> MeantPrecisions:
    """Say what `with_explicit_precision` makes of a float32 graph.

    Args:
        graph: As `float32_graph` makes it.
        float32_tensors: Tensors that float16 must not hold.
    """
    kept = float32_nodes(graph, float32_tensors)
    products = [(index in kept, node.name) for index, node in enumerate(graph.node) if node.op_type in PRODUCTS]
    return MeantPrecisions(
        float16_products=tuple(name for is_kept, name in products if not is_kept),
        float32_products=tuple(name for is_kept, name in products if is_kept),
        softmaxes=tuple(node.name for node in graph.node if node.op_type == "Softmax"),
        norms=tuple(node.name for node in graph.node if node.op_type == "LayerNormalization"),
    )
