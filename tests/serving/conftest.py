"""Triton's module for Python models, faked: real tensors, requests and responses, and an encoder made of arithmetic."""

import importlib.util
import json
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import ModuleType

import numpy as np
import pytest

from spanqa import contract, cpu_network
from spanqa.guard import EncoderError, is_outage
from spanqa.manifest import Engine, Manifest, load_manifest, manifest_json
from spanqa.packing import Bucket, Packing
from spanqa.windows import WindowSettings


class Tensor:
    """A named array, as the backend's."""

    def __init__(self, name, array, *, on_gpu=False):
        self._on_gpu = on_gpu
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: Triton takes arrays, got {type(array)}")
        self._name, self._array = name, array

    def name(self):
        return self._name

    def is_cpu(self):
        return not self._on_gpu

    def as_numpy(self):
        if self._on_gpu:  # the backend's words
            raise RuntimeError("Tensor is stored in GPU and cannot be converted to NumPy.")
        return self._array


class PreferredMemory:
    """Where a caller wants an answer, as the backend's."""

    def __init__(self, preferred_memory_type, preferred_device_id=0):
        self.kind, self.device = preferred_memory_type, preferred_device_id


TRITONSERVER_MEMORY_CPU, TRITONSERVER_MEMORY_GPU = 0, 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
LONGEST_S = 20
"""What an answer may take before a test takes it for one that never comes."""


class TritonError:
    """An error with a code, as the backend's."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message, code=INTERNAL):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class InferenceResponse:
    """Tensors or an error, as the backend's."""

    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def arrays(self):
        """Arrays by name."""
        return {tensor.name(): tensor.as_numpy() for tensor in self._tensors}


class ResponseSender:
    """The way to answer one request from any thread, as the backend's: once, and then it is closed.

    Where there is no shared memory, what is sent is lost after the sender has taken note of it.
    """

    has_memory = True

    def __init__(self, cancelled):
        self.cancelled, self.arrived, self._is_closed, self._sent = cancelled, SimpleQueue(), False, []

    def is_cancelled(self):
        return self.cancelled

    def send(self, response=None, flags=0):
        if response is not None and self._sent:  # the backend's words
            raise RuntimeError("Unable to send response. Non-decoupled model cannot send more than one response.")
        if self._is_closed:
            raise RuntimeError("Unable to send response. Response sender has been closed.")
        self._is_closed = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._sent.append(response if self.has_memory else None)
        if self._is_closed and (response is None or self.has_memory):  # only then does anything reach who asked
            responses = [sent for sent in self._sent if sent is not None]
            alone = TritonError(f"expected a single response, got {len(responses)}")
            self.arrived.put(responses[0] if len(responses) == 1 else InferenceResponse(error=alone))
        if response is not None and not self.has_memory:
            raise RuntimeError("Failed to increase the shared memory pool size")

    def answer(self):
        """The one response that came, or comes; a test fails where none does."""
        try:
            return self.arrived.get(timeout=LONGEST_S)
        except Empty:
            pytest.fail(f"no answer within {LONGEST_S} s")


class InferenceRequest:
    """A request from outside, or, with a model's name, one to another model."""

    def __init__(
        self,
        inputs,
        model_name=None,
        requested_output_names=(),
        cancelled=False,
        model_version=-1,
        preferred_memory=None,
    ):
        self.version, self._memory, self._sender = model_version, preferred_memory, ResponseSender(cancelled)
        self._inputs, self._model, self._outputs = inputs, model_name, requested_output_names

    def inputs(self):
        return self._inputs

    def cancel(self):
        self._sender.cancelled = True

    def timeout(self):
        return 0

    def request_id(self):
        return ""

    def get_response_sender(self):
        return self._sender

    def answer(self):
        return self._sender.answer()

    def exec(self):
        encoder = sys.modules["triton_python_backend_utils"].encoder
        known = self._model in encoder.models and self.version == 1
        if not known or list(self._outputs) != ["start_logits", "end_logits"]:
            return InferenceResponse(error=TritonError(f"unknown model '{self._model}'", TritonError.NOT_FOUND))
        if refusal := encoder.refusal_of_shapes(self._model, self._inputs):
            return InferenceResponse(error=TritonError(refusal, TritonError.INVALID_ARG))
        response = encoder({tensor.name(): tensor.as_numpy() for tensor in self._inputs}, self._model)
        # As in a Triton built for GPUs: an answer stays where it was made unless CPU memory was asked for.
        asked_cpu = self._memory is not None and self._memory.kind == TRITONSERVER_MEMORY_CPU
        if asked_cpu and not encoder.keeps_on_gpu:
            return response
        return InferenceResponse(on_gpu(response.output_tensors()), response.error())


def on_gpu(tensors):
    """The tensors of an encoder on a GPU, where it leaves them."""
    return [Tensor(tensor.name(), tensor.as_numpy(), on_gpu=True) for tensor in tensors]


