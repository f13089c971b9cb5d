"""A fake Triton: a real gRPC server with its service, whose model finds the question's last word in the context."""

import asyncio
import importlib.util
import math
import struct
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from spanqa import contract
from spanqa_client.async_client import AsyncQAClient
from spanqa_client.client import QAClient

_SPEC = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(certificates)
MODEL = contract.QUESTION_ANSWERING
_DATA_TYPES = {
    "BYTES": model_config_pb2.TYPE_STRING,
    "INT32": model_config_pb2.TYPE_INT32,
    "FP32": model_config_pb2.TYPE_FP32,
    "BOOL": model_config_pb2.TYPE_BOOL,
}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers by the wire contract, unless its script holds something else for the next request.

    `script` holds (status code, details) pairs or callables that change a response; each request takes one.
    """

    def __init__(self, credentials=None):
        self.credentials = credentials
        self.metadata = []
        self.script = deque()
        self.threshold = 1.5
        self.version = "1"
        self.delay_s = self.live_delay_s = 0.0
        self.requests = []
        self.n_in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self.port = None
        self.start()

    def start(self):
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(64), options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port or 0}"
        if self.credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self.credentials)
        self._server.start()

    def stop(self):
        self._server.stop(grace=None).wait()

    @property
    def url(self):
        return f"127.0.0.1:{self.port}"

    def ModelInfer(self, request, context):
        with self._lock:
            self.n_in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.n_in_flight)
            inputs = {i.name: raw for i, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
            self.requests.append(inputs)
            self.metadata.append(dict(context.invocation_metadata()))
            unknown = request.model_name != MODEL
            step = self.script.popleft() if self.script else None
        try:
            time.sleep(self.delay_s)
            if unknown:
                context.abort(
                    grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}' is not found"
                )
            if isinstance(step, tuple):
                context.abort(*step)
            response = response_from_inputs(inputs, self.threshold)
            response.model_version = self.version
            response.id = request.id
            if step:
                step(response)
            return response
        finally:
            with self._lock:
                self.n_in_flight -= 1

    def ModelConfig(self, request, context):
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=8, backend="python", platform="python")
        for tensor in contract.INPUTS:
            config.input.add(
                name=tensor.name, data_type=_DATA_TYPES[tensor.dtype], dims=tensor.dims, optional=tensor.optional
            )
        for tensor in contract.OUTPUTS:
            config.output.add(name=tensor.name, data_type=_DATA_TYPES[tensor.dtype], dims=tensor.dims)
        return service_pb2.ModelConfigResponse(config=config)

    def ServerLive(self, request, context):
        time.sleep(self.live_delay_s)
        return service_pb2.ServerLiveResponse(live=True)

    # What perf_analyzer asks beside it.

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0", extensions=["statistics"])

    def ModelMetadata(self, request, context):
        if request.name != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        response = service_pb2.ModelMetadataResponse(name=MODEL, versions=[self.version], platform="python")
        for field, tensors in ((response.inputs, contract.INPUTS), (response.outputs, contract.OUTPUTS)):
            for tensor in tensors:
                field.add(name=tensor.name, datatype=tensor.dtype, shape=[-1, *tensor.dims])
        return response

    def ModelStatistics(self, request, context):
        response = service_pb2.ModelStatisticsResponse()
        statistics = response.model_stats.add(name=MODEL, version=self.version)
        statistics.inference_count = statistics.execution_count = len(self.requests)
        statistics.inference_stats.success.count = len(self.requests)
        return response


def text_from_raw(raw):
    (size,) = struct.unpack_from("<I", raw)
    assert len(raw) == 4 + size
    return raw[4:].decode()


def response_from_inputs(inputs, own_threshold):
    """Every occurrence of the question's last word is a span; without one the closest span is the first character."""
    needle = text_from_raw(inputs["QUESTION"]).split()[-1].rstrip("?")
    context = text_from_raw(inputs["CONTEXT"])
    (top_n,) = struct.unpack("<i", inputs["TOP_N"])
    (threshold,) = struct.unpack("<f", inputs["NO_ANSWER_THRESHOLD"])
    threshold = own_threshold if math.isnan(threshold) else threshold
    starts = [at for at in range(len(context)) if context.startswith(needle, at)]
    margin = -2.0 if starts else 2.0
    spans = [(at, at + len(needle)) for at in starts][:top_n] or [(0, 1)]
    texts = [context[start:end].encode() for start, end in spans]
    n_spans = len(spans)
    response = service_pb2.ModelInferResponse(model_name=MODEL)

    def add(tensor, shape, raw):
        response.outputs.add(name=tensor.name, datatype=tensor.dtype, shape=shape)
        response.raw_output_contents.append(raw)

    add(contract.ANSWER, [1, n_spans], b"".join(struct.pack("<I", len(text)) + text for text in texts))
    add(contract.SCORE, [1, n_spans], struct.pack(f"<{n_spans}f", *(0.5**rank for rank in range(1, n_spans + 1))))
    add(contract.CHAR_START, [1, n_spans], struct.pack(f"<{n_spans}i", *(start for start, _ in spans)))
    add(contract.CHAR_END, [1, n_spans], struct.pack(f"<{n_spans}i", *(end for _, end in spans)))
    add(contract.LOGIT, [1, n_spans], struct.pack(f"<{n_spans}f", *(8.0 - rank for rank in range(n_spans))))
    add(contract.NO_ANSWER_MARGIN, [1, 1], struct.pack("<f", margin))
    add(contract.HAS_ANSWER, [1, 1], struct.pack("<?", margin <= threshold))
    add(contract.QUESTION_TRUNCATED, [1, 1], struct.pack("<?", False))
    add(contract.NO_ANSWER_SCORE, [1, 1], struct.pack("<f", 0.375))
    return response


