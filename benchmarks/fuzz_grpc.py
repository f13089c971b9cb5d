"""Fuzzed inputs over gRPC: requests with anything for an input, and bytes that are no request."""

from __future__ import annotations

import random
import struct
import threading
from functools import lru_cache
from typing import Any

import grpc
from fuzz_probe import DEADLINE_S, Ended, Probe, Target, fault_of
from fuzz_texts import bytes_of_text, mutated, text_of
from tritonclient.grpc import service_pb2

from spanqa import contract

DTYPES = (
    *("BYTES", "INT32", "FP32", "BOOL", "INT8", "INT16", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16"),
    *("FP64", "BF16", "", "TEXT", "bytes", "STRING"),
)
SIZES = {"BYTES": 0, "INT64": 8, "UINT64": 8, "FP64": 8, "INT32": 4, "UINT32": 4, "FP32": 4, "INT16": 2, "FP16": 2}
SERVICE = "/inference.GRPCInferenceService/"
METHODS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus"),
    *("SystemSharedMemoryRegister", "TraceSetting", "LogSettings", "Nothing"),
)
NAMES = tuple(tensor.name for tensor in contract.INPUTS)


@lru_cache(maxsize=4)
def channel_of(url: str, thread: int) -> grpc.Channel:
    """Give a thread's channel to a server."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    return grpc.insecure_channel(url, options=[*options, ("spanqa.thread", thread)])


def _call(target: Target, method: str, content: bytes, *, may_be_cut_off: bool = True) -> tuple[bytes, Ended]:
    channel = channel_of(target.grpc_url, threading.get_ident() % 4)
    try:
        answer = channel.unary_unary(SERVICE + method)(content, timeout=DEADLINE_S)
        return answer, Ended(how="OK")
    except grpc.RpcError as error:
        code, says = error.code().name, error.details() or ""
        if code == "DEADLINE_EXCEEDED":
            return b"", Ended(how=code, fault=f"no end within {DEADLINE_S:g} s")
        # gRPC itself says nothing to whoever calls a method that is not there.
        if "incomplete string" in says and not may_be_cut_off:
            return b"", Ended(how=code, fault=f"refused for another sender's text: {says}")
        return b"", Ended(how=code, fault="" if code == "UNIMPLEMENTED" else fault_of(says))


def texts_tensor(*texts: bytes) -> bytes:
    """Give texts as the raw content of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def plain_request(rng: random.Random, entry: str, question: bytes, context: bytes) -> service_pb2.ModelInferRequest:
    """Make a sound request of one row, with some options in their range."""
    request = service_pb2.ModelInferRequest(model_name=entry)
    options: dict[str, tuple[str, bytes]] = {
        "TOP_N": ("INT32", struct.pack("<i", rng.randint(1, contract.MAX_TOP_N))),
        "NO_ANSWER_THRESHOLD": ("FP32", struct.pack("<f", rng.choice([0.0, -3.0, 1e30, float("inf"), float("nan")]))),
        "MAX_ANSWER_TOKENS": ("INT32", struct.pack("<i", rng.choice([0, 1, 30, 10_000, 2**31 - 1]))),
        "DISTINCT": ("BOOL", bytes([rng.randrange(2)])),
    }
    sent = {"QUESTION": ("BYTES", texts_tensor(question)), "CONTEXT": ("BYTES", texts_tensor(context))}
    sent |= {name: value for name, value in options.items() if rng.random() < 0.5}
    for name, (dtype, raw) in sent.items():
        request.inputs.add(name=name, datatype=dtype, shape=[1, 1])
        request.raw_input_contents.append(raw)
    return request


def _judged(answer: bytes, context: bytes) -> str:
    """Say whether the spans of an answer are slices of its context."""
    response = service_pb2.ModelInferResponse.FromString(answer)
    raw = {output.name: content for output, content in zip(response.outputs, response.raw_output_contents)}  # noqa: B905 (a missing one shows)
    if not raw.keys() >= {tensor.name for tensor in contract.OUTPUTS}:
        return f"an answer with the outputs {sorted(raw)} alone"
    starts, ends = (struct.unpack(f"<{len(raw[name]) // 4}i", raw[name]) for name in ("CHAR_START", "CHAR_END"))
    text, at = context.decode(), 0
    for start, end in zip(starts, ends, strict=True):
        (size,) = struct.unpack_from("<I", raw["ANSWER"], at)
        said = raw["ANSWER"][at + 4 : at + 4 + size].decode()
        at += 4 + size
        if said != (text[start:end] if start >= 0 else ""):
            return f"the answer {said!r} is not the slice {start}..{end} of its context"
    return ""


def texts(rng: random.Random, target: Target) -> Ended:
    """A sound request with any texts."""
    entry = rng.choice([contract.QUESTION_ANSWERING, contract.QUESTION_ANSWERING, contract.ENSEMBLE])
    question, context = bytes_of_text(rng) if rng.random() < 0.3 else text_of(rng, 60).encode(), bytes_of_text(rng)
    content = plain_request(rng, entry, question, context).SerializeToString()
    answer, ended = _call(target, "ModelInfer", content, may_be_cut_off=False)
    if ended.how == "OK":
        return Ended(how="OK", fault=_judged(answer, context))
    if not ended.fault and ended.how not in ("INVALID_ARGUMENT", "UNAVAILABLE"):
        return Ended(how=ended.how, fault=f"texts alone gave {ended.how}")
    return ended