def delivered(tensors, config):
    """What an ensemble gives a Python model: all in CPU memory, unless its configuration asks otherwise."""
    asked = re.search(r'key: "FORCE_CPU_ONLY_INPUT_TENSORS"\s*value \{\s*string_value: "(\w+)"', config)
    if asked and asked[1] == "no":
        return list(tensors)
    return [Tensor(tensor.name(), tensor._array) for tensor in tensors]


class Encoder:
    """A network of arithmetic: a token's logits depend on its id, its place and the row's sum, never on other rows.

    `keeps_on_gpu` leaves its answers in the GPU's memory whatever is asked for.
    `models` are the names that it answers to, in version 1 alone, which is that of the models that ask it; `calls` are
    the shapes of its calls, `asked` what it was called then. `buckets` are what their configurations say, by name:
    other shapes are refused. `faults` holds messages: a call whose rows hold the token id of a key fails with that one.
    """

    def __init__(self):
        self.calls, self.faults, self.before_call = [], {}, None
        self.models, self.asked = {contract.ENCODER}, []
        self.keeps_on_gpu, self.buckets = False, {}
        self._lock = threading.Lock()

    def refusal_of_shapes(self, model, inputs):
        """The core's words for a batch or a length that the model's configuration does not have."""
        bucket = self.buckets.get(model)
        for rows, length in [tensor.as_numpy().shape for tensor in inputs] if bucket else []:
            if rows > bucket.max_rows:
                return f"inference request batch-size must be <= {bucket.max_rows} for '{model}'"
            if length != bucket.length:
                return f"unexpected shape for model '{model}'. Expected [-1,{bucket.length}], got [{rows},{length}]"
        return None

    def __call__(self, inputs, model=None):
        ids, mask, types = (inputs[tensor.name] for tensor in contract.ENCODER_INPUTS)
        for array in (ids, mask, types):
            if array.dtype != np.int32 or array.shape != ids.shape:
                return InferenceResponse(error=TritonError(f"unexpected {array.dtype} {array.shape}"))
        with self._lock:
            self.calls.append(ids.shape)
            self.asked.append(model)
        if self.before_call:
            self.before_call()
        for token, message in self.faults.items():
            if (ids == token).any():
                return InferenceResponse(error=TritonError(message))
        start, end = self.logits(ids, mask, types)
        return InferenceResponse([Tensor("start_logits", start), Tensor("end_logits", end)])

    def logits(self, ids, mask, types):
        """Start and end logits `float32 (rows, length)`; padding gets values that would win if anybody read them."""
        row = (ids * mask).sum(axis=1, keepdims=True)
        places = np.arange(ids.shape[1])
        start = 4 * np.sin(ids * 0.7 + places * 0.13 + row) + types
        end = 4 * np.cos(ids * 0.3 - places * 0.29 + row) + types
        return (np.where(mask, start, 1000.0).astype(np.float32), np.where(mask, end, 1000.0).astype(np.float32))

    @contextmanager
    def held(self, n_calls):
        """Hold the next calls until the end of the block, which is given what comes back when one more is held."""
        waiting, free = SimpleQueue(), threading.Event()
        n_free = iter(range(n_calls))

        def wait():
            if next(n_free, None) is not None:
                waiting.put(None)
                assert free.wait(LONGEST_S)

        self.before_call = wait
        try:
            yield lambda: waiting.get(timeout=LONGEST_S)
        finally:
            free.set()
            self.before_call = None


class ArithmeticNetwork:
    """The encoder of arithmetic in the process that asks it, in place of ONNX Runtime's."""

    def __init__(self, encoder):
        self._encoder = encoder

    def run(self, batch):
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        named = {tensor.name: array for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)}
        response = self._encoder(named)
        if response.has_error():
            message = response.error().message()
            raise EncoderError(message, outage=is_outage(message))
        made = response.arrays()
        return tuple(made[tensor.name] for tensor in contract.ENCODER_OUTPUTS)


@pytest.fixture
def pb_utils(monkeypatch):
    """The faked module, where models import it from."""
    module = ModuleType("triton_python_backend_utils")
    for kind in (Tensor, TritonError, PreferredMemory, InferenceResponse, InferenceRequest):
        setattr(module, kind.__name__, kind)
    module.TRITONSERVER_MEMORY_CPU = TRITONSERVER_MEMORY_CPU
    module.TRITONSERVER_MEMORY_GPU = TRITONSERVER_MEMORY_GPU
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = TRITONSERVER_RESPONSE_COMPLETE_FINAL

    def get_output_tensor_by_name(response, name):
        return next((tensor for tensor in response.output_tensors() if tensor.name() == name), None)

    module.get_output_tensor_by_name = get_output_tensor_by_name
    module.encoder = Encoder()
    load_real = cpu_network.load_network

    def load_network(path, *, n_threads):
        return load_real(path, n_threads=n_threads) if path.exists() else ArithmeticNetwork(module.encoder)

    monkeypatch.setattr(cpu_network, "load_network", load_network)
    monkeypatch.setattr(cpu_network, "_copies_of", lambda path, n_cores: n_cores)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


