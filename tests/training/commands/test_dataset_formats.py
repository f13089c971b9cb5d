"""What trains, evaluates and answers offline takes every format of a dataset too, and settings of any size."""

import json

import pytest

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import read_checkpoint

ONE_STEP = [
    "trainer.max_steps=1",
    "trainer.precision=32",
    "trainer.save_top_k=0",
    "training_ds.batch_size=2",
    "model.dataset.num_workers=0",
]


def command(*parts):
    return main([*map(str, parts), "--quiet"])


def test_train_reads_every_format(two_questions, still_checkpoint, tmp_path, capsys):
    files = [f"training_ds.file={two_questions}", f"validation_ds.file={two_questions}"]
    assert command("train", "-m", still_checkpoint, "-r", tmp_path / "results", *files, *ONE_STEP) == 0
    assert "2 questions, 0 without an answer" in capsys.readouterr().err


def test_evaluate_and_infer_read_every_format_and_match_by_id(two_questions, still_checkpoint, tmp_path, capsys):
    assert command("evaluate", "-m", still_checkpoint, two_questions, "--json") == 0
    assert '"total": 2' in capsys.readouterr().out
    assert command("infer", "-m", still_checkpoint, "-r", tmp_path, f"infer_ds.file={two_questions}") == 0
    assert json.loads((tmp_path / "prediction.txt").read_text()).keys() == {"1", "2"}
    capsys.readouterr()
    assert main(["score", str(two_questions), str(tmp_path / "prediction.txt"), "--json"]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["missing"], shown.err) == (0, "")


@pytest.fixture
def long_question(tmp_path):
    """A question of more word pieces than are kept of it, about a text of several windows of 64."""
    question = "When, " + "in the long history of the town, " * 12 + "was the bridge built?"
    context = "The bridge was built in 1907. " + "It crosses the river. " * 40
    row = {"id": 1, "question": question, "context": context, "answers": {"text": ["1907"], "answer_start": [24]}}
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_long_question_is_answered_from_windows_of_64_pieces(long_question, still_checkpoint, tmp_path):
    windows = ["max_seq_length=64", "doc_stride=16", "max_query_length=32"]
    values = [f"infer_ds.file={long_question}", *(f"model.dataset.{value}" for value in windows)]
    assert command("infer", "-m", still_checkpoint, "-r", tmp_path, *values) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert record["question_truncated"]
    assert record["spans"]


def test_the_longest_answer_that_a_spec_asks_for_is_the_trained_models_own(long_question, still_checkpoint, tmp_path):
    files = [f"training_ds.file={long_question}", f"validation_ds.file={long_question}"]
    longest = "model.dataset.max_answer_length=100"
    assert command("train", "-m", still_checkpoint, "-r", tmp_path, *files, *ONE_STEP, longest) == 0
    assert read_checkpoint(tmp_path / "checkpoints" / "trained-model.tlt").max_answer_tokens == 100
