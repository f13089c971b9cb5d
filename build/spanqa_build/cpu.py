"""The networks for serving on a CPU with ONNX Runtime: fused float32, and int8 made from it."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spanqa_build.errors import OptimizationError
from spanqa_build.onnx_export import check_network, onnx_from_model, save_network
from spanqa_training.checkpoint import load_checkpoint
from spanqa_training.model import EncoderConfig

FLOAT32_NETWORK = "network_float32.onnx"
INT8_NETWORK = "network_int8.onnx"

INT8_ROWS_PER_CALL = 1
"""Rows of an encoder call with the int8 network: its activations are scaled over the whole input, so that neighbours
and padding would change a window's logits. The float32 network takes any number."""

_QUANTIZED_OPERATORS = ("MatMul", "Attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuNetworks:
    """The two files of one checkpoint.

    Args:
        float32: The fused graph in float32.
        int8: The same with int8 matrix products.
    """

    float32: Path
    int8: Path


def cpu_networks_from_checkpoint(checkpoint: str | Path, folder: str | Path) -> CpuNetworks:
    """Export, fuse and quantize a checkpoint's network.

    Args:
        checkpoint: The checkpoint.
        folder: Where `FLOAT32_NETWORK` and `INT8_NETWORK` are written.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        BuildError: The network cannot be exported, fused or quantized.
    """
    _, model = load_checkpoint(checkpoint)
    networks = CpuNetworks(float32=Path(folder) / FLOAT32_NETWORK, int8=Path(folder) / INT8_NETWORK)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "network.onnx"
        onnx_from_model(model, plain)
        fused_from_onnx(plain, networks.float32, model.config)
    int8_from_fused(networks.float32, networks.int8)
    return networks


def fused_from_onnx(source: str | Path, target: str | Path, config: EncoderConfig) -> None:
    """Fuse attention, layer norms and activations into ONNX Runtime's own operators.

    Args:
        source: A graph by `onnx_from_model`.
        target: The file to write.
        config: The architecture.

    Raises:
        OptimizationError: A layer was not recognised, which would cost speed without a word.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    # The mask as it is, not the count of its ones: any mask means then what it means to the checkpoint.
    options.use_raw_attention_mask(True)
    with _quiet_logging():
        fused = optimize_model(
            str(source),
            model_type="bert",
            num_heads=config.num_heads,
            hidden_size=config.hidden_size,
            optimization_options=options,
            opt_level=0,
            use_gpu=False,
        ).model
    if not any(opset.domain == "com.microsoft" for opset in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    _check_fusion(fused, config)
    check_network(fused)
    _store_embeddings_compactly(fused)
    save_network(fused, target)


def int8_from_fused(source: str | Path, target: str | Path) -> None:
    """Quantize the matrix products with weights: weights int8 by channel, activations uint8 by call.

    Weights get 7 of the 8 bits: with all 8 the sums of pairs overflow 16 bits on processors without VNNI, silently and
    differently from those with it (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    The head stays float32: it costs nothing and decides.

    Args:
        source: A graph by `fused_from_onnx`.
        target: The file to write.

    Raises:
        OptimizationError: Nothing was quantized.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    network = onnx.load(source)
    n_expected = sum(node.op_type in _QUANTIZED_OPERATORS for node in network.graph.node) - 1
    # Shapes are known and the graph is optimised: without this mark the quantizer asks for both again.
    add_pre_process_metadata(network)
    with tempfile.TemporaryDirectory() as scratch, _quiet_logging():
        path = Path(scratch) / INT8_NETWORK
        quantize_dynamic(
            network,
            path,
            op_types_to_quantize=list(_QUANTIZED_OPERATORS),
            nodes_to_exclude=[_head_node(network)],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        quantized = onnx.load(path)
    counts = Counter(node.op_type for node in quantized.graph.node)
    n_found = counts["MatMulInteger"] + counts["QAttention"]
    if n_found != n_expected:
        raise OptimizationError(
            f"{n_found} of {n_expected} matrix products were quantized: this onnxruntime does not know the graph;"
            " use the one in requirements/"
        )
    save_network(quantized, target)


def _check_fusion(network: onnx.ModelProto, config: EncoderConfig) -> None:
    counts = Counter(node.op_type for node in network.graph.node)
    layers = config.num_layers
    for operators, expected in (
        (("Attention",), layers),
        (("BiasGelu", "FastGelu"), layers),
        (("SkipLayerNormalization", "LayerNormalization"), 2 * layers + 1),
    ):
        found = sum(counts[operator] for operator in operators)
        if found != expected:
            raise OptimizationError(
                f"{found} {'/'.join(operators)} nodes where {layers} layers make {expected}: this onnxruntime's fusion"
                " does not recognise the graph; use the one in requirements/"
            )


def _store_embeddings_compactly(network: onnx.ModelProto) -> None:
    """Keep embedding tables as float16 where that loses nothing, as in checkpoints stored so: a quarter of the file.

    Only the rows that a call looks up are cast back.
    """
    graph = network.graph
    tables = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    lookups = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    for node in lookups:
        table = tables[node.input[0]]
        values = numpy_helper.to_array(table)
        half = values.astype(np.float16)
        used_elsewhere = sum(table.name in other.input for other in graph.node) > 1
        if used_elsewhere or not np.array_equal(half.astype(np.float32), values):
            continue
        table.CopyFrom(numpy_helper.from_array(half, table.name))
        result = node.output[0]
        node.output[0] = f"{result}_float16"
        cast = helper.make_node("Cast", [node.output[0]], [result], name=f"{node.name}_cast", to=TensorProto.FLOAT)
        graph.node.insert(list(graph.node).index(node) + 1, cast)


def _head_node(network: onnx.ModelProto) -> str:
    """The name of the product that gives the two logits of each token."""
    heads = {tensor.name for tensor in network.graph.initializer if len(tensor.dims) == 2 and tensor.dims[1] == 2}
    found = [str(node.name) for node in network.graph.node if node.op_type == "MatMul" and node.input[1] in heads]
    if len(found) != 1:
        raise OptimizationError(f"{len(found)} products give two values a token, and a span network has one")
    return found[0]


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence onnxruntime's Python tools, which log their every step to the root logger."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
