"""The network on a CPU, in the process that asks it: one unpadded window a run."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spanqa import contract
from spanqa.cores import usable_cores
from spanqa.manifest import Manifest
from spanqa.openvino_network import OPENVINO_FILE, OpenVinoNetwork, weights_beside
from spanqa.startup import check_file
from spanqa.windows import Batch

NETWORK_FILE = "network.onnx"
NETWORK_FILES = (NETWORK_FILE, OPENVINO_FILE)
"""What a network's file is called, by what runs it."""
COPIES_BYTES = 128 << 20
"""How many bytes of a network's file a process may load again for cores of their own, beside the first time."""

Logits = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Start and end logits, each `float32 (rows, length)`."""


class CpuNetwork(Protocol):
    """A loaded network; runs of several threads may be under way at once."""

    def run(self, batch: Batch) -> Logits:
        """Run rows without padding."""


class OnnxNetwork:
    """A network in ONNX Runtime.

    Args:
        path: The ONNX file.
        n_threads: Threads of one run.
    """

    def __init__(self, path: Path, *, n_threads: int) -> None:
        import onnxruntime  # of the extra that serves, not of the core

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait would take the cores from the other stages.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = [tensor.name for tensor in contract.ENCODER_OUTPUTS]

    def run(self, batch: Batch) -> Logits:
        """Run rows without padding."""
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        feed = {tensor.name: array for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)}
        start_logits, end_logits = self._session.run(self._outputs, feed)
        return start_logits, end_logits


def network_path(repository: Path, version: int, manifest: Manifest, *, model: str = contract.ENCODER) -> Path:
    """Give the file of one version's network, and check that it is the one that the manifest names.

    Args:
        repository: The repository's folder.
        version: The version.
        manifest: Its manifest.
        model: The encoder that has it.

    Raises:
        SpanqaError: It is not.
    """
    folder = repository / model / str(version)
    named = [file for file in NETWORK_FILES if f"{model}/{file}" in manifest.artefacts]
    if not named:  # manifests of version 1
        return folder / NETWORK_FILE
    path = folder / named[0]
    for file in (path, *weights_beside(path)):
        check_file(file, manifest.artefacts[f"{model}/{file.name}"], whole=True)
    return path


def load_network(path: Path, *, n_threads: int) -> CpuNetwork:
    """Load a network for runs of some threads each, in what its file is made for: ONNX Runtime or OpenVINO.

    Raises:
        SpanqaError: It is OpenVINO's, which is not installed or cannot load it.
    """
    if path.suffix == Path(OPENVINO_FILE).suffix:
        return OpenVinoNetwork(path, n_threads=n_threads)
    return OnnxNetwork(path, n_threads=n_threads)


def copies_for(file_bytes: int, n_cores: int) -> int:
    """Say how often to load a network for runs side by side, one core each; at least once.

    Runs of one ONNX Runtime session share its arena, and memory that one core has just written goes to another: two
    sessions took 5 % less CPU time than one (benchmarks/results).
    """
    return max(1, min(n_cores, COPIES_BYTES // max(1, file_bytes)))


def _copies_of(path: Path, n_cores: int) -> int:
    if path.suffix == Path(OPENVINO_FILE).suffix:  # which has memory for each of its streams
        return 1
    return copies_for(path.stat().st_size, n_cores)


class CpuEncoder:
    """A network for a window that comes alone on all cores, and again for windows side by side on one core each.

    One window a run, without its padding: on a CPU rows gain nothing from waiting for each other, and dynamic int8
    scales over all it is given, so that in a padded batch logits would depend on their neighbours.

    Args:
        path: The network's file.
    """

    def __init__(self, path: Path) -> None:
        self.n_cores = usable_cores()
        self._pool = ThreadPoolExecutor(self.n_cores)
        self._alone = load_network(path, n_threads=self.n_cores)
        self._beside = [self._alone]
        if self.n_cores > 1:
            copies = range(_copies_of(path, self.n_cores))
            self._beside = list(self._pool.map(lambda _: load_network(path, n_threads=1), copies))
        self._own = threading.local()
        self._turns = itertools.count()

    def run(self, window: Batch, *, alone: bool) -> Logits:
        """Run one window, `(1, length)` without padding.

        Args:
            window: The window.
            alone: Whether all cores are free for it.
        """
        return (self._alone if alone else self._network_of_thread()).run(window)

    def run_rows(self, batch: Batch) -> Logits:
        """Run the rows of a padded batch, side by side where there are several; padding gets zeros."""
        lengths = batch.attention_mask.sum(axis=1).tolist()
        start_logits = np.zeros(batch.attention_mask.shape, dtype=np.float32)
        end_logits = np.zeros(batch.attention_mask.shape, dtype=np.float32)
        alone = len(lengths) == 1

        def run(row: int) -> None:
            length = lengths[row]
            arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            input_ids, attention_mask, token_type_ids = (array[row : row + 1, :length] for array in arrays)
            window = Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            start_logits[row, :length], end_logits[row, :length] = self.run(window, alone=alone)

        if alone:
            run(0)
        else:
            list(self._pool.map(run, range(len(lengths))))
        return start_logits, end_logits

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _network_of_thread(self) -> CpuNetwork:
        """Always the same for one thread; of fewer networks than threads each serves several."""
        if not hasattr(self._own, "network"):
            self._own.network = self._beside[next(self._turns) % len(self._beside)]
        network: CpuNetwork = self._own.network
        return network
