"""Alternatives as people see them: whole words, and other answers where those are asked for."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from spanqa.cli import main
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
QUESTION = "Who leads the harbour office?"
CONTEXT = "Marta Lindqvist leads the harbour office. Before her, Piet de Vries led the harbour office."


def spans(server: Server, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    arguments = [QUESTION, "--context", CONTEXT, "--top-n", "6", "--json", "--url", server.url]
    assert main(["ask", *arguments, *options]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["spans"]
    return found


@pytest.mark.parametrize("options", [[], ["--distinct"]], ids=str)
def test_the_best_spans_are_whole_words(server: Server, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    found = spans(server, capsys, *options)
    assert len(found) > 1
    ends = [at for span in found for at in (span["char_start"], span["char_end"])]
    assert not [at for at in ends if re.fullmatch(r"\w\w", CONTEXT[max(0, at - 1) : at + 1])]


def test_the_second_person_is_among_distinct_spans(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    found = spans(server, capsys, "--distinct")
    assert "Lindqvist" in found[0]["text"]
    assert [span["text"] for span in found if "Piet de Vries" in span["text"]]
    ordered = sorted((span["char_start"], span["char_end"]) for span in found)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered))
