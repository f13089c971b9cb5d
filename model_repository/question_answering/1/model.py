"""The main entry: questions about texts of any length, routed window by window to the encoder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from spanqa import contract
from spanqa.errors import InputError
from spanqa.guard import CancelledError, EncoderError, error_response, is_outage
from spanqa.manifest import Manifest, load_served_tokenizer
from spanqa.memory import release_free_memory
from spanqa.routing import Call, Logits, packed_calls
from spanqa.startup import check_served
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, Windows
from spanqa.wire import Question, decode_question, named_row, read_questions, response_tensors

MANY_WINDOWS = 128
"""Windows of a batch from which on its memory is worth giving back: it takes milliseconds, their encoding seconds."""


class TritonPythonModel:
    """Takes a batch of requests: windows of all of them are packed together, every request is answered for itself."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the manifest and the tokenizer beside this file, and check all that will be served."""
        folder = Path(args["model_repository"])
        self._version = int(args["model_version"])
        self._manifest, tokenizer = load_served_tokenizer(folder / str(self._version))
        check_served(folder.parent, self._version, self._manifest)
        self._maker = WindowMaker(tokenizer, self._manifest.windows)
        self._pool = ThreadPoolExecutor(self._manifest.packing.calls_in_flight)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests, in order; a fault of one is its own."""
        jobs = [_Job(request) for request in requests]
        for job in jobs:
            job.guard(lambda job=job: job.read(self._manifest))
        pieces: dict[str, Pieces] = {}
        texts = [text for job in jobs for row in job.rows for text in (row.question, row.context)]
        try:
            pieces = self._maker.pieces(texts)
        except Exception as error:  # not seen with valid UTF-8; were it to happen, no request may hang for it
            for job in jobs:
                job.fail(error)
        for job in jobs:
            job.guard(lambda job=job: job.cut(self._maker, pieces))
        sound = [job for job in jobs if job.error is None]
        if sound:
            self._route(sound)
        for job in sound:
            job.guard(lambda job=job: job.answer(self._manifest))
        responses = [job.response() for job in jobs]
        if sum(len(windows) for job in jobs for windows in job.windows) > MANY_WINDOWS:
            jobs.clear()
            sound.clear()
            pieces.clear()
            texts.clear()
            release_free_memory()
        return responses

    def finalize(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _route(self, jobs: list[_Job]) -> None:
        """Run the windows of all jobs through the encoder; a failing call fails the jobs with windows in it."""
        owners = [(job, row) for job in jobs for row in range(len(job.windows))]
        logits = Logits([job.windows[row] for job, row in owners])
        for place, (job, _) in enumerate(owners):
            job.places.append(place)
            job.logits = logits

        def run(call: Call) -> None:
            concerned = {id(owners[place][0]): owners[place][0] for place, _ in call.rows}.values()
            for job in concerned:
                job.guard(job.check_cancelled)
            if all(job.error for job in concerned):
                return
            try:
                _encode(logits, call, self._version)
            except Exception as error:  # every fault is told to whom it concerns
                for job in concerned:
                    job.fail(error)

        calls = packed_calls([job.windows[row] for job, row in owners], self._manifest.packing)
        if len(calls) == 1:
            run(calls[0])  # most often: no thread to wake, which a question asked alone would feel
        else:
            list(self._pool.map(run, calls))


class _Job:
    """One request on its way: its rows, their windows, and the first error that ended it."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.error: Exception | None = None
        self.rows: list[Question] = []
        self.windows: list[Windows] = []
        self.places: list[int] = []
        self.logits: Logits | None = None
        self._tensors: list[Any] = []

    def guard(self, step: Any) -> None:
        """Run a step unless an earlier one failed; keep its error."""
        if self.error is None:
            try:
                step()
            except Exception as error:  # every fault is told to whom it concerns
                self.error = error

    def fail(self, error: Exception) -> None:
        """Keep the first error."""
        self.error = self.error or error

    def check_cancelled(self) -> None:
        if self._request.is_cancelled():
            raise CancelledError("the request was cancelled by its sender")

    def read(self, manifest: Manifest) -> None:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in self._request.inputs()}
        self.rows = read_questions(inputs, manifest)

    def cut(self, maker: WindowMaker, pieces: dict[str, Pieces]) -> None:
        for row, question in enumerate(self.rows):
            try:
                self.windows.append(maker.cut(pieces[question.question], pieces[question.context]))
            except InputError as error:
                raise named_row(error, row, len(self.rows)) from error

    def answer(self, manifest: Manifest) -> None:
        decoded = []
        for row, (question, windows) in enumerate(zip(self.rows, self.windows, strict=True)):
            try:
                start, end = self.logits.of(self.places[row])  # type: ignore[union-attr]
                decoded.append(decode_question(windows, question.context, question.options, start, end, manifest))
            except InputError as error:
                raise named_row(error, row, len(self.rows)) from error
        tensors = response_tensors(
            decoded,
            [question.options.no_answer_threshold for question in self.rows],
            [windows.question_truncated for windows in self.windows],
        )
        self._tensors = [pb_utils.Tensor(name, array) for name, array in tensors.items()]

    def response(self) -> Any:
        if self.error is not None:
            return error_response(pb_utils, self.error)
        return pb_utils.InferenceResponse(output_tensors=self._tensors)


def _encode(logits: Logits, call: Call, version: int) -> None:
    """Have the encoder of the same build answer: while a new version is rolled in, both are there."""
    batch = logits.batch(call)
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    request = pb_utils.InferenceRequest(
        model_name=call.model,
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
    tensors = [pb_utils.get_output_tensor_by_name(response, tensor.name) for tensor in contract.ENCODER_OUTPUTS]
    if not all(tensor.is_cpu() for tensor in tensors):
        raise EncoderError(
            f"{call.model} left its logits in GPU memory though CPU memory was asked for: serve with the release of "
            "Triton that the repository's target names",
            outage=False,
        )
    logits.fill(call, *(tensor.as_numpy() for tensor in tensors))
