"""A bias of attention by distance, as ONNX Runtime's own attention takes it: set aside for the fusion, then put in."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from spanqa_build.errors import OptimizationError

_PLACE = 5
"""The input of com.microsoft's Attention that is added to the scores: its sixth, the fifth is of past states."""


def set_aside(network: onnx.ModelProto) -> str:
    """Take the sum of scores and bias out of a graph, in place, since the fusion recognises attention only without.

    Args:
        network: A graph by `onnx_from_model` of a model whose attention is biased.

    Returns:
        The tensor that holds the bias, which becomes an output of the graph so that no step of the fusion drops it.

    Raises:
        OptimizationError: The graph has no such bias, or several.
    """
    graph = network.graph
    producers = {name: node for node in graph.node for name in node.output}
    sums = []
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        # Scores and bias are summed before the mask is added.
        masked = producers[softmax.input[0]]
        biased = producers.get(masked.input[0])
        if biased is not None and biased.op_type == "Add":
            sums.append((masked, biased))
    biases = {biased.input[1] for _, biased in sums}
    if len(biases) != 1:
        raise OptimizationError(
            f"{len(biases)} biases of attention where all layers have one: give a graph by onnx_from_model"
        )
    for masked, biased in sums:
        masked.input[0] = biased.input[0]
        graph.node.remove(biased)
    (bias,) = biases
    graph.output.append(helper.make_tensor_value_info(bias, TensorProto.FLOAT, [1, None, None, None]))
    return bias


def put_in(network: onnx.ModelProto, bias: str) -> None:
    """Give every fused attention the bias, in place.

    Args:
        network: The fused graph of one whose bias was set aside.
        bias: What `set_aside` gave.
    """
    graph = network.graph
    graph.output.remove(next(output for output in graph.output if output.name == bias))
    for node in graph.node:
        if node.op_type == "Attention":
            node.input.extend([""] * (_PLACE - len(node.input)))
            node.input.append(bias)
