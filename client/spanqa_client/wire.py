"""Questions as Triton's requests, and Triton's responses as answers: raw tensors, without numpy in between."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tritonclient.grpc import service_pb2

from spanqa import contract
from spanqa_client.answer import Answer, Span
from spanqa_client.errors import BadRequest, ProtocolError
from spanqa_client.options import Options

# struct codes and sizes of the fixed-size datatypes; Triton's raw tensors are little-endian.
_CODES = {"INT32": ("i", 4), "FP32": ("f", 4), "BOOL": ("?", 1)}
_FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
# What this client sends with every request, in the words in which Triton and our own older models refuse it.
_OLDER_WORDS = (
    f"unexpected inference input '{contract.DISTINCT.name}'",
    f"{contract.NO_ANSWER_THRESHOLD.name} is not a number",
    f"{contract.MAX_ANSWER_TOKENS.name} must be at least 1, got 0",
)


def request_from_rows(
    model_name: str, rows: Sequence[tuple[bytes, bytes]], options: Options
) -> service_pb2.ModelInferRequest:
    """Build the request of some questions, a batch with a row for each.

    Every input is always sent, since Triton does not batch requests with different sets of inputs; what is left to the
    model is sent as the value that says so.

    Args:
        model_name: The model to ask.
        rows: Questions and contexts in UTF-8.
        options: The options of all.
    """
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(_template(model_name, options, len(rows)))
    for texts in zip(*rows, strict=True):
        request.raw_input_contents.append(b"".join([struct.pack("<I", len(text)) + text for text in texts]))
    return request


def request_from_question(
    model_name: str, question: bytes, context: bytes, options: Options
) -> service_pb2.ModelInferRequest:
    """Build the request of one question; arguments as `request_from_rows`."""
    return request_from_rows(model_name, [(question, context)], options)


@lru_cache(maxsize=64)
def _template(model_name: str, options: Options, n_rows: int) -> service_pb2.ModelInferRequest:
    """The request without its two texts: those inputs are declared last, so that their bytes can be appended."""
    request = service_pb2.ModelInferRequest(model_name=model_name)
    values = raw_options(options)
    request.raw_input_contents.extend([raw * n_rows for _, raw in values])
    for tensor in (*[tensor for tensor, _ in values], contract.QUESTION, contract.CONTEXT):
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=[n_rows, 1])
    return request


def raw_options(options: Options) -> list[tuple[contract.Tensor, bytes]]:
    """Give the optional inputs and their bytes on the wire: NaN and 0 where the model's own default is to decide."""
    threshold = math.nan if options.no_answer_threshold is None else options.no_answer_threshold
    if abs(threshold) > _FLOAT32_MAX:
        # A threshold too large for float32 means the same as infinity, which float32 has.
        threshold *= math.inf
    values: list[tuple[contract.Tensor, float]] = [
        (contract.TOP_N, options.top_n),
        (contract.NO_ANSWER_THRESHOLD, threshold),
        (contract.MAX_ANSWER_TOKENS, options.max_answer_tokens or 0),
        (contract.DISTINCT, options.distinct),
    ]
    return [(tensor, struct.pack("<" + _CODES[tensor.dtype][0], value)) for tensor, value in values]


def older_server_error(url: str, refusal: BadRequest) -> ProtocolError | None:
    """Give the error that explains a refusal by a model from before NaN, 0 and DISTINCT; None for any other refusal."""
    if not any(words in str(refusal) for words in _OLDER_WORDS):
        return None
    return ProtocolError(
        f"the server at {url} serves a model built by an older spanqa, which does not take all inputs of this client "
        f"({refusal}): build the repository again, or use the client of that version"
    )


def answer_from_response(response: service_pb2.ModelInferResponse, *, latency_ms: float) -> Answer:
    """Read the answer of a request of one question; arguments and errors as `answers_from_response`."""
    return answers_from_response(response, n_rows=1, latency_ms=latency_ms)[0]


