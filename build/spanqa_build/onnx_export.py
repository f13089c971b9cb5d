"""A checkpoint's network as an ONNX file, in the form that ONNX Runtime can fuse."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from onnx import TensorProto

from spanqa.contract import ENCODER_INPUTS, ENCODER_OUTPUTS
from spanqa_build.errors import ExportError
from spanqa_training.model import SpanModel, exportable

OPSET = 18
"""LayerNormalization needs 17; TensorRT 10.4 and ONNX Runtime 1.19 read 18."""
MAX_IR_VERSION = 10
"""The newest that ONNX Runtime 1.19.2 (Triton 24.09) reads."""

_ELEM_TYPES = {"INT32": TensorProto.INT32, "FP32": TensorProto.FLOAT}


def onnx_from_model(model: SpanModel, path: str | Path) -> None:
    """Export a network in float32, with the batch and the length of its windows left open.

    Inputs are `int32 (batch, length)`, outputs `float32 (batch, length)`, named by `spanqa.contract`. The tracing
    exporter is used, with eager attention and separate projections: of torch's two exporters only its graphs are
    recognised by the fusion of ONNX Runtime.

    Args:
        model: The network; it is left as it is.
        path: The file to write.

    Raises:
        ExportError: The graph is not what the contract asks for, or the file cannot be written.
    """
    exported = exportable(model)
    # Two rows of nine tokens: no size is 1, which the exporter might take for a constant.
    ids = torch.ones(2, 9, dtype=torch.int32)
    inputs = [tensor.name for tensor in ENCODER_INPUTS]
    outputs = [tensor.name for tensor in ENCODER_OUTPUTS]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # torch announces that the tracing exporter will go; it is pinned, and its successor's graphs do not fuse.
        warnings.simplefilter("ignore", DeprecationWarning)
        target = Path(folder) / "network.onnx"
        torch.onnx.export(
            exported,
            (ids, ids, torch.zeros_like(ids)),
            str(target),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch", 1: "length"} for name in inputs + outputs},
            opset_version=OPSET,
            dynamo=False,
        )
        network = onnx.load(target)
    check_network(network)
    save_network(network, path)


def check_network(network: onnx.ModelProto) -> None:
    """Hold a graph against the wire contract and against what the oldest supported runtime reads.

    Raises:
        ExportError: It does not fit.
    """
    try:
        onnx.checker.check_model(network)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    if network.ir_version > MAX_IR_VERSION:
        raise ExportError(
            f"the graph has IR version {network.ir_version} and ONNX Runtime 1.19.2 reads {MAX_IR_VERSION} at most:"
            " export with the pinned torch"
        )
    for what, wanted, values in (
        ("inputs", ENCODER_INPUTS, network.graph.input),
        ("outputs", ENCODER_OUTPUTS, network.graph.output),
    ):
        expected = [(tensor.name, _ELEM_TYPES[tensor.dtype], 2) for tensor in wanted]
        found = [(v.name, v.type.tensor_type.elem_type, _n_open_dims(v)) for v in values]
        if found != expected:
            raise ExportError(
                f"the graph's {what} (name, ONNX element type, open dimensions) are {found}, and the contract asks for"
                f" {expected}"
            )
    doubles = [tensor.name for tensor in network.graph.initializer if tensor.data_type == TensorProto.DOUBLE]
    if doubles:
        raise ExportError(f"{doubles[0]} and {len(doubles) - 1} other constants are float64: the network is float32")


def save_network(network: onnx.ModelProto, path: str | Path) -> None:
    """Write an ONNX file, atomically.

    Raises:
        ExportError: It cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            beside = Path(scratch) / path.name
            onnx.save(network, beside)
            os.replace(beside, path)
    except (OSError, ValueError) as error:  # ValueError: protobuf's limit of 2 GB
        raise ExportError(f"{path}: the network cannot be written: {error}") from error


def _n_open_dims(value: onnx.ValueInfoProto) -> int:
    return sum(bool(dim.dim_param) for dim in value.type.tensor_type.shape.dim)
