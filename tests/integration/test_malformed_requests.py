"""Over 300 malformed requests: each is one error that helps, and good requests beside them are answered rightly."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from spanqa import contract
from spanqa.errors import SpanqaError
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
QUESTION, CONTEXT = "Where does the ferry leave from?", "The ferry leaves from the old harbour every morning."
N_SENDERS = 4

BAD_TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"{name} is empty: send some text"),
    "one NUL": (b"\0", r"holds no word"),
    "NULs": (b"\0" * 1000, r"holds no word"),
    "blanks": (b" \t\r\n ", r"holds no word"),
    "zero-width spaces": ("\u200b\u200b".encode(), r"holds no word"),
    "a high surrogate": ("\ud800".encode("utf-8", "surrogatepass"), r"{name} is not valid UTF-8 \(byte 0"),
    "a low surrogate": ("word \udc00".encode("utf-8", "surrogatepass"), r"{name} is not valid UTF-8 \(byte 5"),
    "a surrogate pair": ("\ud83d\ude00".encode("utf-8", "surrogatepass"), r"{name} is not valid UTF-8"),
    "the byte FF": (b"\xff", r"{name} is not valid UTF-8 \(byte 0 is 0xff\): encode text as UTF-8"),
    "Latin-1": ("café au lait".encode("latin-1"), r"{name} is not valid UTF-8 \(byte 3 is 0xe9\)"),
    "half a character": ("é".encode()[:1], r"{name} is not valid UTF-8"),
    "an overlong NUL": (b"\xc0\x80", r"{name} is not valid UTF-8"),
    "a character beyond Unicode": (b"\xf5\x80\x80\x80", r"{name} is not valid UTF-8"),
    "a lone continuation byte": (b"word \x80", r"{name} is not valid UTF-8 \(byte 5 is 0x80\)"),
    "UTF-16": ("word".encode("utf-16"), r"{name} is not valid UTF-8"),
    "5 MB": (b"word " * 1_000_000, r"{name} has 5,000,000 bytes, at most 2,000,000 are allowed"),
}
BAD_OPTIONS: dict[str, list[tuple[float, str]]] = {
    "TOP_N": [(value, r"TOP_N must be from 1 to 64, got -?\d+") for value in (0, -1, 65, 10**6, -(2**31))],
    "MAX_ANSWER_TOKENS": [
        (value, r"MAX_ANSWER_TOKENS must be at least 1, or 0 for the model's own, got -\d+")
        for value in (-1, -5, -(2**31))
    ],
}
NO_OPTIONS = dict.fromkeys(tensor.name for tensor in contract.INPUTS if tensor.optional)
CODES = {"TOP_N": ("INT32", "<i"), "MAX_ANSWER_TOKENS": ("INT32", "<i")}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One malformed request: what sends it, and what its error must say."""

    name: str
    send: Callable[[Any, Any], Any]
    says: str
    is_ours: bool


def _raw(name: str, build: Callable[[Any], Any], says: str, *, is_ours: bool) -> Case:
    return Case(
        name=name, send=lambda tools, stub: stub.ModelInfer(build(tools), timeout=60), says=says, is_ours=is_ours
    )


def _text_cases(entry: str) -> list[Case]:
    cases = []
    for tensor in ("QUESTION", "CONTEXT"):
        for name, (text, says) in BAD_TEXTS.items():

            def build(tools: Any, tensor: str = tensor, text: bytes = text) -> Any:
                changed = {tensor: ("BYTES", [1, 1], tools.bytes_tensor(text))}
                return tools.request_of(entry, QUESTION, CONTEXT, **changed)

            cases.append(_raw(f"{entry}: {tensor} is {name}", build, says.format(name=tensor), is_ours=True))
    return cases


def _option_cases(entry: str) -> list[Case]:
    cases = []
    for tensor, values in BAD_OPTIONS.items():
        dtype, code = CODES[tensor]
        for value, says in values:

            def build(
                tools: Any, tensor: str = tensor, raw: bytes = struct.pack(code, value), dtype: str = dtype
            ) -> Any:
                return tools.request_of(entry, QUESTION, CONTEXT, **{tensor: (dtype, [1, 1], raw)})

            cases.append(_raw(f"{entry}: {tensor} is {value}", build, says, is_ours=True))
    return cases


