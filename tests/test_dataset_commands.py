"""Every command that takes a dataset takes every format of one, plain or gzipped, with ids that are numbers."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from spanqa.cli import main
from spanqa.datasets import DATASET_FORMATS
from spanqa_build.questions import questions_to_check

CONTEXT = "The first bridge was built in 1907 and widened in 1950."
ROWS = [
    {
        "id": number,
        "title": None,
        "context": CONTEXT,
        "question": f"When was the first bridge {what}?",
        "answers": {"text": [year], "answer_start": [CONTEXT.index(year)]},
    }
    for number, (what, year) in enumerate((("built", "1907"), ("widened", "1950")), start=1)
]
QAS = [
    {
        "id": row["id"],
        "question": row["question"],
        "answers": [
            {"text": text, "answer_start": start} for text, start in zip(*row["answers"].values(), strict=True)
        ],
    }
    for row in ROWS
]
SQUAD = {"data": [{"title": None, "paragraphs": [{"context": CONTEXT, "qas": QAS}]}]}


def write_parquet(path):
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


FORMATS = {
    "SQuAD": lambda path: path.write_text(json.dumps(SQUAD)),
    "rows under data": lambda path: path.write_text(json.dumps({"data": ROWS})),
    "a list of rows": lambda path: path.write_text(json.dumps(ROWS)),
    "JSON Lines": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "Parquet": write_parquet,
}


@pytest.fixture(params=[(name, packed) for name in FORMATS for packed in (False, True)], ids=str)
def dataset(request, tmp_path):
    """The two questions in one format, under a name that says nothing."""
    name, packed = request.param
    path = tmp_path / "questions"
    FORMATS[name](path)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "command", ["score", "predict", "bench", "demo", "build", "export", "negatives", "check-data", "evaluate"]
)
def test_help_says_which_formats_a_dataset_may_have(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert DATASET_FORMATS in shown
    assert "SQuAD file" not in shown


def test_score_matches_predictions_by_the_text_of_numbers(dataset, tmp_path, capsys):
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"1": "1907", "2": "1907"}))
    assert main(["score", str(dataset), str(predictions), "--json"]) == 0
    shown = capsys.readouterr()
    scores = json.loads(shown.out)
    assert (scores["exact"], scores["total"], shown.err) == (50.0, 2, "")


def test_check_data_counts_the_questions(dataset, capsys):
    assert main(["check-data", str(dataset), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_questions"], report["n_defects"]) == (2, 0)


def test_negatives_are_made_of_the_questions(dataset, tmp_path):
    made = tmp_path / "made.json"
    assert main(["negatives", str(dataset), "-o", str(made), "--count", "1"]) == 0
    (article,) = json.loads(made.read_text())["data"]
    assert article["paragraphs"][0]["context"] == CONTEXT


def test_a_build_is_checked_on_the_questions(dataset):
    assert [example.id for example in questions_to_check(dataset)] == ["1", "2"]
