"""The network on a CPU in OpenVINO: an alternative to ONNX Runtime where the extra `openvino` is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa import contract
from spanqa.cores import usable_cores
from spanqa.errors import SpanqaError
from spanqa.manifest import Manifest
from spanqa.windows import Batch

OPENVINO_FILE = "network.xml"
"""The graph; its weights are in the file of the same name that ends in .bin."""
PRECISION_KEY = ("spanqa", "precision")
"""Where the file itself says in which type OpenVINO is to compute: f32 or bf16, OpenVINO's own names."""
OPENVINO = "openvino"
_TELEMETRY = "openvino_telemetry"
INSTALL = "pip install 'spanqa[openvino]'"


def import_openvino() -> ModuleType:
    """Import OpenVINO, silent: by itself, merely imported, it writes an identity into the home and calls its makers.

    Where its telemetry's package is missing it does neither, so that package is hidden from it.

    Raises:
        ImportError: It is not installed.
    """
    hidden = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
    try:
        return importlib.import_module(OPENVINO)
    finally:
        if hidden is None:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = hidden


def weights_beside(path: Path) -> tuple[Path, ...]:
    """Give the files that belong to a network's file: the weights of an OpenVINO graph."""
    return (path.with_suffix(".bin"),) if path.suffix == Path(OPENVINO_FILE).suffix else ()


class OpenVinoNetwork:
    """A network in OpenVINO; runs of several threads may be under way at once, one on each stream.

    Args:
        path: The network's .xml file, beside its .bin.
        n_threads: Threads of one run.

    Raises:
        SpanqaError: OpenVINO is not installed, or cannot load the file.
    """

    def __init__(self, path: Path, *, n_threads: int) -> None:
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise SpanqaError(f"{path}: OpenVINO, which runs it, cannot be imported ({error}): {INSTALL}") from error
        try:
            self._compiled = _compiled(openvino.Core(), path, n_threads)
        except RuntimeError as error:  # the class of all that OpenVINO throws
            raise SpanqaError(
                f"{path}: OpenVINO {openvino.__version__} cannot load it: {error}: build the repository again"
            ) from error
        self._free: SimpleQueue[Any] = SimpleQueue()
        self._outputs = [self._compiled.output(tensor.name) for tensor in contract.ENCODER_OUTPUTS]

    def run(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run rows without padding; give their start and end logits, each `float32 (rows, length)`."""
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        feed = {tensor.name: array for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)}
        try:
            request = self._free.get_nowait()
        except Empty:  # a request belongs to one run at a time: as many as runs side by side
            request = self._compiled.create_infer_request()
        try:
            results = request.infer(feed, share_inputs=True)  # results are copied, as the request is used again
            start_logits, end_logits = (results[output] for output in self._outputs)
        finally:
            self._free.put(request)
        return start_logits, end_logits


def _compiled(core: Any, path: Path, n_threads: int) -> Any:
    network = core.read_model(path)
    precision = (
        network.get_rt_info(list(PRECISION_KEY)).astype(str) if network.has_rt_info(list(PRECISION_KEY)) else "f32"
    )
    # A stream computes one run at a time.
    n_streams = max(1, usable_cores() // n_threads)
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": n_streams,
        "INFERENCE_NUM_THREADS": n_streams * n_threads,
        "ENABLE_CPU_PINNING": False,  # the other stages' threads move freely too
        "CACHE_DIR": "",
    }
    return core.compile_model(network, "CPU", settings)


def check_openvino(manifest: Manifest) -> None:
    """Check that what a repository's network needs is installed, without importing it.

    Raises:
        SpanqaError: It needs OpenVINO, and there is none.
    """
    if manifest.encoder.get("engine") == OPENVINO and importlib.util.find_spec(OPENVINO) is None:
        raise SpanqaError(
            f"the network runs in OpenVINO, which is not installed: {INSTALL}, or build the repository again with"
            " `--engine onnxruntime`"
        )