def _row_cases() -> list[Case]:
    """Requests of three rows, each with one bad row in each place."""
    cases = []
    for tensor in ("QUESTION", "CONTEXT"):
        for name, (text, says) in BAD_TEXTS.items():
            for row in range(3):

                def build(tools: Any, tensor: str = tensor, text: bytes = text, row: int = row) -> Any:
                    texts = {"QUESTION": [QUESTION.encode()] * 3, "CONTEXT": [CONTEXT.encode()] * 3}
                    texts[tensor][row] = text
                    changed = {key: ("BYTES", [3, 1], tools.bytes_tensor(*value)) for key, value in texts.items()}
                    return tools.request_of(contract.QUESTION_ANSWERING, "", "", **changed, **NO_OPTIONS)

                expected = f"row {row}: .*{says.format(name=tensor)}"
                cases.append(_raw(f"row {row} of 3: {tensor} is {name}", build, expected, is_ours=True))
    return cases


def _shape_changes(tools: Any) -> dict[str, dict[str, Any]]:
    """Requests that Triton refuses before our models see them: changed inputs by what is wrong with them."""
    question, context = (tools.bytes_tensor(text.encode()) for text in (QUESTION, CONTEXT))
    thousand = ("BYTES", [1000, 1], tools.bytes_tensor(*[b"word"] * 1000))
    one = struct.pack("<i", 1)
    return {
        "QUESTION as INT32": {"QUESTION": ("INT32", [1, 1], one)},
        "CONTEXT as FP32": {"CONTEXT": ("FP32", [1, 1], one)},
        "CONTEXT as UINT8": {"CONTEXT": ("UINT8", [1, 1], b"a")},
        "TOP_N as FP32": {"TOP_N": ("FP32", [1, 1], struct.pack("<f", 1))},
        "TOP_N as INT64": {"TOP_N": ("INT64", [1, 1], struct.pack("<q", 1))},
        "TOP_N as BYTES": {"TOP_N": ("BYTES", [1, 1], tools.bytes_tensor(b"1"))},
        "NO_ANSWER_THRESHOLD as FP64": {"NO_ANSWER_THRESHOLD": ("FP64", [1, 1], struct.pack("<d", 1))},
        "DISTINCT as INT32": {"DISTINCT": ("INT32", [1, 1], one)},
        "MAX_ANSWER_TOKENS as INT8": {"MAX_ANSWER_TOKENS": ("INT8", [1, 1], b"\1")},
        "a datatype that does not exist": {"CONTEXT": ("TEXT", [1, 1], context)},
        "QUESTION of shape [1]": {"QUESTION": ("BYTES", [1], question)},
        "CONTEXT of shape [1, 2]": {"CONTEXT": ("BYTES", [1, 2], context * 2)},
        "CONTEXT of shape [1, 1, 1]": {"CONTEXT": ("BYTES", [1, 1, 1], context)},
        "QUESTION of 2 rows, CONTEXT of 1": {"QUESTION": ("BYTES", [2, 1], question * 2)},
        "TOP_N of 2 rows": {"TOP_N": ("INT32", [2, 1], one * 2)},
        "TOP_N of shape [1, 3]": {"TOP_N": ("INT32", [1, 3], one * 3)},
        "no rows": {"QUESTION": ("BYTES", [0, 1], b""), "CONTEXT": ("BYTES", [0, 1], b"")},
        "a negative shape": {"CONTEXT": ("BYTES", [-1, 1], context)},
        "1,000 rows": {"QUESTION": thousand, "CONTEXT": thousand},
        "no rows and no options": {"QUESTION": ("BYTES", [0, 1], b""), "CONTEXT": ("BYTES", [0, 1], b""), **NO_OPTIONS},
        "1,000 rows and no options": {"QUESTION": thousand, "CONTEXT": thousand, **NO_OPTIONS},
        "no inputs": {"QUESTION": None, "CONTEXT": None, **NO_OPTIONS},
        "QUESTION missing": {"QUESTION": None},
        "CONTEXT missing": {"CONTEXT": None},
        "both texts missing": {"QUESTION": None, "CONTEXT": None},
        "an unknown input": {"LANGUAGE": ("BYTES", [1, 1], tools.bytes_tensor(b"en"))},
        "a text without its length": {"CONTEXT": ("BYTES", [1, 1], b"ab")},
        "two texts for one row": {"CONTEXT": ("BYTES", [1, 1], context * 2)},
        "no content": {"CONTEXT": ("BYTES", [1, 1], b"")},
        "TOP_N of three bytes": {"TOP_N": ("INT32", [1, 1], b"\1\0\0")},
    }