MANIFEST = {
    "windows": WindowSettings(max_seq_length=32, doc_stride=8, max_query_length=8),
    "packing": Packing(rows_per_call=4, tokens_per_call=96, calls_in_flight=2),
}
LIMITS = {"max_context_bytes": 4000}


@pytest.fixture
def repository(tmp_path, tokenizer):
    """A repository's settings and tokenizer at their one place: small windows, so that short texts need several."""
    folder = tmp_path / contract.QUESTION_ANSWERING / "1"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tokenizer.serialized, encoding="utf-8")
    manifest = Manifest(tokenizer_sha256=tokenizer.sha256, **MANIFEST)
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
    return tmp_path


@pytest.fixture
def on_a_gpu(repository):
    """Has Triton run the repository's one encoder, of which the main entry then asks several rows at once."""
    folder = repository / contract.QUESTION_ANSWERING / "1"
    manifest = replace(load_manifest(folder), engine=Engine(platform="tensorrt_plan"))
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")


BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=3) for length in (12, 20, 32))


@pytest.fixture
def in_buckets(repository, pb_utils):
    """Gives the repository encoders of three lengths."""
    folder = repository / contract.QUESTION_ANSWERING / "1"
    manifest = replace(load_manifest(folder), packing=Packing(buckets=BUCKETS))
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
    pb_utils.encoder.buckets = {bucket.model: bucket for bucket in BUCKETS}
    pb_utils.encoder.models = set(pb_utils.encoder.buckets)
    return BUCKETS


@pytest.fixture
def model(pb_utils, repository, root):
    """Loads and initializes the model.py of a model, as the backend does."""
    loaded = []

    def load(name, **limits):
        path = root / "model_repository" / name / "1" / "model.py"
        spec = importlib.util.spec_from_file_location(f"served_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        instance = module.TritonPythonModel()
        parameters = {key: {"string_value": str(value)} for key, value in (LIMITS | limits).items()}
        instance.initialize(
            {
                "model_repository": str(repository / name),
                "model_version": "1",
                "model_name": name,
                "model_config": json.dumps({"name": name, "parameters": parameters}),
            }
        )
        loaded.append(instance)
        return instance

    yield load
    for instance in loaded:
        if hasattr(instance, "finalize"):
            finalized(instance)


def finalized(instance):
    """Unload a model; a test fails where that never ends."""
    ending = threading.Thread(target=instance.finalize, daemon=True)
    ending.start()
    ending.join(LONGEST_S)
    assert not ending.is_alive(), f"finalize did not return within {LONGEST_S} s"


@pytest.fixture
def main_entry(model):
    """Loads the main entry, and gives what sends it requests, as one batch, and waits for the response of each."""

    def load(**limits):
        main = model(contract.QUESTION_ANSWERING, **limits)

        def send(*requests):
            assert main.execute(list(requests)) is None
            return [request.answer() for request in requests]

        send.only = lambda *requests: main.execute(list(requests))
        return send

    return load


@pytest.fixture
def after_encoder(pb_utils, root):
    """Makes postprocess's request as the ensemble does, from the first stage's answer and an encoder on a GPU."""

    def make(request, first, config=None):
        made = {tensor.name(): tensor.as_numpy() for tensor in first.output_tensors()}
        encoded = pb_utils.encoder({tensor.name: made[tensor.name] for tensor in contract.ENCODER_INPUTS})
        passed = [tensor for tensor in request.inputs() if tensor.name() != contract.QUESTION.name]
        kept = {tensor.name for tensor in contract.STAGE_TENSORS}
        staged = [tensor for tensor in first.output_tensors() if tensor.name() in kept]
        shipped = (root / "model_repository" / contract.POSTPROCESS / "config.pbtxt").read_text(encoding="utf-8")
        inputs = [*passed, *staged, *on_gpu(encoded.output_tensors())]
        return pb_utils.InferenceRequest(delivered(inputs, config or shipped))

    return make


@pytest.fixture
def request_of(pb_utils):
    """Makes a request from rows of (question, context) and options."""
    dtypes = {"TOP_N": np.int32, "NO_ANSWER_THRESHOLD": np.float32, "MAX_ANSWER_TOKENS": np.int32}
    dtypes["DISTINCT"] = np.bool_

    def make(*rows, cancelled=False, **options):
        arrays = {
            "QUESTION": np.array([[_bytes(question)] for question, _ in rows], dtype=np.object_),
            "CONTEXT": np.array([[_bytes(context)] for _, context in rows], dtype=np.object_),
            **{name: np.array([[v] for v in values], dtype=dtypes[name]) for name, values in options.items()},
        }
        return pb_utils.InferenceRequest([Tensor(*item) for item in arrays.items()], cancelled=cancelled)

    return make


def _bytes(text):
    return text.encode() if isinstance(text, str) else text
