"""Explicit precision: a float32 graph as the same graph in float16, with every cast written into it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spanqa_build.errors import PrecisionError
from spanqa_build.network_file import skeleton_of

FLOAT32_OPERATORS = ("LayerNormalization", "Softmax")
"""Computed in float32 in any network: a variance or an exponential leaves float16's range first."""
MAX_FLOAT16 = float(np.finfo(np.float16).max)

_SUFFIXES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def with_explicit_precision(network: onnx.ModelProto, float32_tensors: Collection[str] = ()) -> onnx.ModelProto:
    """Write a float32 graph in float16, casts included.

    Weights and matrix products become float16, and so do biases, activations and residual sums. Float32 stay layer
    norms with their scales and biases, the scores from their matrix product on through mask and softmax, all that
    follows the last layer norm (the head and its logits), and every node that reads or writes one of
    `float32_tensors`. A tensor keeps its name; a copy of another type has its type as suffix.

    Args:
        network: A graph by `float32_graph`; it is left as it is.
        float32_tensors: Tensors that float16 must not hold, as an `ActivationScan` names them.

    Returns:
        The graph, weights included.

    Raises:
        PrecisionError: A weight is not finite or beyond float16, or a tensor of `float32_tensors` does not exist.
    """
    types = element_types(network)
    unknown = sorted(name for name in float32_tensors if types.get(name) != TensorProto.FLOAT)
    if unknown:
        raise PrecisionError(
            f"{unknown[0]} is no float32 tensor of the network: give names from an activation scan of the same model"
        )
    return _Converter(network, types).converted(float32_nodes(network.graph, float32_tensors))


def float16_tensors(network: onnx.ModelProto, float32_tensors: Collection[str] = ()) -> tuple[str, ...]:
    """Name the activations that `with_explicit_precision` would hold in float16, in the order of the graph.

    These are the results of float16 nodes, and those of float32 nodes that are cast for a float16 node.
    """
    types = element_types(network)
    kept = float32_nodes(network.graph, float32_tensors)
    results = {name for node in network.graph.node for name in node.output if types[name] == TensorProto.FLOAT}
    touched = dict.fromkeys(
        name
        for index, node in enumerate(network.graph.node)
        if index not in kept
        for name in (*node.input, *node.output)
    )
    return tuple(name for name in touched if name in results)


