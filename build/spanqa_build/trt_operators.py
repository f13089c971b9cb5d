"""What TensorRT 10.4's ONNX parser reads: its operators and types as data, and a graph held against them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, defs

from spanqa_build.errors import PrecisionError
from spanqa_build.precision import element_types

SOURCE = (
    "docs/operators.md and docs/Changelog.md of github.com/onnx/onnx-tensorrt: what the tables of 9.2 and of 10.15 both"
    " say, which holds for 10.4 between them; restrictions of either, unless the changelog lifts one at 10.4 or before"
)
"""Where the table comes from. The revision of 10.4.0 itself was not at hand, so where the two differ the narrower one
is taken. Types that V100 lacks (BF16, FP8, INT4) and quantised INT8 are left out."""

OPSETS = range(9, 21)
"""Opset 9 to 20, as the table of 10.0 says."""

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
_FLOATS = frozenset({"FP32", "FP16"})
_NUMBERS = _FLOATS | {"INT32", "INT64"}
_ALL = _NUMBERS | {"BOOL"}
_BOOL = frozenset({"BOOL"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator of the parser.

    Args:
        types: Types of its data; indices, shapes and conditions have types of their own.
        constant_inputs: Positions of the inputs that must be initializers.
        n_outputs: Most outputs it may have.
        avoided: Why our networks do without it, though the parser reads it.
    """

    types: frozenset[str]
    constant_inputs: tuple[int, ...] = ()
    n_outputs: int = 1
    avoided: str = ""


def _alike(names: str, types: frozenset[str], constant_inputs: tuple[int, ...] = ()) -> dict[str, Operator]:
    return dict.fromkeys(names.split(), Operator(types=types, constant_inputs=constant_inputs))


OPERATORS: dict[str, Operator] = {
    **_alike(
        "BatchNormalization Ceil Clip Cos Elu Erf Exp Floor Gemm HardSigmoid HardSwish InstanceNormalization"
        " LayerNormalization LeakyRelu Log LogSoftmax MatMul Pow Reciprocal Round Sigmoid Sin Softmax Softplus Sqrt Tan"
        " Tanh",
        _FLOATS,
    ),
    **_alike(
        "Abs Add ArgMax ArgMin Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Neg Relu"
        " ScatterElements Sign Sub Sum",
        _NUMBERS,
    ),
    **_alike(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
        " ReduceSumSquare",
        _NUMBERS,
        constant_inputs=(1,),
    ),
    **_alike(
        "Cast Concat Constant Expand Flatten Gather GatherElements GatherND Identity Reshape Shape Size Tile Transpose"
        " Where",
        _ALL,
    ),
    **_alike("And Not Or Xor", _BOOL),
    # Computed axes of Slice are read since 10.3, of Squeeze and Unsqueeze since 10.7; constants by every release.
    "Slice": Operator(types=_ALL, constant_inputs=(3,)),
    **_alike("Squeeze Unsqueeze", _ALL, constant_inputs=(1,)),
    "ConstantOfShape": Operator(types=frozenset({"FP32"})),
    "CumSum": Operator(types=_FLOATS, constant_inputs=(1,)),
    "Dropout": Operator(types=_FLOATS, constant_inputs=(2,)),
    "OneHot": Operator(types=_ALL, constant_inputs=(1,)),
    "Range": Operator(types=_NUMBERS, avoided="its length would be data: slice a table of positions"),
    "Split": Operator(types=_ALL, n_outputs=1_000),
}
"""Every operator that an encoder could be exported with. Those of the decoder, of images and of control flow are left
out, and so are the ones with conditions that this module does not check."""


def check_operators(network: onnx.ModelProto) -> None:
    """Hold every node, type and opset of a network against the parser's table.

    Args:
        network: The network; its weights may be left out.

    Raises:
        PrecisionError: TensorRT 10.4 would not read it; the first problem, and how many more there are.
    """
    problems = operator_problems(network)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise PrecisionError(f"TensorRT 10.4's parser would not read the network: {problems[0]}{more}")


def operator_problems(network: onnx.ModelProto) -> list[str]:
    """Say what TensorRT 10.4's parser would refuse, one sentence each.

    Raises:
        PrecisionError: The types do not fit together, so that no parser would read the graph.
    """
    problems = [
        f"it uses opset {opset.version} of {opset.domain or 'ai.onnx'}: export with ai.onnx {OPSETS[0]} to {OPSETS[-1]}"
        for opset in network.opset_import
        if opset.domain not in ("", "ai.onnx") or opset.version not in OPSETS
    ]
    if problems:
        return problems
    unknown = [problem for node in network.graph.node for problem in _problems_of_operator(node)]
    if unknown:
        return unknown
    types = element_types(network)
    constants = {tensor.name for tensor in network.graph.initializer}
    return [
        problem
        for node in network.graph.node
        for problem in (*_problems_of_inputs(node, constants), *_problems_of_types(node, types))
    ]


def _problems_of_operator(node: onnx.NodeProto) -> Iterator[str]:
    operator = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if operator is None:
        yield f"node {node.name!r} is a {node.op_type}, which the table of its operators lacks: use others"
    elif operator.avoided:
        yield f"node {node.name!r} is a {node.op_type}, which is not to be used: {operator.avoided}"
    elif len(node.output) > operator.n_outputs:
        yield f"node {node.name!r} ({node.op_type}) has {len(node.output)} outputs: use {operator.n_outputs}"


def _problems_of_inputs(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    for place in OPERATORS[node.op_type].constant_inputs:
        if place < len(node.input) and node.input[place] and node.input[place] not in constants:
            yield f"node {node.name!r} ({node.op_type}) computes its input {place}: make it an initializer"


def _problems_of_types(node: onnx.NodeProto, types: dict[str, int]) -> Iterator[str]:
    allowed = OPERATORS[node.op_type].types
    for name in _data_of(node):
        kind = _NAMES.get(types[name], TensorProto.DataType.Name(types[name]))
        if kind not in allowed:
            yield (
                f"node {node.name!r} ({node.op_type}) has {name!r} in {kind}, and it takes"
                f" {', '.join(sorted(allowed))}: cast it"
            )


def _data_of(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors whose type is free: not the indices, nor shapes, axes and conditions, whose types ONNX fixes."""
    schema = defs.get_schema(node.op_type, OPSETS[-1])
    free = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if len(constraint.allowed_type_strs) > 1 and constraint.type_param_str != "Tind"
    }
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for place, name in enumerate(names):
            # A variadic parameter is the last and stands for all that follow.
            if name and formals[min(place, len(formals) - 1)].type_str in free:
                yield name
