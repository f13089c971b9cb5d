"""The networks for serving on a CPU with OpenVINO, made from the plain ONNX graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from spanqa.openvino_network import OPENVINO, OPENVINO_FILE, PRECISION_KEY, import_openvino
from spanqa_build.errors import OptimizationError

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of what it computes in, by ours."""


def openvino_is_installed() -> bool:
    """Whether the extra `openvino` is there, without importing it."""
    return importlib.util.find_spec(OPENVINO) is not None


def openvino_version() -> str:
    """The release of OpenVINO, as it calls itself."""
    return str(import_openvino().__version__)


def precisions_here() -> tuple[str, ...]:
    """Those of PRECISIONS that this machine's cores compute in.

    OpenVINO lists bfloat16 where the cores have instructions for it (AVX512_BF16 or AMX). Elsewhere it takes the wish
    and computes in float32 without a word.
    """
    offered = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, hint in PRECISIONS.items() if name == "float32" or hint.upper() in offered)


def openvino_from_onnx(source: Path, folder: Path, *, precision: str) -> Path:
    """Write a graph in OpenVINO's format, in float32; the file says in what it is to be computed.

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
        network.set_rt_info(PRECISIONS[precision], list(PRECISION_KEY))
        openvino.save_model(network, folder / OPENVINO_FILE, compress_to_fp16=False)
    except RuntimeError as error:
        raise OptimizationError(f"OpenVINO {openvino.__version__} cannot read the exported network: {error}") from error
    return folder / OPENVINO_FILE
