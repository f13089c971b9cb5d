"""The network in torch, for one length of window: as CUDA graphs on a GPU, plainly on a CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from spanqa import contract
from spanqa.errors import SettingsError
from spanqa.guard import guarded_together
from spanqa.manifest import load_manifest
from spanqa.startup import check_file
from spanqa.windows import Batch
from spanqa_training.inference.fixed_length import WEIGHTS_FILE, network_from_file


class TritonPythonModel:
    """Runs the requests that Triton hands over together as one batch."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the weights beside this file, which must be those that the manifest names, and record the network."""
        folder = Path(args["model_repository"])
        self._name = folder.name
        manifest = load_manifest(folder.parent / contract.QUESTION_ANSWERING / args["model_version"])
        path = folder / args["model_version"] / WEIGHTS_FILE
        engine = manifest.engine
        bucket = next((bucket for bucket in manifest.packing.buckets if bucket.model == folder.name), None)
        artefact = manifest.artefacts.get(f"{folder.name}/{WEIGHTS_FILE}")
        if engine is None or bucket is None or artefact is None:
            raise SettingsError(f"{folder.name} is not in the manifest of this version: build the repository again")
        check_file(path, artefact, whole=True)
        # Triton counts the GPUs that it sees, and torch sees the same.
        self._on_gpu = engine.device == "cuda"
        device = f"cuda:{args['model_instance_device_id']}" if self._on_gpu else engine.device
        self._network = network_from_file(
            path,
            manifest.encoder["architecture"],
            device=device,
            dtype=engine.dtype,
            length=bucket.length,
            sizes=engine.graph_rows,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; where they fail together, each for itself."""
        return guarded_together(pb_utils, self._logits, requests)

    def _logits(self, requests: Sequence[Any]) -> list[list[Any]]:
        inputs = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        input_ids, attention_mask, token_type_ids = (
            np.concatenate([one[tensor.name] for one in inputs]) for tensor in contract.ENCODER_INPUTS
        )
        batch = Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        try:
            start_logits, end_logits = self._network(batch)
        except RuntimeError as error:  # torch's: after an error of CUDA's each later call of the process fails too
            if self._on_gpu:
                self._end(error)
            raise
        ends = np.cumsum([len(one[contract.INPUT_IDS.name]) for one in inputs])[:-1]
        # In the CPU's memory, where the main entry reads them.
        return [
            [pb_utils.Tensor(contract.START_LOGITS.name, start), pb_utils.Tensor(contract.END_LOGITS.name, end)]
            for start, end in zip(np.split(start_logits, ends), np.split(end_logits, ends), strict=True)
        ]

    def _end(self, error: RuntimeError) -> None:
        """End this process, so that the supervisor loads the model again in one whose CUDA is whole."""
        reason = " ".join(str(error).split())[:200]
        print(f"spanqa: {self._name} failed on the GPU: {reason}: its process ends", file=sys.stderr, flush=True)
        os._exit(1)
