"""A document of many calls' windows is answered where the fact stands, and asking again costs no memory.

`benchmarks/long_document.py` does it with 40,000 words.
"""

from __future__ import annotations

from typing import Any

import pytest

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_WORDS = 5_000
N_WORDS_ASKED_AGAIN = 500
N_TIMES = 10
NOISE = 1.03
"""Memory may differ by 3 % between two equal requests: allocators keep and give back at their own pace."""


@pytest.fixture(scope="module")
def filler(tools: Any) -> list[str]:
    """The paragraphs of the dataset in their order."""
    return list(dict.fromkeys(example.context for example in read_dataset(tools.DATASET)))


def document_ending_with(fact: str, filler: list[str], n_words: int) -> str:
    """Real paragraphs of at least so many words, then `fact`."""
    taken: list[str] = []
    n_taken = 0
    for paragraph in filler:
        if n_taken >= n_words:
            break
        if paragraph != fact:
            taken.append(paragraph)
            n_taken += len(paragraph.split())
    return " \n".join([*taken, fact])


@pytest.fixture(scope="module")
def known(heldout: list[Example], offline: Any) -> Example:
    """The question, out of the first fifty answerable short ones, that the model answers rightly and most surely."""
    candidates = [example for example in heldout if example.answers and len(example.context) < 700][:50]
    answered = []
    for example in candidates:
        decoded = offline.decode(example.question, example.context)
        if decoded.spans[0].text in {answer.text for answer in example.answers}:
            answered.append((decoded.no_answer_margin, example.id, example))
    assert answered, "the model answers none of fifty questions rightly"
    return min(answered)[2]


def test_a_fact_at_the_end_of_5_000_words_is_found(
    server: Server, offline: Any, known: Example, filler: list[str]
) -> None:
    document = document_ending_with(known.context, filler, N_WORDS)
    assert len(document.split()) >= N_WORDS
    alone = offline.decode(known.question, known.context).spans[0]
    with QAClient(server.url) as client:
        answer = client.ask(known.question, document, no_answer_threshold=1e9, timeout_s=300)
    at = len(document) - len(known.context)
    assert (answer.text, answer.char_start, answer.char_end) == (alone.text, at + alone.char_start, at + alone.char_end)


def test_asking_about_a_long_document_ten_times_takes_no_more_memory_than_once(
    server: Server, tools: Any, known: Example, filler: list[str]
) -> None:
    document = document_ending_with(known.context, filler, N_WORDS_ASKED_AGAIN)
    server_pid = tools.os.getpid()
    with QAClient(server.url) as client:
        # Twice, so that each of the entry's two processes may have had its turn.
        answers = {client.ask(known.question, document, timeout_s=120) for _ in range(2)}
        resident, shared = tools.resident_bytes(server), tools.shared_memory_bytes(server_pid)
        answers |= {client.ask(known.question, document, timeout_s=120) for _ in range(N_TIMES)}
    assert len(answers) == 1
    assert shared > 0
    assert tools.resident_bytes(server) <= NOISE * resident
    assert tools.shared_memory_bytes(server_pid) <= NOISE * shared
