"""The network on a CPU as a model of its own: the ensemble's second stage, beside which its statistics are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from spanqa import contract
from spanqa.cpu_network import CpuEncoder, network_path
from spanqa.guard import guarded
from spanqa.manifest import load_manifest
from spanqa.windows import Batch


class TritonPythonModel:
    """Runs windows side by side, one core each; a window that comes alone gets all cores."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the network beside this file, which must be the one that the manifest names."""
        folder, version = Path(args["model_repository"]), args["model_version"]
        manifest = load_manifest(folder.parent / contract.QUESTION_ANSWERING / version)
        self._encoder = CpuEncoder(network_path(folder.parent, int(version), manifest, model=folder.name))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request for itself."""
        return [guarded(pb_utils, self._logits, request) for request in requests]

    def finalize(self) -> None:
        """End the threads."""
        self._encoder.close()

    def _logits(self, request: Any) -> list[Any]:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        input_ids, attention_mask, token_type_ids = (inputs[tensor.name] for tensor in contract.ENCODER_INPUTS)
        batch = Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        logits = self._encoder.run_rows(batch)
        return [
            pb_utils.Tensor(tensor.name, array) for tensor, array in zip(contract.ENCODER_OUTPUTS, logits, strict=True)
        ]
