"""The networks for serving on a CPU with OpenVINO, made from the plain ONNX graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa.openvino_network import OPENVINO, OPENVINO_FILE, PRECISION_KEY, import_openvino
from spanqa_build.errors import OptimizationError

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""OpenVINO's names of what it computes in, by ours; in int8 that is all but products with weights, and f32 where the
cores have no bfloat16."""
_CAPABILITIES = {"bfloat16": "BF16", "int8": "INT8"}
"""OpenVINO's names of what the cores must offer."""
_GROUP = 128
"""Values of a row of activations that share a scale in int8. Of 32, 64, 128 and 384 the fastest on cores with VNNI and
bfloat16, and nearer to float32 than 384 (benchmarks/results)."""
_GROUP_KEY = ("runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
"""Where OpenVINO itself looks for it in the file."""
_FEWEST_COLUMNS = 8
"""Of a matrix that is worth it: the head's two columns stay in float32."""


def openvino_is_installed() -> bool:
    """Whether the extra `openvino` is there, without importing it."""
    return importlib.util.find_spec(OPENVINO) is not None


def openvino_version() -> str:
    """The release of OpenVINO, as it calls itself."""
    return str(import_openvino().__version__)


def precisions_here() -> tuple[str, ...]:
    """Those of PRECISIONS that this machine's cores compute in.

    OpenVINO lists bfloat16 where the cores have instructions for it (AVX512_BF16 or AMX). Elsewhere it takes the wish
    and computes in float32 without a word. It lists int8 nearly everywhere; without VNNI or AMX that is slow.
    """
    offered = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in PRECISIONS if name == "float32" or _CAPABILITIES[name] in offered)


def openvino_from_onnx(source: Path, folder: Path, *, precision: str) -> Path:
    """Write a graph in OpenVINO's format; the file says in what it is to be computed.

    Weights are in float32. For int8 those of the products are int8 with a scale for each column, and on cores with VNNI
    or AMX OpenVINO rounds each row's values as it goes, a scale for each _GROUP of them.

    Args:
        source: A graph by `onnx_from_model`. OpenVINO fuses it as it loads it.
        folder: Where the two files are written.
        precision: One of PRECISIONS.

    Returns:
        The .xml file; the weights are beside it.

    Raises:
        OptimizationError: OpenVINO cannot read the graph.
    """
    openvino = import_openvino()
    folder.mkdir()
    try:
        network: Any = openvino.Core().read_model(source)
        hint = PRECISIONS[precision if precision == "float32" or "bfloat16" in precisions_here() else "float32"]
        network.set_rt_info(hint, list(PRECISION_KEY))
        if precision == "int8":
            _round_weights(network)
            network.set_rt_info(str(_GROUP), list(_GROUP_KEY))
        openvino.save_model(network, folder / OPENVINO_FILE, compress_to_fp16=False)
    except RuntimeError as error:
        raise OptimizationError(f"OpenVINO {openvino.__version__} cannot read the exported network: {error}") from error
    return folder / OPENVINO_FILE


def _round_weights(network: Any) -> None:
    """Put int8 weights and their scales in the place of every product's float32 weights."""
    opset = import_openvino().opset13
    for product in network.get_ordered_ops():
        source = product.input_value(1).get_node() if product.get_type_name() == "MatMul" else None
        if source is None or source.get_type_name() != "Constant" or source.get_output_partial_shape(0).rank != 2:
            continue
        options = product.get_attributes()
        rows, scales = _rounded(source.get_data() if options["transpose_b"] else source.get_data().T)
        if len(rows) < _FEWEST_COLUMNS:
            continue
        weights = opset.multiply(opset.convert(opset.constant(rows), np.float32), opset.constant(scales))
        rounded = opset.matmul(product.input_value(0), weights, options["transpose_a"], True)
        rounded.set_friendly_name(product.get_friendly_name())
        product.output(0).replace(rounded.output(0))
    network.validate_nodes_and_infer_types()


def _rounded(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row to int8 by its largest magnitude; gives the rows, and their scales as `float32 (n, 1)`."""
    scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32)
