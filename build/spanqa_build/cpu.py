"""The networks for serving on a CPU with ONNX Runtime: fused float32, and int8 made from it."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spanqa_build.attention_bias import put_in, set_aside
from spanqa_build.errors import OptimizationError
from spanqa_build.int8 import quantize_products
from spanqa_build.onnx_export import check_network, onnx_from_model, save_network
from spanqa_training.model import EncoderConfig, SpanModel

if TYPE_CHECKING:
    from onnxruntime.transformers.fusion_options import FusionOptions

PLAIN_NETWORK = "network_plain.onnx"
FLOAT32_NETWORK = "network_float32.onnx"
INT8_NETWORK = "network_int8.onnx"

_PROJECTION = "embeddings/projection/MatMul"
"""What the exporter calls the product that widens narrow embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuNetworks:
    """The files of one checkpoint.

    Args:
        plain: The graph as it is exported, in float32.
        float32: The fused graph in float32.
        int8: The same with int8 matrix products.
    """

    plain: Path
    float32: Path
    int8: Path


def cpu_networks_from_model(model: SpanModel, folder: str | Path) -> CpuNetworks:
    """Export, fuse and quantize a model's network.

    Args:
        model: The model; it is left as it is.
        folder: Where the three networks are written.

    Raises:
        BuildError: The network cannot be exported, fused or quantized.
    """
    names = (PLAIN_NETWORK, FLOAT32_NETWORK, INT8_NETWORK)
    plain, float32, int8 = (Path(folder) / name for name in names)
    networks = CpuNetworks(plain=plain, float32=float32, int8=int8)
    onnx_from_model(model, networks.plain)
    fused_from_onnx(networks.plain, networks.float32, model.config)
    int8_from_fused(networks.float32, networks.int8)
    return networks


def fused_from_onnx(source: str | Path, target: str | Path, config: EncoderConfig, *, for_cuda: bool = False) -> None:
    """Fuse attention and activations into ONNX Runtime's own operators.

    Args:
        source: A graph by `onnx_from_model`.
        target: The file to write.
        config: The architecture.
        for_cuda: Whether attention takes the length of each window instead of its mask, as ONNX Runtime's fused
            attention kernels need (those of sm_70 take heads of 64 and lengths up to 384), and residual sums stay
            fused with their norms, as the CUDA provider runs them best.

    Raises:
        OptimizationError: A layer was not recognised, which would cost speed without a word.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    # On a CPU the mask as it is: any mask means then what it means to the checkpoint. CUDA's fused kernels take only
    # the count of its ones, which says the same of windows, padded at their end.
    options.use_raw_attention_mask(not for_cuda)
    fused = _fused(Path(source), config, options)
    if not any(opset.domain == "com.microsoft" for opset in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    if not for_cuda:
        _split_skip_layer_norms(fused)
    _check_fusion(fused, config)
    check_network(fused)
    if config.shared_layers:
        _share_equal_weights(fused)
    if not for_cuda:
        _store_embeddings_compactly(fused)
    save_network(fused, target)


def _fused(source: Path, config: EncoderConfig, options: FusionOptions) -> onnx.ModelProto:
    """Run ONNX Runtime's fusion, which knows no attention that is biased by distance: the bias comes in after it."""
    from onnxruntime.transformers.optimizer import optimize_model

    with tempfile.TemporaryDirectory() as scratch, _quiet_logging():
        bias = None
        if config.position_scheme == "biased":
            network = onnx.load(source)
            bias = set_aside(network)
            source = Path(scratch) / source.name
            onnx.save(network, source)
        fused: onnx.ModelProto = optimize_model(
            str(source),
            model_type="bert",
            num_heads=config.num_heads,
            hidden_size=config.hidden_size,
            optimization_options=options,
            opt_level=0,
            use_gpu=False,
        ).model
        if bias is not None:
            put_in(fused, bias)
    return fused


def int8_from_fused(source: str | Path, target: str | Path) -> None:
    """Quantize the matrix products with weights, as `spanqa_build.int8` says.

    Args:
        source: A graph by `fused_from_onnx`.
        target: The file to write.

    Raises:
        OptimizationError: Not every product was quantized.
    """
    network = onnx.load(source)
    operators = Counter(node.op_type for node in network.graph.node)
    n_layers, n_fused = operators["BiasGelu"] + operators["FastGelu"], operators["Attention"]
    # In a layer: attention's packed product (or its three, where it is not fused), its output, and the two of the
    # feed-forward block.
    n_expected = 4 * n_fused + 6 * (n_layers - n_fused) + sum(_PROJECTION in node.name for node in network.graph.node)
    n_found = quantize_products(network)
    if not n_found or n_found != n_expected:
        raise OptimizationError(
            f"{n_found} matrix products were quantized where {n_layers} layers make {n_expected}:"
            " give a graph by fused_from_onnx"
        )
    check_network(network)
    save_network(network, target)


def _is_fused(config: EncoderConfig) -> bool:
    """Whether ONNX Runtime has an operator for the attention; for disentangled attention it has none."""
    return config.position_scheme != "disentangled"


def _check_fusion(network: onnx.ModelProto, config: EncoderConfig) -> None:
    counts = Counter(node.op_type for node in network.graph.node)
    layers = config.num_layers
    for operators, expected in (
        (("Attention",), layers if _is_fused(config) else 0),
        (("BiasGelu", "FastGelu"), layers),
        (("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"), 2 * layers + 1),
    ):
        found = sum(counts[operator] for operator in operators)
        if found != expected:
            raise OptimizationError(
                f"{found} {'/'.join(operators)} nodes where {layers} layers make {expected}: this onnxruntime's fusion"
                " does not recognise the graph; use the one in requirements/"
            )


def _share_equal_weights(network: onnx.ModelProto) -> None:
    """Keep one of weights that are alike: the fusion packs those of shared layers anew for each."""
    graph = network.graph
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    kept = {}
    for tensor in graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        kept[tensor.name] = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = kept.get(name, name)
    unique = [tensor for tensor in graph.initializer if kept[tensor.name] == tensor.name]
    del graph.initializer[:]
    graph.initializer.extend(unique)


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


def _split_skip_layer_norms(network: onnx.ModelProto) -> None:
    """Undo the fusion of residual sums with layer norms, which attention's fusion needs before.

    ONNX Runtime's CPU kernel of the fused form takes four times as long as its parts (1.32, 180 tokens of 384).
    """
    nodes = list(network.graph.node)
    del network.graph.node[:]
    for node in nodes:
        if node.op_type != "SkipLayerNormalization":
            network.graph.node.append(node)
            continue
        name = node.output[0]
        hidden, skip, *norm = (value for value in node.input if value)
        if len(norm) == 3:
            network.graph.node.append(helper.make_node("Add", [hidden, norm[2]], [f"{name}_biased"]))
            hidden = f"{name}_biased"
        total = node.output[3] if len(node.output) == 4 else f"{name}_sum"
        epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        network.graph.node.append(helper.make_node("Add", [hidden, skip], [total]))
        network.graph.node.append(
            helper.make_node("LayerNormalization", [total, *norm[:2]], [name], axis=-1, epsilon=epsilon)
        )


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Silence onnxruntime's Python tools, which log their every step to the root logger."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