def element_types(network: onnx.ModelProto) -> dict[str, int]:
    """Give every tensor's ONNX element type, as strict inference finds it.

    Raises:
        PrecisionError: The types do not fit together.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton_of(network), check_type=True, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise PrecisionError(f"the graph's types do not fit together: {' '.join(str(error).split())}") from error
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def rounded_twin(network: onnx.ModelProto) -> onnx.ModelProto:
    """Write a float16 network in float32, with every float16 result rounded to float16 and back.

    ONNX Runtime computes float16 graphs on a CPU in float32 and drops the casts between its nodes, so that on it
    nothing overflows and little is rounded. This twin shows there what float16 does.

    Args:
        network: A graph by `with_explicit_precision`; it is left as it is.
    """
    types = element_types(network)
    twin = skeleton_of(network)
    del twin.graph.node[:], twin.graph.initializer[:], twin.graph.value_info[:]
    for tensor in network.graph.initializer:
        half = tensor.data_type == TensorProto.FLOAT16
        full = numpy_helper.to_array(tensor).astype(np.float32) if half else None
        twin.graph.initializer.append(tensor if full is None else numpy_helper.from_array(full, tensor.name))
    for node in network.graph.node:
        twin.graph.node.append(node)
        result = node.output[0]
        if types[result] != TensorProto.FLOAT16:
            continue
        exact, rounded = f"{result}.exact", f"{result}.rounded"
        twin.graph.node[-1].output[0] = twin.graph.node[-1].name = exact
        for attribute in twin.graph.node[-1].attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = TensorProto.FLOAT
        twin.graph.node.append(_cast(exact, rounded, TensorProto.FLOAT16))
        twin.graph.node.append(_cast(rounded, result, TensorProto.FLOAT))
    return twin


def layer_norms_as_primitives(network: onnx.ModelProto) -> None:
    """Replace LayerNormalization by means, products and a root, in place.

    For parsers that set a normalisation's precision themselves, which a strongly typed network may not allow.
    """
    nodes = list(network.graph.node)
    network.graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), "layer_norm_axes"))
    epsilons: set[str] = set()
    del network.graph.node[:]
    for node in nodes:
        if node.op_type != "LayerNormalization":
            network.graph.node.append(node)
            continue
        value = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        epsilon = f"layer_norm_epsilon_{value:.3g}"
        if epsilon not in epsilons:
            epsilons.add(epsilon)
            network.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), epsilon))
        network.graph.node.extend(_layer_norm(node, epsilon))


def _layer_norm(node: onnx.NodeProto, epsilon: str) -> list[onnx.NodeProto]:
    hidden, scale, bias = node.input
    result = node.output[0]
    steps = (
        ("ReduceMean", (hidden, "layer_norm_axes"), "mean"),
        ("Sub", (hidden, f"{result}.mean"), "centred"),
        ("Mul", (f"{result}.centred", f"{result}.centred"), "square"),
        ("ReduceMean", (f"{result}.square", "layer_norm_axes"), "variance"),
        ("Add", (f"{result}.variance", epsilon), "positive"),
        ("Sqrt", (f"{result}.positive",), "deviation"),
        ("Div", (f"{result}.centred", f"{result}.deviation"), "normal"),
        ("Mul", (f"{result}.normal", scale), "scaled"),
    )
    made = [helper.make_node(op, inputs, [f"{result}.{what}"], f"{result}.{what}") for op, inputs, what in steps]
    return [*made, helper.make_node("Add", [f"{result}.scaled", bias], [result], result)]


def float32_nodes(graph: onnx.GraphProto, float32_tensors: Collection[str]) -> set[int]:
    """Give the positions of the nodes that `with_explicit_precision` leaves in float32."""
    kept = set(float32_tensors)
    found = {
        index
        for index, node in enumerate(graph.node)
        if node.op_type in FLOAT32_OPERATORS or not kept.isdisjoint((*node.input, *node.output))
    }
    scores = [node.input[0] for node in graph.node if node.op_type == "Softmax"]
    found |= _upstream(graph, scores, stop="MatMul")
    return found | _upstream(graph, [value.name for value in graph.output], stop="LayerNormalization")


def _upstream(graph: onnx.GraphProto, names: Iterable[str], *, stop: str) -> set[int]:
    """Positions of the nodes that tensors depend on, up to the operator `stop`, which is left out."""
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    pending = list(names)
    found: set[int] = set()
    while pending:
        index = producers.get(pending.pop())
        if index is not None and index not in found and graph.node[index].op_type != stop:
            found.add(index)
            pending += graph.node[index].input
    return found


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], target, to=to)


class _Converter:
    """One conversion: the graph that grows, and what every tensor is there."""

    def __init__(self, network: onnx.ModelProto, types: dict[str, int]) -> None:
        self.source = network
        self.floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self.weights = {tensor.name: tensor for tensor in network.graph.initializer}
        self.stored: dict[str, int] = {value.name: TensorProto.FLOAT for value in network.graph.input}
        self.made: set[str] = set()
        self.target = skeleton_of(network)
        self.graph = self.target.graph
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]

    def converted(self, kept: set[int]) -> onnx.ModelProto:
        for index, node in enumerate(self.source.graph.node):
            wanted = TensorProto.FLOAT if index in kept else TensorProto.FLOAT16
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for place, name in enumerate(node.input):
                copy.input[place] = self._as(name, wanted)
            for name in node.output:
                self.stored[name] = wanted
            if node.op_type == "Cast" and node.output[0] in self.floats:
                next(a for a in copy.attribute if a.name == "to").i = wanted
            self.graph.node.append(copy)
        return self.target

    def _as(self, name: str, wanted: int) -> str:
        """Give the name under which a tensor has a type, and make it so."""
        if name in self.weights:
            return self._weight_as(name, wanted if name in self.floats else None)
        if name not in self.floats or self.stored[name] == wanted:
            return name
        cast = f"{name}_{_SUFFIXES[wanted]}"
        if cast not in self.made:
            self.made.add(cast)
            self.graph.node.append(_cast(name, cast, wanted))
        return cast

    def _weight_as(self, name: str, wanted: int | None) -> str:
        target = f"{name}_float16" if wanted == TensorProto.FLOAT16 else name
        if target not in self.made:
            self.made.add(target)
            tensor = self.weights[name]
            half = wanted == TensorProto.FLOAT16
            self.graph.initializer.append(_half(tensor, target) if half else tensor)
        return target


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Round a weight to float16.

    Raises:
        PrecisionError: It does not fit.
    """
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= MAX_FLOAT16:
        raise PrecisionError(
            f"the weight {tensor.name} reaches {largest:.6g} and float16 holds {MAX_FLOAT16:.0f} at most:"
            " serve this model in float32, or rescale it"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)
