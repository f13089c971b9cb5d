"""Asking again costs no memory; `benchmarks/long_document.py` does it with 40,000 words."""

from __future__ import annotations

from typing import Any

import pytest

from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_WORDS = 500
N_TIMES = 10
NOISE = 1.03
"""Memory may differ by 3 % between two equal requests: allocators keep and give back at their own pace."""
QUESTION = "Who was the last to say so?"


def test_asking_about_a_long_document_ten_times_takes_no_more_memory_than_once(
    server: Server, tools: Any, paragraphs: list[str]
) -> None:
    document = tools.document_of(paragraphs, N_WORDS)
    server_pid = tools.os.getpid()
    with QAClient(server.url) as client:
        # Twice, so that each of the entry's two processes may have had its turn.
        answers = {client.ask(QUESTION, document, timeout_s=120) for _ in range(2)}
        resident, shared = tools.resident_bytes(server), tools.shared_memory_bytes(server_pid)
        answers |= {client.ask(QUESTION, document, timeout_s=120) for _ in range(N_TIMES)}
    assert len(answers) == 1
    assert shared > 0
    assert tools.resident_bytes(server) <= NOISE * resident
    assert tools.shared_memory_bytes(server_pid) <= NOISE * shared
