"""Int8 matrix products whose activations are scaled row by row.

Every token's activations get a scale of their own, computed in the call: a window's logits then depend on no neighbour
and no padding, and one token's large values do not coarsen another's. (ONNX Runtime's own dynamic quantization has one
scale for a whole call.) The kernel of a product scales its columns and one pass its rows: on cores with AMX the passes
over memory around the products took longer than the products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from spanqa_build.errors import OptimizationError

WEIGHT_LEVELS = 80
ACTIVATION_LEVELS = 204
"""Largest quantized weight and activation. Processors without VNNI add pairs of products in 16 bits: 2 * 204 * 80 is
below 2 ** 15, so that none overflows and every processor gives the same logits. With 127 and 255 some would saturate,
without a word. These two had the smallest error of the pairs that hold the bound (64 and 255: a fifth more)."""

ACTIVATION_ZERO = ACTIVATION_LEVELS // 2
"""Quantized zero of signed activations."""

GELU_SHIFT = 0.1701
"""Added to a GELU's output to make it positive (its minimum is -0.16997, the tanh form's -0.17004), so that all
levels cover the positive side, where the large values are."""

_GELUS = ("BiasGelu", "FastGelu", "Gelu")
_SMALLEST = 1e-9
"""Keeps an all-zero row from dividing by zero."""


def quantize_products(network: onnx.ModelProto) -> int:
    """Replace the float32 matrix products by int8 ones, in place; the head, which decides and is small, stays.

    Args:
        network: A fused graph: products with constant weights, Attention nodes with packed ones.

    Returns:
        How many products were replaced.
    """
    rewriter = _Rewriter(network.graph)
    nodes = list(network.graph.node)
    del network.graph.node[:]
    for node in nodes:
        if node.op_type == "MatMul" and rewriter.is_hidden_weight(node.input[1]):
            rewriter.product(node.input[0], node.input[1], node.output[0])
        elif node.op_type == "Attention":
            rewriter.attention(node)
        else:
            rewriter.keep(node)
    rewriter.finish()
    return rewriter.n_products


class _Rewriter:
    """Emits nodes into a graph, sharing the quantized form of each activation."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node.op_type for node in graph.node for name in node.output}
        self._quantized: dict[str, tuple[str, str]] = {}
        self.n_products = 0

    def is_hidden_weight(self, name: str) -> bool:
        tensor = self._initializers.get(name)
        return tensor is not None and len(tensor.dims) == 2 and tensor.dims[1] != 2

    def keep(self, node: NodeProto) -> None:
        self._graph.node.append(node)

    def product(self, activations: str, weights: str, output: str) -> None:
        """Emit `output = activations @ weights` with int8 operands."""
        values, scales = _quantize_weights(numpy_helper.to_array(self._initializers[weights]))
        shifted = self._producers.get(activations) in _GELUS
        quantized, row_scales = self._quantize_activations(activations, shifted=shifted)
        operands = (
            quantized,
            self._constant(f"{weights}_int8", values),
            self._constant("int8_one", np.float32(1)),  # its own scale of activations is one number for all rows
            self._constant(f"{weights}_scales", scales),
            self._zero(shifted),
        )
        columns = self._emit("MatMulIntegerToFloat", *operands, name=f"{output}_columns", domain="com.microsoft")
        if shifted:
            rows = self._emit("Mul", columns, row_scales, name=f"{output}_rows")
            shift = (GELU_SHIFT * scales * values.astype(np.float32).sum(axis=0)).astype(np.float32)
            self._emit("Sub", rows, self._constant(f"{weights}_shift", shift), name=output)
        else:
            self._emit("Mul", columns, row_scales, name=output)
        self.n_products += 1

    def attention(self, node: NodeProto) -> None:
        """Emit an Attention node as its packed product and what follows it."""
        activations, weights, bias, mask = node.input[:4]
        score_bias = node.input[5:6]  # of attention that is biased by distance
        packed = f"{node.output[0]}_packed"
        self.product(activations, weights, packed)
        parts = [f"{packed}_{part}" for part in ("query", "key", "value")]
        self.keep(helper.make_node("Split", [packed], parts, name=f"{packed}_split", axis=-1, num_outputs=3))
        attention = helper.make_node(
            "MultiHeadAttention",
            [*parts, bias, mask, *score_bias],
            [node.output[0]],
            name=f"{node.name}_int8",
            domain="com.microsoft",
        )
        attention.attribute.extend(a for a in node.attribute if a.name in ("num_heads", "mask_filter_value", "scale"))
        self.keep(attention)

    def finish(self) -> None:
        """Drop the float32 weights that nothing reads any more."""
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for name, tensor in self._initializers.items() if name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _quantize_activations(self, name: str, *, shifted: bool) -> tuple[str, str]:
        """Emit the uint8 form of float32 `(..., width)` activations and their scales `(..., 1)`; return both names."""
        if name in self._quantized:
            return self._quantized[name]
        levels = np.float32(ACTIVATION_LEVELS if shifted else ACTIVATION_ZERO)
        operand = (
            self._emit("Add", name, self._constant("int8_gelu_shift", np.float32(GELU_SHIFT)), name=f"{name}_shifted")
            if shifted
            else name
        )
        sizes = operand if shifted else self._emit("Abs", name, name=f"{name}_sizes")
        axes = self._constant("int8_axes", np.array([-1], np.int64))
        largest = self._emit("ReduceMax", sizes, axes, name=f"{name}_largest", keepdims=1)
        safe = self._emit("Max", largest, self._constant("int8_smallest", np.float32(_SMALLEST)), name=f"{name}_safe")
        levels_name = self._constant(f"int8_levels_{int(levels)}", levels)
        scales = self._emit("Div", safe, levels_name, name=f"{name}_scales")
        inverse = self._emit("Div", levels_name, safe, name=f"{name}_inverse")
        scaled = self._emit("Mul", operand, inverse, name=f"{name}_scaled")
        # With a scale of one it rounds, moves and casts in one pass. With a scale a row it would work on one thread.
        one, zero = self._constant("int8_one", np.float32(1)), self._zero(shifted)
        quantized = self._emit("QuantizeLinear", scaled, one, zero, name=f"{name}_uint8")
        self._quantized[name] = quantized, scales
        return quantized, scales

    def _zero(self, shifted: bool) -> str:
        return self._constant(f"int8_zero_{int(shifted)}", np.uint8(0 if shifted else ACTIVATION_ZERO))

    def _emit(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.keep(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _quantize_weights(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize `(width_in, width_out)` weights, each output with its scale `float32 (width_out,)`."""
    largest = np.abs(weights).max(axis=0)
    if not np.isfinite(largest).all():
        raise OptimizationError("a weight is not finite: the checkpoint is broken")
    scales = (np.maximum(largest, _SMALLEST) / WEIGHT_LEVELS).astype(np.float32)
    return np.round(weights / scales).astype(np.int8), scales