def _content(rng: random.Random, dtype: str, n_elements: int) -> bytes:
    if dtype == "BYTES":
        raw = texts_tensor(*[text_of(rng, rng.randrange(60)).encode() for _ in range(max(0, n_elements))])
    else:
        raw = rng.randbytes(max(0, n_elements) * (SIZES.get(dtype) or 1))
    return raw if rng.random() < 0.6 else mutated(rng, raw)


def _shape(rng: random.Random) -> list[int]:
    sizes = [0, 1, 1, 1, 2, 3, 31, 32, 33, 1000, -1, 2**31, 2**62]
    return [1, 1] if rng.random() < 0.4 else [rng.choice(sizes) for _ in range(rng.randrange(4))]


def inputs(rng: random.Random, target: Target) -> Ended:
    """A request with any datatypes, shapes and contents, inputs missing, twice or unknown, and odd parameters."""
    request = service_pb2.ModelInferRequest(model_name=rng.choice([contract.QUESTION_ANSWERING, *contract.MODELS]))
    rows = rng.choice([1, 1, 1, 2, 5, 32, 33])
    names = [name for name in NAMES if rng.random() < 0.85]
    names += rng.choices([*NAMES, "LANGUAGE", "", "input_ids"], k=rng.choice([0, 0, 0, 1, 2]))
    for name in names:
        right = next((tensor.dtype for tensor in contract.INPUTS if tensor.name == name), "BYTES")
        dtype = right if rng.random() < 0.75 else rng.choice(DTYPES)
        shape = [rows, 1] if rng.random() < 0.75 else _shape(rng)
        n_elements = min(1000, max(0, shape[0] * shape[1])) if len(shape) > 1 else 1
        tensor = request.inputs.add(name=name, datatype=dtype, shape=shape)
        if rng.random() < 0.95:
            request.raw_input_contents.append(_content(rng, dtype, n_elements))
        else:
            tensor.contents.bytes_contents.extend([text_of(rng, 20).encode()] * rng.randrange(3))
        if rng.random() < 0.03:
            tensor.parameters["shared_memory_region"].string_param = "none"
            tensor.parameters["shared_memory_byte_size"].int64_param = rng.choice([0, 8, -1, 2**40])
    _decorate(rng, request)
    return _call(target, "ModelInfer", request.SerializeToString())[1]


def _decorate(rng: random.Random, request: Any) -> None:
    """Add what requests may carry beside inputs."""
    for name in rng.choices([*(tensor.name for tensor in contract.OUTPUTS), "NONE", ""], k=rng.choice([0, 0, 0, 1, 8])):
        request.outputs.add(name=name)
    if rng.random() < 0.1:
        request.model_version = rng.choice(["1", "7", "-1", "one", str(2**63), "\0"])
    if rng.random() < 0.1:
        request.id = text_of(rng, rng.choice([1, 100, 10_000]))
    for name in ("sequence_id", "sequence_start", "priority", "timeout", "headers", "any"):
        if rng.random() < 0.03:
            parameter = request.parameters[name]
            kind = rng.randrange(3)
            if kind == 0:
                parameter.int64_param = rng.choice([0, 1, -1, 1000, 2**63 - 1])
            elif kind == 1:
                parameter.string_param = text_of(rng, 30)
            else:
                parameter.bool_param = rng.random() < 0.5


def cut_off(rng: random.Random, target: Target) -> Ended:
    """Texts whose length says more than there is, or less."""
    request = plain_request(
        rng, rng.choice([contract.QUESTION_ANSWERING, contract.ENSEMBLE]), b"Who?", b"Bob leads it."
    )
    place = rng.randrange(2)
    text = text_of(rng, rng.randrange(200)).encode()
    request.raw_input_contents[place] = struct.pack("<I", rng.choice([0, 1, 100, 1000, 2**31, 2**32 - 1])) + text
    return _call(target, "ModelInfer", request.SerializeToString())[1]


def protobuf(rng: random.Random, target: Target) -> Ended:
    """A request's bytes damaged, or bytes of any kind, to the method of requests or to any other."""
    sound = plain_request(rng, contract.QUESTION_ANSWERING, b"Who leads it?", text_of(rng, 200).encode())
    content = mutated(rng, sound.SerializeToString()) if rng.random() < 0.7 else rng.randbytes(rng.randrange(300))
    method = "ModelInfer" if rng.random() < 0.7 else rng.choice(METHODS)
    return _call(target, method, content)[1]


GRPC_PROBES: dict[str, tuple[Probe, int]] = {
    "gRPC: texts": (texts, 30),
    "gRPC: inputs": (inputs, 20),
    "gRPC: cut-off texts": (cut_off, 5),
    "gRPC: protobuf": (protobuf, 15),
}
"""Each kind with its share."""
