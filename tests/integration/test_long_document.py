"""A document of many calls' windows is answered where the fact stands.

`benchmarks/long_document.py` does it with the shipped network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from spanqa import contract
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_WORDS = 40_000


@pytest.fixture(scope="module")
def surest(table: Path, tools: Any) -> tuple[str, str]:
    """The words with the table's highest start and end logits: no span beats the one between them."""
    graph = onnx.load(table / contract.ENCODER / "1" / "network.onnx").graph
    logits = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tokenizer = json.loads((table / contract.QUESTION_ANSWERING / "1" / "tokenizer.json").read_text("utf-8"))
    words = {word: token for word, token in tokenizer["model"]["vocab"].items() if word.isascii() and word.isalpha()}
    start, end = (max(words, key=lambda word, of=of: of[words[word]]) for of in (logits["start"], logits["end"]))
    return start, end


def test_a_fact_at_the_end_of_40_000_words_is_found(
    table_server: Server, tools: Any, paragraphs: list[str], surest: tuple[str, str]
) -> None:
    fact = " and ".join(surest)
    others = [text for text in paragraphs if not any(word in text.lower() for word in surest)]
    document = tools.document_of(others, N_WORDS)
    at = len(document) + len(" \nThere stand ")
    document += f" \nThere stand {fact}."
    with QAClient(table_server.url) as client:
        answer = client.ask("What stands there?", document, no_answer_threshold=1e9, timeout_s=300)
    assert (answer.text, answer.char_start, answer.char_end) == (fact, at, at + len(fact))
