"""A model's network as an explicitly typed float16 ONNX, right as it stands on ONNX Runtime and on TensorRT."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from spanqa.contract import ENCODER_INPUTS, ENCODER_OUTPUTS
from spanqa.windows import Batch
from spanqa_build.activation_scan import ActivationScan, scan_activations
from spanqa_build.errors import ExportError
from spanqa_build.meant_precisions import MeantPrecisions, meant_precisions
from spanqa_build.network_file import skeleton_of, write_network
from spanqa_build.onnx_export import OPSET, check_network
from spanqa_build.precision import layer_norms_as_primitives, with_explicit_precision
from spanqa_build.trt_operators import check_operators
from spanqa_training.model import SpanModel, exportable

LAYER_NORMS = ("operator", "primitives")
"""LayerNormalization as one node, or as means, products and a root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What was written.

    Args:
        path: The graph's file.
        side_file: The file of its weights, where they do not lie in the graph's.
        n_bytes: Size of both.
        n_nodes: Nodes of the graph.
        n_casts: Casts among them.
        layer_norm: One of `LAYER_NORMS`.
        float32_tensors: Tensors kept in float32 because float16 could not hold them.
        meant: What each product, softmax and layer norm is to be computed in.
    """

    path: Path
    side_file: Path | None
    n_bytes: int
    n_nodes: int
    n_casts: int
    layer_norm: str
    float32_tensors: tuple[str, ...]
    meant: MeantPrecisions


def float16_network_from_windows(
    model: SpanModel,
    path: str | Path,
    batches: Iterable[Batch],
    *,
    layer_norm: str = "operator",
    external_data: bool = False,
) -> tuple[NetworkFacts, ActivationScan]:
    """Export a model in float16, with float32 wherever real windows come near float16's range.

    Args:
        model: The model; it is left as it is.
        path: The file to write.
        batches: Real windows.
        layer_norm: One of `LAYER_NORMS`.
        external_data: Whether to write the weights to a file of their own in any case.

    Raises:
        PrecisionError: Float16 cannot hold the network, even so, or TensorRT 10.4 would not read it.
        ExportError: It cannot be exported or written.
    """
    graph = float32_graph(model)
    scan = scan_activations(graph, batches)
    facts = float16_network_from_graph(
        graph, path, float32_tensors=scan.float32_tensors, layer_norm=layer_norm, external_data=external_data
    )
    return facts, scan


def float16_network(
    model: SpanModel,
    path: str | Path,
    *,
    float32_tensors: Collection[str] = (),
    layer_norm: str = "operator",
    external_data: bool = False,
) -> NetworkFacts:
    """Export a model in float16, float32 kept where `with_explicit_precision` says and in the named tensors.

    Args and Raises as in `float16_network_from_windows`, which finds `float32_tensors` itself.
    """
    return float16_network_from_graph(
        float32_graph(model), path, float32_tensors=float32_tensors, layer_norm=layer_norm, external_data=external_data
    )


def float16_network_from_graph(
    graph: onnx.ModelProto,
    path: str | Path,
    *,
    float32_tensors: Collection[str] = (),
    layer_norm: str = "operator",
    external_data: bool = False,
) -> NetworkFacts:
    """Write a graph by `float32_graph` in float16; arguments and errors as in `float16_network`."""
    if layer_norm not in LAYER_NORMS:
        raise ExportError(f"layer_norm is {layer_norm!r}: give one of {', '.join(LAYER_NORMS)}")
    network = with_explicit_precision(graph, float32_tensors)
    if layer_norm == "primitives":
        layer_norms_as_primitives(network)
    check_network(skeleton_of(network, with_dims=False))
    check_operators(network)
    path = Path(path)
    side_file = write_network(network, path, external_data=external_data)
    counts = Counter(node.op_type for node in network.graph.node)
    return NetworkFacts(
        path=path,
        side_file=side_file,
        n_bytes=path.stat().st_size + (side_file.stat().st_size if side_file else 0),
        n_nodes=counts.total(),
        n_casts=counts["Cast"],
        layer_norm=layer_norm,
        float32_tensors=tuple(sorted(float32_tensors)),
        meant=meant_precisions(graph.graph, float32_tensors),
    )


def float32_graph(model: SpanModel) -> onnx.ModelProto:
    """Export a model's graph in float32, in the form that `with_explicit_precision` reads.

    Made by torch's exporter of captured programs: of the two its graphs are the clean ones, with constants as
    initializers and one set of shapes for all layers. (For ONNX Runtime's fusion see `onnx_from_model`.) Tensors are
    named by the module and the operator that they come from.

    Args:
        model: The model; it is left as it is.

    Raises:
        ExportError: The graph is not what the contract asks for.
    """
    exported = exportable(model)
    # Two rows of nine tokens: sizes 0 and 1 would be taken for constants. A tensor of its own for each input: inputs
    # that are one object become one input.
    example = tuple(torch.ones(2, 9, dtype=torch.int32) for _ in ENCODER_INPUTS)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=model.config.max_positions)}
    with tempfile.TemporaryDirectory() as folder, _quiet_exporter():
        program = torch.onnx.export(
            exported,
            example,
            input_names=[tensor.name for tensor in ENCODER_INPUTS],
            output_names=[tensor.name for tensor in ENCODER_OUTPUTS],
            dynamic_shapes=(dims,) * len(ENCODER_INPUTS),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        if program is None:
            raise ExportError("torch exported nothing: use the torch of requirements/")
        # By way of a file: a message in memory may not pass 2 GB.
        program.save(Path(folder) / "network.onnx", external_data=True)
        network = onnx.load(Path(folder) / "network.onnx")
    _tidy(network)
    check_network(skeleton_of(network, with_dims=False))
    return network


def _tidy(network: onnx.ModelProto) -> None:
    """Name tensors by where they come from, and drop what the exporter notes: stack traces, and names of its own."""
    graph = network.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    numbered = {tensor.name for tensor in graph.initializer if tensor.name.startswith("val_")}
    seen: Counter[str] = Counter()

    def name_once(name: str, wanted: str) -> str:
        if name not in names:
            seen[wanted] += 1
            names[name] = wanted if seen[wanted] == 1 else f"{wanted}_{seen[wanted]}"
        return names[name]

    for node in graph.node:
        where = _module_of(node)
        for place, name in enumerate(node.input):
            node.input[place] = name_once(name, f"{where}.constant") if name in numbered else names.get(name, name)
        for place, name in enumerate(node.output):
            node.output[place] = name_once(name, f"{where}.{node.op_type}")
        node.name = node.output[0]
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for value in (*graph.input, *graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, ("batch", "length"), strict=True):
            if dim.dim_param:
                dim.dim_param = name
        del value.metadata_props[:]
    del graph.value_info[:], graph.metadata_props[:], network.metadata_props[:]


def _module_of(node: onnx.NodeProto) -> str:
    """Give the module whose `forward` a node comes from, such as "layers.0.attention.query"."""
    noted = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    scopes = [scope.strip(" '\"") for scope in noted.strip("[]").split(",")]
    module = scopes[-2] if len(scopes) > 1 else ""
    # The sizes that all layers share come from torch itself, under a private name.
    return module if module and not module.startswith("_") else "model"


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence torch's exporter: it warns of deprecations inside torch and of operators of packages not used here."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