# Triton looks into these bytes only once it has made a batch of them, and then refuses the whole batch.
CUT_OFF_TEXT = {"CONTEXT": ("BYTES", [1, 1], struct.pack("<I", 1000) + b"short")}


def _shape_cases(tools: Any, entry: str) -> list[Case]:
    def built(changes: dict[str, Any]) -> Callable[[Any], Any]:
        return lambda tools: tools.request_of(entry, QUESTION, CONTEXT, **changes)

    cases = [
        _raw(f"{entry}: {name}", built(changes), r"\w", is_ours=False)
        for name, changes in _shape_changes(tools).items()
    ]

    def with_unknown_output(tools: Any) -> Any:
        request = tools.request_of(entry, QUESTION, CONTEXT)
        request.outputs.add(name="TRANSLATION")
        return request

    def with_input_twice(tools: Any) -> Any:
        request = tools.request_of(entry, QUESTION, CONTEXT)
        request.inputs.append(request.inputs[0])
        request.raw_input_contents.append(request.raw_input_contents[0])
        return request

    def with_content_missing(tools: Any) -> Any:
        request = tools.request_of(entry, QUESTION, CONTEXT)
        del request.raw_input_contents[-1]
        return request

    def of_unknown_version(tools: Any) -> Any:
        request = tools.request_of(entry, QUESTION, CONTEXT)
        request.model_version = "7"
        return request

    builders = (with_unknown_output, with_input_twice, with_content_missing, of_unknown_version)
    names = [builder.__name__.replace("_", " ") for builder in builders]
    return cases + [
        _raw(f"{entry} {name}", builder, r"\w", is_ours=False) for name, builder in zip(names, builders, strict=True)
    ]


def _client_cases(url: str, entry: str) -> list[Case]:
    texts: dict[Any, str] = {
        "": r"the {name} is empty",
        " \n": r"the {name} is blank",
        "half \ud800": r"the {name} holds half of a surrogate pair",
        b"bytes": r"the {name} is of type bytes",
        None: r"the {name} is of type NoneType",
        7: r"the {name} is of type int",
        "\0": r"the {name} holds no word",
        "word " * 1_000_000: r"has 5,000,000 bytes, at most 2,000,000 are allowed",
    }
    options = [
        *(
            ("top_n", value, r"top_n is .*: give a whole number from 1 to 64")
            for value in (0, 65, 10**6, 1.5, True, "3")
        ),
        *(("no_answer_threshold", value, r"no_answer_threshold is") for value in (float("nan"), "low")),
        *(("max_answer_tokens", value, r"max_answer_tokens is") for value in (0, -1, 2**31)),
        *(("distinct", value, r"distinct is") for value in (1, "yes")),
        *(("timeout_s", value, r"timeout_s is") for value in (0, -1, float("nan"))),
    ]

    def asks(question: Any, context: Any, **options: Any) -> Callable[[Any, Any], Any]:
        def send(tools: Any, stub: Any) -> Any:
            with QAClient(url, model_name=entry) as client:
                return client.ask(question, context, **options)

        return send

    cases = []
    for text, says in texts.items():
        for name, send in (("question", asks(text, CONTEXT)), ("context", asks(QUESTION, text))):
            title = f"{entry}: the client is given the {name} {text!r:.20}"
            cases.append(Case(name=title, send=send, says=says.format(name=name), is_ours=True))
    for name, value, says in options:
        title = f"{entry}: the client is given {name}={value!r}"
        cases.append(Case(name=title, send=asks(QUESTION, CONTEXT, **{name: value}), says=says, is_ours=True))
    return cases


