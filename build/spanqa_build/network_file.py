"""An ONNX network on disk: one file, or a graph beside one file of weights where protobuf's limit asks for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

from spanqa_build.errors import ExportError
from spanqa_build.onnx_export import save_network

MAX_ONE_FILE_BYTES = 1_900_000_000
"""Most bytes of weights in one file: protobuf refuses messages of 2 GiB, and the graph itself needs some."""
LARGE_BYTES = 1024
"""Weights of more bytes go to the side file; shapes and scalars stay in the graph, where parsers look for them."""


def skeleton_of(network: onnx.ModelProto, *, with_dims: bool = True) -> onnx.ModelProto:
    """Copy a network without the content of its large weights, for tools that would copy or refuse gigabytes.

    Args:
        network: The network; it is left as it is.
        with_dims: Whether the emptied weights keep their shapes (type and shape inference reads nothing more) or have
            none of their elements left (then the skeleton is valid ONNX by itself).
    """
    skeleton = _without_initializers(network)
    for tensor in network.graph.initializer:
        if not _is_large(tensor):
            skeleton.graph.initializer.append(tensor)
            continue
        dims = tensor.dims if with_dims else [0] * len(tensor.dims)
        skeleton.graph.initializer.append(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims))
    return skeleton


def write_network(network: onnx.ModelProto, path: str | Path, *, external_data: bool = False) -> Path | None:
    """Write a network atomically; its weights beside it where one file cannot hold them, or on request.

    The side file is named by its content, `<stem>-<sha256>.data`: an interruption leaves the old graph with the old
    weights, or the new with the new. Side files of earlier versions of the network are removed at the end.

    Args:
        network: The network, its weights as raw data; it is left as it is.
        path: The file of the graph.
        external_data: Whether to write a side file in any case.

    Returns:
        The side file, if there is one.

    Raises:
        ExportError: It cannot be written.
    """
    path = Path(path)
    n_bytes = sum(len(tensor.raw_data) for tensor in network.graph.initializer)
    side_file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if external_data or n_bytes > MAX_ONE_FILE_BYTES:
            side_file = _write_weights(filter(_is_large, network.graph.initializer), path)
            network = _referring_to(network, side_file.name)
    except OSError as error:
        raise ExportError(f"{path}: the network cannot be written: {error}") from error
    save_network(network, path)
    for stale in path.parent.glob(f"{path.stem}-{'[0-9a-f]' * 16}.data"):
        if stale != side_file:
            stale.unlink(missing_ok=True)
    return side_file


def _is_large(tensor: onnx.TensorProto) -> bool:
    return len(tensor.raw_data) > LARGE_BYTES


def _without_initializers(network: onnx.ModelProto) -> onnx.ModelProto:
    graph = onnx.GraphProto(name=network.graph.name)
    graph.node.extend(network.graph.node)
    graph.input.extend(network.graph.input)
    graph.output.extend(network.graph.output)
    graph.value_info.extend(network.graph.value_info)
    return onnx.ModelProto(
        ir_version=network.ir_version,
        producer_name=network.producer_name,
        opset_import=network.opset_import,
        graph=graph,
    )


def _write_weights(tensors: Iterable[onnx.TensorProto], path: Path) -> Path:
    """Write weights one after the other, in the order of the graph; gives the file."""
    beside = path.with_name(f".{path.stem}.data.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        with beside.open("wb") as out:
            for tensor in tensors:
                out.write(tensor.raw_data)
                digest.update(tensor.raw_data)
        side_file = path.with_name(f"{path.stem}-{digest.hexdigest()[:16]}.data")
        os.replace(beside, side_file)
    finally:
        beside.unlink(missing_ok=True)
    return side_file


def _referring_to(network: onnx.ModelProto, side_file: str) -> onnx.ModelProto:
    """Copy a network with references to a side file by `_write_weights` in place of its large weights."""
    skeleton = skeleton_of(network)
    offset = 0
    for tensor, full in zip(skeleton.graph.initializer, network.graph.initializer, strict=True):
        if not _is_large(full):
            continue
        # The helper refuses tensors without raw data and is right for all others: the content is in the file.
        tensor.raw_data = b"0"
        set_external_data(tensor, side_file, offset=offset, length=len(full.raw_data))
        tensor.ClearField("raw_data")
        offset += len(full.raw_data)
    return skeleton
