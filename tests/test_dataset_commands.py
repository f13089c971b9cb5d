"""Every command that takes a dataset takes every format of one, plain or gzipped, with ids that are numbers."""

import json

import pytest

from spanqa.cli import main
from spanqa.datasets import DATASET_FORMATS
from spanqa_build.questions import questions_to_check


@pytest.mark.parametrize(
    "command", ["score", "predict", "bench", "demo", "build", "export", "negatives", "check-data", "evaluate"]
)
def test_help_says_which_formats_a_dataset_may_have(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert DATASET_FORMATS in shown
    assert "SQuAD file" not in shown


def test_score_matches_predictions_by_the_text_of_numbers(two_questions, tmp_path, capsys):
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"1": "1907", "2": "1907"}))
    assert main(["score", str(two_questions), str(predictions), "--json"]) == 0
    shown = capsys.readouterr()
    scores = json.loads(shown.out)
    assert (scores["exact"], scores["total"], shown.err) == (50.0, 2, "")


def test_check_data_counts_the_questions(two_questions, capsys):
    assert main(["check-data", str(two_questions), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_questions"], report["n_defects"]) == (2, 0)


def test_negatives_are_made_of_the_questions(two_questions, tmp_path):
    made = tmp_path / "made.json"
    assert main(["negatives", str(two_questions), "-o", str(made), "--count", "1"]) == 0
    (article,) = json.loads(made.read_text())["data"]
    assert "The first bridge was built" in article["paragraphs"][0]["context"]


def test_a_build_is_checked_on_the_questions(two_questions):
    assert [example.id for example in questions_to_check(two_questions)] == ["1", "2"]
