"""`spanqa demo` serves, shows, scores and stops."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from spanqa.cli import main
from spanqa.datasets import read_dataset
from spanqa_server.commands.demo import DATASET, SHOWN_IDS, shown_examples


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Five passages of which the last answers nothing; the tiny repository answers with a passage's length."""
    paragraphs = []
    for number in range(5):
        context = "nothing is told here" if number == 4 else f"the length is 16{' ' * number}"
        answers = [] if number == 4 else [{"text": "16", "answer_start": 14}]
        qa = {"id": f"q{number}", "question": "How long is it?", "answers": answers, "is_impossible": number == 4}
        paragraphs.append({"context": context, "qas": [qa]})
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Lengths", "paragraphs": paragraphs}]}))
    return path


def test_shown_questions_are_the_named_ones_or_spread_with_an_unanswerable_last(dataset: Path) -> None:
    examples = read_dataset(dataset)
    assert [example.id for example in shown_examples(examples, ["q2", "q1"])] == ["q2", "q1"]
    assert [example.id for example in shown_examples(examples, ["elsewhere"])] == ["q0", "q1", "q2", "q3", "q4"]


def test_the_bundled_dataset_holds_200_questions_and_every_shown_one() -> None:
    examples = read_dataset(DATASET)
    assert len(examples) == 200
    assert set(SHOWN_IDS) <= {example.id for example in examples}


def test_a_missing_dataset_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--dataset", "nowhere.json"]) == 2
    assert "there is no dataset nowhere.json" in capsys.readouterr().err


@pytest.mark.triton
def test_the_demo_shows_answers_scores_them_and_stops(
    repository: Path, dataset: Path, tools: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tools.ours_in_shared_memory(os.getpid())
    assert main(["demo", "--repository", str(repository), "--dataset", str(dataset), "--quiet"]) == 0
    output = capsys.readouterr().out
    assert "answer     16  (score" in output
    assert "[the length is 16]" in output
    assert "answer     no answer" in output
    # The passages of 16 characters and of nothing are right, the three longer ones wrong.
    assert "exact match  40.0" in output
    assert "questions/s" in output
    assert "Stopped cleanly" in output
    assert tools.ours_in_shared_memory(os.getpid()) == before
