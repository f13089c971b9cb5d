"""The network on CPU: ONNX Runtime, one unpadded window a run, all cores used."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from spanqa import contract
from spanqa.guard import guarded
from spanqa.manifest import load_manifest
from spanqa.startup import check_file

NETWORK_FILE = "network.onnx"


def _session(path: Path, n_threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take the cores from the other stages.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """Runs windows side by side, one core each; a window that comes alone gets all cores.

    One window a run, without its padding: on a CPU rows gain nothing from waiting for each other, and dynamic int8
    scales over all it is given, so that in a padded batch logits would depend on their neighbours.
    """

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the network beside this file, which must be the one that the manifest names."""
        folder = Path(args["model_repository"])
        path = folder / args["model_version"] / NETWORK_FILE
        manifest = load_manifest(folder.parent / contract.QUESTION_ANSWERING / args["model_version"])
        artefact = manifest.artefacts.get(f"{folder.name}/{NETWORK_FILE}")
        if artefact:  # none in manifests of version 1
            check_file(path, artefact, whole=True)
        n_cores = len(os.sched_getaffinity(0))
        self._alone = _session(path, n_cores)
        self._beside = _session(path, 1) if n_cores > 1 else self._alone
        self._pool = ThreadPoolExecutor(n_cores)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request for itself."""
        return [guarded(pb_utils, self._logits, request) for request in requests]

    def finalize(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _logits(self, request: Any) -> list[Any]:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        rows = [inputs[tensor.name] for tensor in contract.ENCODER_INPUTS]
        mask = rows[contract.ENCODER_INPUTS.index(contract.ATTENTION_MASK)]
        lengths = mask.sum(axis=1).tolist()
        session = self._alone if len(lengths) == 1 else self._beside
        start_logits = np.zeros(mask.shape, dtype=np.float32)
        end_logits = np.zeros(mask.shape, dtype=np.float32)

        def run(row: int) -> None:
            feed: dict[str, NDArray[np.int32]] = {
                tensor.name: array[row : row + 1, : lengths[row]]
                for tensor, array in zip(contract.ENCODER_INPUTS, rows, strict=True)
            }
            start_logits[row, : lengths[row]], end_logits[row, : lengths[row]] = session.run(
                [tensor.name for tensor in contract.ENCODER_OUTPUTS], feed
            )

        if len(lengths) == 1:
            run(0)
        else:
            list(self._pool.map(run, range(len(lengths))))
        return [
            pb_utils.Tensor(contract.START_LOGITS.name, start_logits),
            pb_utils.Tensor(contract.END_LOGITS.name, end_logits),
        ]
