"""A collection of real documents, asked through a real server: the answers, and their places, are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spanqa.cli import main
from spanqa.examples import Example
from spanqa_client.client import QAClient
from spanqa_retrieval.asking import Asking
from spanqa_retrieval.collection import Collection
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_QUESTIONS = 12


@pytest.fixture(scope="module")
def asked(heldout: list[Example]) -> list[Example]:
    """Answerable questions on one article."""
    title = heldout[0].title
    answerable = [one for one in heldout if one.title == title and one.answers and len(one.context) < 900]
    return answerable[:: max(len(answerable) // N_QUESTIONS, 1)][:N_QUESTIONS]


@pytest.fixture(scope="module")
def index(heldout: list[Example], tmp_path_factory: Any) -> Path:
    """The paragraphs of two articles, as rows."""
    folder = tmp_path_factory.mktemp("collection")
    titles = list(dict.fromkeys(one.title for one in heldout))[:2]
    contexts = dict.fromkeys((one.title, one.context) for one in heldout if one.title in titles)
    rows = [{"id": f"p{n}", "title": title, "text": text} for n, (title, text) in enumerate(contexts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert main(["index", str(folder / "rows.jsonl"), "-o", str(folder / "index"), "--quiet"]) == 0
    return folder / "index"


def test_one_request_of_rows_answers_as_one_request_a_row(server: Server, asked: list[Example]) -> None:
    rows = [(one.question, one.context) for one in asked]
    with QAClient(server.url) as client:
        together = client.ask_rows(rows, top_n=3, distinct=True)
        alone = [client.ask(*row, top_n=3, distinct=True) for row in rows]
    assert together == alone


def test_answers_come_from_the_right_documents(server: Server, index: Path, asked: list[Example]) -> None:
    with QAClient(server.url) as client:
        collection = Collection.open(str(index), client)
        answers = [collection.ask(one.question, Asking(top_k=3)) for one in asked]
    documents = {hit.passage.document: hit.passage for hit in collection.index.search("the", top_k=1000)}
    right = 0
    for example, answer in zip(asked, answers, strict=True):
        for found in answer.answers:
            passage = documents[found.document]
            start, end = found.char_start - passage.char_start, found.char_end - passage.char_start
            assert passage.text[start:end] == found.text
            assert found.text in found.sentence
        right += any(gold.text in answer.answers[0].sentence for gold in example.answers)
    assert right >= len(asked) // 2


def test_the_command_asks_a_collection(
    server: Server, index: Path, asked: list[Example], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ask", asked[0].question, "--index", str(index), "--url", server.url, "--top-k", "4"]
    assert main([*command, "--top-n", "2", "--threshold", "1e9", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["has_answer"]
    assert len(said["answers"]) == 2
    keys = "document title page text char_start char_end sentence sentence_start sentence_end score"
    assert list(said["answers"][0]) == [*keys.split(), "no_answer_margin", "retrieval_score"]
    assert main([*command, "--threshold", "-1e9"]) == 0
    assert capsys.readouterr().out.startswith("no answer in the 4 passages read; closest:\n")
    assert main([*command, "--where", "lang=en"]) == 0
    assert "no answer (no passage asked for has a word of the question)" in capsys.readouterr().out