@pytest.fixture
def triton():
    server = FakeTriton()
    yield server
    server.stop()


@pytest.fixture
def start_triton():
    """Starts fakes, and stops them in the end."""
    servers = []

    def start(credentials=None):
        servers.append(FakeTriton(credentials))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


class AwaitedClient:
    """An AsyncQAClient in a loop of its own, called as a QAClient is: what holds for one face is held for the other."""

    def __init__(self, *arguments, **options):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncQAClient(*arguments, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def ask_many(self, items, **options):
        async def collected():
            return [outcome async for outcome in self._client.ask_many(items, **options)]

        return self._loop.run_until_complete(collected())

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._loop.run_until_complete(method(*arguments, **options))


@pytest.fixture(params=[QAClient, AwaitedClient], ids=["sync", "asyncio"])
def face(request):
    """The class of a client: each face in its turn."""
    return request.param


@pytest.fixture(scope="session")
def authority_class():
    """What makes certificates; a file of its own, since tests cannot import each other."""
    return certificates.Authority


@pytest.fixture
def data():
    return Path(__file__).parents[1] / "data" / "squad"


def _read_rows(servicer, margins):
    """Lets the fake answer a request of several rows, with the margin that each context begins with."""

    def infer(request, _context):
        texts = []
        for raw in request.raw_input_contents[-2:]:
            found, at = [], 0
            while at < len(raw):
                (size,) = struct.unpack_from("<I", raw, at)
                found.append(raw[at + 4 : at + 4 + size].decode())
                at += 4 + size
            texts.append(found)
        servicer.requests.append(texts)
        contexts = texts[1]
        n_rows = len(contexts)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        margin = [margins(context) for context in contexts]
        words = [context.split()[0].encode() for context in contexts]
        columns = {
            contract.ANSWER: b"".join(struct.pack("<I", len(word)) + word for word in words),
            contract.SCORE: struct.pack(f"<{n_rows}f", *[0.5] * n_rows),
            contract.CHAR_START: struct.pack(f"<{n_rows}i", *[0] * n_rows),
            contract.CHAR_END: struct.pack(f"<{n_rows}i", *map(len, words)),
            contract.LOGIT: struct.pack(f"<{n_rows}f", *[5.0] * n_rows),
            contract.NO_ANSWER_MARGIN: struct.pack(f"<{n_rows}f", *margin),
            contract.HAS_ANSWER: struct.pack(f"<{n_rows}?", *[value <= 0 for value in margin]),
            contract.QUESTION_TRUNCATED: struct.pack(f"<{n_rows}?", *[False] * n_rows),
        }
        for tensor, raw in columns.items():
            response.outputs.add(name=tensor.name, datatype=tensor.dtype, shape=[n_rows, 1])
            response.raw_output_contents.append(raw)
        return response

    servicer.ModelInfer = infer


@pytest.fixture
def ranking(triton):
    """A fake whose margin for a context is the number that it begins with."""
    triton.stop()
    _read_rows(triton, lambda context: float(context.split()[0]))
    triton.start()
    return triton
