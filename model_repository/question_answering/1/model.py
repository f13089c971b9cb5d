"""The main entry: questions about texts of any length, their windows routed one by one to the network."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from spanqa import contract
from spanqa.answering import Answering
from spanqa.cpu_network import CpuEncoder, Logits, network_path
from spanqa.guard import EncoderError, error_response, is_outage
from spanqa.limits import Limits, limits_from_config
from spanqa.manifest import Manifest, load_served_tokenizer
from spanqa.memory import has_shared_memory
from spanqa.schedule import Call
from spanqa.startup import check_served
from spanqa.telemetry import Telemetry
from spanqa.windows import Batch
from spanqa.wire import Question, read_questions

MICROSECONDS = 1e6
ROOM_BYTES = 8 << 20
"""Shared memory beside an answer's own that is enough for it: Triton takes a megabyte at a time."""


class TritonPythonModel:
    """Hands requests to the workers and returns: each is answered by its response sender when it is done."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the manifest and the tokenizer beside this file, and check all that will be served."""
        # A text is tokenised in a millisecond: on all cores it would only take them from the network.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder, self._version = Path(args["model_repository"]), int(args["model_version"])
        self._manifest, tokenizer = load_served_tokenizer(folder / str(self._version))
        check_served(folder.parent, self._version, self._manifest)
        self._limits = limits_from_config(args["model_config"], self._manifest)
        packing, n_workers = self._manifest.packing, self._manifest.packing.calls_in_flight
        self._local: CpuEncoder | None = None
        if self._manifest.engine is None and not packing.buckets:
            # On a CPU a trip to another process costs more than it brings: the network runs in this one.
            self._local = CpuEncoder(network_path(folder.parent, self._version, self._manifest))
            packing, n_workers = replace(packing, rows_per_call=1), self._local.n_cores
        self._telemetry = Telemetry(pb_utils, args["model_name"], self._version)
        self._answering = Answering(
            self._manifest,
            tokenizer,
            self._limits,
            self._encode,
            packing=packing,
            n_workers=n_workers,
            telemetry=self._telemetry,
        )

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in; a fault of one is its own."""
        self._answering.take_in([_Request(request, self._manifest, self._limits) for request in requests])

    def finalize(self) -> None:
        """Answer what was accepted, and end the threads."""
        self._answering.close()
        self._telemetry.close()
        if self._local:
            self._local.close()

    def _encode(self, batch: Batch, call: Call) -> Logits:
        if self._local:
            return self._local.run(batch, alone=call.is_alone)
        model = call.bucket.model if call.bucket else contract.ENCODER
        return _asked(model, self._version, batch)


class _Request:
    """One request and the way to answer it.

    Triton's request is let go of once it is read: its tensors take shared memory as long as anybody holds it.
    """

    def __init__(self, request: Any, manifest: Manifest, limits: Limits) -> None:
        self._request, self._sender, self._id = request, request.get_response_sender(), str(request.request_id())
        self._manifest, self._limits = manifest, limits
        self.timeout_s = (request.timeout() or float("inf")) / MICROSECONDS

    def read(self) -> list[Question]:
        """Read its rows."""
        request, self._request = self._request, None
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return read_questions(inputs, self._manifest, self._limits.max_context_bytes)

    def is_cancelled(self) -> bool:
        """Ask Triton whether its sender has given up."""
        return bool(self._sender.is_cancelled())

    def respond(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Answer it."""
        made = [pb_utils.Tensor(name, array) for name, array in tensors.items()]
        n_bytes = sum(array.nbytes for array in tensors.values())
        n_bytes += sum(len(text) for array in tensors.values() if array.dtype == object for text in array.flat)
        self._send(pb_utils.InferenceResponse(output_tensors=made), n_bytes)

    def refuse(self, error: Exception) -> None:
        """Answer it with an error."""
        self._send(error_response(pb_utils, error, self._id))

    def _send(self, response: Any, n_bytes: int = 0) -> None:
        last = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if has_shared_memory(n_bytes + ROOM_BYTES):
            self._sender.send(response, flags=last)
            return
        # A last response closes the sender before it asks for shared memory: where it gets none, nothing more can be
        # sent, and whoever asked waits for ever. Not done always: a model of a user's that asks this one takes the
        # second message for a second answer.
        try:
            self._sender.send(response)
        finally:
            self._sender.send(flags=last)


def _asked(model: str, version: int, batch: Batch) -> Logits:
    """Have an encoder of the same build answer: while a new version is rolled in, both are there."""
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    request = pb_utils.InferenceRequest(
        model_name=model,
        model_version=version,
        requested_output_names=[tensor.name for tensor in contract.ENCODER_OUTPUTS],
        inputs=[
            pb_utils.Tensor(tensor.name, array) for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)
        ],
        # In a Triton built for GPUs the answer would stay in the GPU's memory, where numpy cannot read it.
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        message = response.error().message()
        raise EncoderError(message, outage=is_outage(message))
    start_logits, end_logits = (
        pb_utils.get_output_tensor_by_name(response, tensor.name) for tensor in contract.ENCODER_OUTPUTS
    )
    if not (start_logits.is_cpu() and end_logits.is_cpu()):
        raise EncoderError(
            f"{model} left its logits in GPU memory though CPU memory was asked for: serve with the release of "
            "Triton that the repository's target names",
            outage=False,
        )
    return start_logits.as_numpy(), end_logits.as_numpy()