@pytest.fixture(scope="module")
def cases(table_server: Server, tools: Any) -> list[Case]:
    found = _row_cases()
    for entry in tools.ENTRIES:
        found += _text_cases(entry) + _option_cases(entry) + _shape_cases(tools, entry)
        found += _client_cases(table_server.url, entry)
    return found


def _fault(tools: Any, stub: Any, case: Case) -> str | None:
    """Send a case, and say what is wrong with its error, if anything is."""
    try:
        case.send(tools, stub)
    except grpc.RpcError as error:
        code, says = error.code().name, error.details()
        allowed = ("INVALID_ARGUMENT",) if case.is_ours else ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
        if code not in allowed:
            return f"{case.name}: {code}: {says}"
    except SpanqaError as error:
        says = str(error)
    else:
        return f"{case.name}: no error"
    if not re.search(case.says, says, re.DOTALL) or "Traceback" in says:
        return f"{case.name}: {says}"
    return None


def test_there_are_at_least_300_malformed_requests(cases: list[Case]) -> None:
    assert len(cases) >= 300
    assert len({case.name for case in cases}) == len(cases)


def test_each_malformed_request_is_one_error_while_good_ones_beside_it_are_answered_rightly(
    table_server: Server, tools: Any, table_good: list[Any], cases: list[Case]
) -> None:
    channel, stub = tools.connect(table_server.url)
    stubs = table_server.stubs()

    def asking(entry: str) -> Callable[[int], None]:
        def ask(n_asked: int) -> None:
            question, context, right = table_good[n_asked % len(table_good)]
            outputs = tools.outputs_of(stub.ModelInfer(tools.request_of(entry, question, context), timeout=60))
            text, start, end = right.places[0]
            assert (outputs["ANSWER"], outputs["CHAR_START"], outputs["CHAR_END"]) == ([text], [start], [end])

        return ask

    with channel, ThreadPoolExecutor(N_SENDERS) as pool:
        with tools.Asking([asking(entry) for entry in tools.ENTRIES]) as load:
            faults = list(filter(None, pool.map(lambda case: _fault(tools, stub, case), cases)))
        assert faults == []
        assert min(load.n_asked) > 0
        asking(contract.QUESTION_ANSWERING)(0)
        asking(contract.ENSEMBLE)(0)
    assert table_server.stubs() == stubs


def test_good_questions_that_wait_beside_bad_ones_are_answered(
    table_server: Server, tools: Any, table_good: list[Any]
) -> None:
    """While the entry works on long texts, good requests wait, and bad ones are refused at once."""
    channel, stub = tools.connect(table_server.url)
    name = contract.QUESTION_ANSWERING
    bad = {"TOP_N": ("INT32", [1, 1], struct.pack("<i", 0))}
    long_text = "\n".join(context for _, context, _ in table_good * 20)
    with channel:
        busy = [stub.ModelInfer.future(tools.request_of(name, QUESTION, long_text), timeout=60) for _ in range(4)]
        calls = []
        for question, context, right in table_good:
            calls.append((right, stub.ModelInfer.future(tools.request_of(name, question, context), timeout=60)))
            calls.append((None, stub.ModelInfer.future(tools.request_of(name, question, context, **bad), timeout=60)))
        for right, call in calls:
            if right is None:
                assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert "TOP_N must be from 1 to 64, got 0" in call.details()
            else:
                outputs = tools.outputs_of(call.result())
                assert outputs["ANSWER"] == [right.places[0][0]]
        for call in busy:
            call.result()


def test_a_text_cut_off_by_its_sender_is_refused_and_the_clients_questions_beside_it_are_answered(
    table_server: Server, tools: Any, table_good: list[Any]
) -> None:
    channel, stub = tools.connect(table_server.url)

    def asking(client: QAClient) -> Callable[[int], None]:
        def ask(n_asked: int) -> None:
            question, context, right = table_good[n_asked % len(table_good)]
            right.require_answer(client.ask(question, context, timeout_s=60))

        return ask

    with channel, QAClient(table_server.url) as client, tools.Asking([asking(client) for _ in range(6)]):
        for _ in range(20):
            request = tools.request_of(contract.QUESTION_ANSWERING, QUESTION, CONTEXT, **CUT_OFF_TEXT)
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(request, timeout=60)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "incomplete string data" in refused.value.details()
