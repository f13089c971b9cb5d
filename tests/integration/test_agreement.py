"""The two entries, the client and offline decoding of the served network give the same answers."""

from __future__ import annotations

import random
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from spanqa import contract
from spanqa.squad import Example
from spanqa_client.client import QAClient
from spanqa_client.errors import BadRequest
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
TOP_N = 3
CONCURRENCY = 16


@pytest.fixture(scope="module")
def sample(heldout: list[Example]) -> list[Example]:
    """18 held-out questions in random order: 12 drawn at random, 3 on the longest and 3 on the shortest contexts."""
    draw = random.Random(0)
    by_length = sorted(draw.sample(heldout, len(heldout)), key=lambda example: len(example.context))
    chosen = [*by_length[:3], *by_length[-3:], *draw.sample(by_length[3:-3], 12)]
    draw.shuffle(chosen)
    return chosen


@pytest.fixture(scope="module")
def rights(sample: list[Example], offline: Any) -> list[Any]:
    return [offline.right(example.question, example.context, TOP_N) for example in sample]


@pytest.mark.parametrize("entry", [contract.QUESTION_ANSWERING, contract.ENSEMBLE])
def test_an_entry_asked_concurrently_answers_as_offline_decoding_does(
    server: Server, tools: Any, offline: Any, sample: list[Example], rights: list[Any], entry: str
) -> None:
    channel, stub = tools.connect(server.url)
    threshold = struct.pack("<f", offline.manifest.decode.no_answer_threshold)
    changes = {
        "TOP_N": ("INT32", [1, 1], struct.pack("<i", TOP_N)),
        "NO_ANSWER_THRESHOLD": ("FP32", [1, 1], threshold),
    }
    most = offline.manifest.packing.rows_per_call if entry == contract.ENSEMBLE else len(sample) * 1000
    chosen = [
        (example, right)
        for example, right in zip(sample, rights, strict=True)
        if len(offline.windows(example.question, example.context)) <= most
    ]
    assert len(chosen) >= 14

    def ask(example: Example) -> Any:
        return stub.ModelInfer(tools.request_of(entry, example.question, example.context, **changes), timeout=60)

    with channel, ThreadPoolExecutor(CONCURRENCY) as pool:
        for response, (_, right) in zip(pool.map(ask, [example for example, _ in chosen]), chosen, strict=True):
            tools.require_right(right, response)


def test_the_client_gives_the_same_answers_in_the_order_of_the_questions(
    server: Server, sample: list[Example], rights: list[Any]
) -> None:
    with QAClient(server.url) as client:
        items = [(example.question, example.context) for example in sample]
        answers = list(client.ask_many(items, concurrency=CONCURRENCY, top_n=TOP_N, timeout_s=60))
    for answer, right, example in zip(answers, rights, sample, strict=True):
        right.require_answer(answer)
        assert all(span.text == example.context[span.char_start : span.char_end] for span in answer.spans)


def test_a_request_of_many_rows_is_answered_row_by_row(
    server: Server, tools: Any, sample: list[Example], rights: list[Any]
) -> None:
    rows = sample[:8]
    options = {"TOP_N": ("INT32", [8, 1], struct.pack("<8i", *[TOP_N] * 8))}
    request = tools.request_of(
        contract.QUESTION_ANSWERING,
        "",
        "",
        QUESTION=("BYTES", [8, 1], tools.bytes_tensor(*(row.question.encode() for row in rows))),
        CONTEXT=("BYTES", [8, 1], tools.bytes_tensor(*(row.context.encode() for row in rows))),
        NO_ANSWER_THRESHOLD=None,
        MAX_ANSWER_TOKENS=None,
        DISTINCT=None,
        **options,
    )
    channel, stub = tools.connect(server.url)
    with channel:
        response = stub.ModelInfer(request, timeout=60)
    found = dict(zip([output.name for output in response.outputs], response.raw_output_contents, strict=True))
    starts = struct.unpack(f"<{8 * TOP_N}i", found["CHAR_START"])
    for row, right in enumerate(rights[:8]):
        assert starts[row * TOP_N : (row + 1) * TOP_N] == tuple(start for _, start, _ in right.places)
    assert found["HAS_ANSWER"] == bytes(right.has_answer for right in rights[:8])


def test_the_ensemble_refuses_a_text_of_many_windows_and_names_the_entry_that_takes_it(
    server: Server, heldout: list[Example], offline: Any
) -> None:
    context = " ".join(dict.fromkeys(example.context for example in heldout[:400]))
    n_windows = len(offline.windows(heldout[0].question, context))
    assert n_windows > offline.manifest.packing.rows_per_call
    with QAClient(server.url, model_name=contract.ENSEMBLE) as client, pytest.raises(BadRequest) as caught:
        client.ask(heldout[0].question, context)
    assert f"needs {n_windows} windows" in str(caught.value)
    assert "ask the model question_answering instead" in str(caught.value)
