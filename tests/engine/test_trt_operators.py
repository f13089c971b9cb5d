"""Our networks hold only what TensorRT 10.4's parser reads, and what it does not read is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, defs, helper, numpy_helper

from spanqa_build.errors import PrecisionError
from spanqa_build.float16_export import LAYER_NORMS
from spanqa_build.network_file import skeleton_of
from spanqa_build.precision import layer_norms_as_primitives, with_explicit_precision
from spanqa_build.trt_operators import OPERATORS, OPSETS, check_operators, operator_problems
from spanqa_training.model import EncoderConfig, SpanModel

KINDS = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "int64": TensorProto.INT64}


def network_of(*nodes, kind="float", constants=(), opset=18, n_inputs=1):
    """A graph of the nodes, from `x` (and `x1`) to the last node's output."""
    inputs = [
        helper.make_tensor_value_info(name, KINDS[kind], ["batch", 4]) for name in ("x", "x1")[:n_inputs]
    ]  # fmt: skip
    output = onnx.ValueInfoProto(name=nodes[-1].output[0])
    weights = [numpy_helper.from_array(np.array(value), name) for name, value in constants]
    graph = helper.make_graph(list(nodes), "small", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(operator, inputs, **attributes):
    return helper.make_node(operator, inputs.split(), ["y"], name="the_node", **attributes)


@pytest.fixture(scope="module", params=[("pre", "gelu"), ("post", "gelu"), ("post", "gelu_tanh")], ids="-".join)
def graph(request, graph_of):
    torch.manual_seed(0)
    family, activation = request.param
    return graph_of(
        SpanModel(
            EncoderConfig(
                vocab_size=60,
                hidden_size=32,
                num_layers=1 if activation == "gelu_tanh" else 2,  # as in other tests: each is exported once
                num_heads=4,
                intermediate_size=24,
                max_positions=40,
                layer_norm=family,
                activation=activation,
            )
        )
    )


@pytest.mark.parametrize("layer_norm", LAYER_NORMS)
def test_our_networks_pass(graph, layer_norm):
    network = with_explicit_precision(graph, ["layers.0.attention.MatMul"])
    if layer_norm == "primitives":
        layer_norms_as_primitives(network)
    check_operators(network)
    check_operators(skeleton_of(network))


def test_a_double_in_our_network_is_refused_by_name(graph):
    network = onnx.ModelProto()
    network.CopyFrom(graph)
    first = next(n for n in network.graph.node if n.op_type == "Softmax")
    at = list(network.graph.node).index(first)
    wide = helper.make_node("Cast", [first.input[0]], ["wide"], name="widened", to=TensorProto.DOUBLE)
    back = helper.make_node("Cast", ["wide"], ["back"], name="narrowed", to=TensorProto.FLOAT)
    first.input[0] = "back"
    network.graph.node.insert(at, back)
    network.graph.node.insert(at, wide)
    with pytest.raises(
        PrecisionError, match=r"node 'widened' \(Cast\) has 'wide' in DOUBLE, .*\(and 1 more problems\)"
    ):
        check_operators(network)


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (network_of(node("Range", "x x x")), "node 'the_node' is a Range, which is not to be used: its length"),
        (network_of(node("NonZero", "x")), "node 'the_node' is a NonZero, which the table"),
        (network_of(node("Gelu", "x"), opset=20), "node 'the_node' is a Gelu, which the table"),
        (network_of(node("Tanh", "x"), kind="double"), "'the_node' (Tanh) has 'x' in DOUBLE, and it takes FP16, FP32"),
        (
            network_of(node("MatMul", "x w"), kind="int64", constants=[("w", np.ones((4, 4), np.int64))]),
            "'the_node' (MatMul) has 'x' in INT64, and it takes FP16, FP32",
        ),
        (
            network_of(node("Pow", "x three"), constants=[("three", np.int64(3))]),
            "'the_node' (Pow) has 'three' in INT64",
        ),
        (
            network_of(
                helper.make_node("Shape", ["x"], ["axes"], name="shape"), node("Unsqueeze", "x axes"), n_inputs=1
            ),
            "'the_node' (Unsqueeze) computes its input 1: make it an initializer",
        ),
        (
            network_of(
                helper.make_node("LayerNormalization", ["x", "s", "b"], ["y", "mean"], name="the_node"),
                constants=[("s", np.ones(4, np.float32)), ("b", np.ones(4, np.float32))],
            ),
            "'the_node' (LayerNormalization) has 2 outputs: use 1",
        ),
        (network_of(node("Tanh", "x"), opset=21), "it uses opset 21 of ai.onnx: export with ai.onnx 9 to 20"),
    ],
    ids=lambda value: value.split(":")[0][:40] if isinstance(value, str) else "network",
)
def test_what_the_parser_refuses_is_refused_by_name(network, problem):
    assert any(problem in found for found in operator_problems(network))
    with pytest.raises(PrecisionError, match=r"^TensorRT 10\.4's parser would not read the network: "):
        check_operators(network)


def test_operators_of_other_domains_are_refused():
    network = network_of(node("Tanh", "x"))
    network.graph.node.append(helper.make_node("FastGelu", ["y"], ["z"], name="fused", domain="com.microsoft"))
    assert operator_problems(network) == [
        "node 'fused' is a FastGelu, which the table of its operators lacks: use others"
    ]
    network.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "opset 1 of com.microsoft" in operator_problems(network)[0]


def test_indices_shapes_and_conditions_keep_the_types_that_onnx_gives_them():
    check_operators(
        network_of(
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Greater", ["x", "zero"], ["above"], name="above"),
            helper.make_node("Where", ["above", "x", "zero"], ["kept"], name="kept"),
            helper.make_node("Gather", ["kept", "first"], ["row"], name="row", axis=1),
            helper.make_node("Expand", ["row", "shape"], ["y"], name="y"),
            constants=[("zero", np.float32(0)), ("first", np.array([0], np.int32))],
        )
    )


def test_every_operator_of_the_table_is_one_of_onnx():
    for name in OPERATORS:
        assert defs.get_schema(name, OPSETS[-1]).name == name