def answers_from_response(response: service_pb2.ModelInferResponse, *, n_rows: int, latency_ms: float) -> list[Answer]:
    """Read the answers of a request.

    Args:
        response: The server's response.
        n_rows: Rows of the request.
        latency_ms: What the answers are to say about their time.

    Raises:
        ProtocolError: An output is missing, or its datatype, shape or size is not the contract's.
    """
    outputs = _raw_outputs(response, n_rows)
    texts = _strings(*outputs[contract.ANSWER.name])
    columns = [
        _numbers(tensor, outputs) for tensor in (contract.SCORE, contract.CHAR_START, contract.CHAR_END, contract.LOGIT)
    ]
    if any(len(column) != len(texts) for column in columns):
        counts = ", ".join(str(len(column)) for column in (texts, *columns))
        raise ProtocolError(
            f"ANSWER, SCORE, CHAR_START, CHAR_END and LOGIT hold {counts} entries: they must hold equally many"
        )
    per_row = [
        _numbers(tensor, outputs)
        for tensor in (contract.HAS_ANSWER, contract.NO_ANSWER_MARGIN, contract.QUESTION_TRUNCATED)
    ]
    tensor = contract.NO_ANSWER_SCORE
    no_answer_scores = _numbers(tensor, outputs) if tensor.name in outputs else [None] * n_rows
    answers = []
    width = len(texts) // n_rows
    for row, (has_answer, margin, truncated, no_answer) in enumerate(zip(*per_row, no_answer_scores, strict=True)):
        own = slice(row * width, (row + 1) * width)
        spans = tuple(
            [
                Span(text=text, score=score, char_start=char_start, char_end=char_end, logit=logit)
                for text, score, char_start, char_end, logit in zip(
                    texts[own], *[column[own] for column in columns], strict=True
                )
                if char_start >= 0
            ]
        )
        if has_answer and not spans:
            raise ProtocolError("HAS_ANSWER is true, yet there is no span")
        answers.append(
            Answer(
                has_answer=has_answer,
                no_answer_margin=margin,
                no_answer_score=no_answer,
                question_truncated=truncated,
                spans=spans,
                model_version=response.model_version,
                latency_ms=latency_ms,
            )
        )
    return answers


def _raw_outputs(response: service_pb2.ModelInferResponse, n_rows: int) -> dict[str, tuple[int, bytes]]:
    """Number of entries and bytes of each output of the contract."""
    if len(response.outputs) != len(response.raw_output_contents):
        raise ProtocolError(
            f"the response declares {len(response.outputs)} outputs and carries {len(response.raw_output_contents)}"
        )
    declared = {output.name: (output, raw) for output, raw in zip(response.outputs, response.raw_output_contents)}  # noqa: B905 - checked above
    found = {}
    for tensor in contract.OUTPUTS:
        if tensor.name not in declared:
            if tensor.optional:
                continue
            raise ProtocolError(
                f"the response of {response.model_name or 'the model'} lacks the output {tensor.name}: got "
                f"{', '.join(declared) or 'none'}; is it a spanqa model, and Triton's response cache off?"
            )
        output, raw = declared[tensor.name]
        shape = tuple(output.shape)
        fits = len(shape) == 2 and shape[0] == n_rows and (tensor.dims == (-1,) or shape[1:] == tensor.dims)
        if output.datatype != tensor.dtype or not fits:
            wanted = f"[{n_rows}, {'any' if tensor.dims == (-1,) else tensor.dims[0]}]"
            raise ProtocolError(
                f"the output {tensor.name} is {output.datatype} {list(shape)}: expected {tensor.dtype} {wanted}"
            )
        found[tensor.name] = (shape[0] * shape[1], raw)
    return found


def _strings(n_entries: int, raw: bytes) -> list[str]:
    texts = []
    at = 0
    try:
        for _ in range(n_entries):
            (size,) = struct.unpack_from("<I", raw, at)
            at += 4 + size
            if at > len(raw):
                break
            texts.append(raw[at - size : at].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise ProtocolError(f"the output ANSWER cannot be read: {error}") from error
    if at != len(raw):
        raise ProtocolError(f"the output ANSWER has {len(raw)} bytes: expected {n_entries} texts with their lengths")
    return texts


def _numbers(tensor: contract.Tensor, outputs: dict[str, tuple[int, bytes]]) -> tuple[Any, ...]:
    n_entries, raw = outputs[tensor.name]
    code, size = _CODES[tensor.dtype]
    if len(raw) != n_entries * size:
        raise ProtocolError(f"the output {tensor.name} has {len(raw)} bytes: expected {n_entries * size}")
    return struct.unpack(f"<{n_entries}{code}", raw)
