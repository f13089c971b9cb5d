"""`train` stores the threshold and the scale of the scores that `evaluate` fits on the same questions."""

import dataclasses

import pytest

from spanqa.cli import main
from spanqa.score_scale import ScoreScale
from spanqa_training.commands.negatives import write_squad

COPIES = 5


@pytest.fixture
def enough(twenty_of_short_passages, tmp_path):
    """A hundred questions: twenty, five times, under ids of their own."""
    path = tmp_path / "enough.json"
    copies = range(COPIES)
    write_squad(
        [dataclasses.replace(e, id=f"{e.id}-{copy}") for e in twenty_of_short_passages for copy in copies], path
    )
    return path


def test_what_training_stores_is_what_evaluation_fits_and_so_is_it_with_two_processes(
    train, tmp_path, tools, started_by_fork, enough
):
    validation = [f"validation_ds.file={enough}"]
    assert main(train(tmp_path / "run", *validation, "trainer.max_steps=60")) == 0
    stored, _ = tools.trained(tmp_path / "run")
    said = stored.metrics["validation"]
    assert ScoreScale(**said["score_scale"]) == stored.scale != ScoreScale()
    assert 0 < said["ece"] < 100

    # Another epoch of next to no rate changes nothing but the number of processes.
    model = tmp_path / "run" / "checkpoints" / "trained-model.tlt"
    again = ["-m", str(model), "-g", "2", "optim.lr=1e-12", "trainer.max_steps=1"]
    assert main(train(tmp_path / "two", *validation, *again)) == 0
    two = tools.trained(tmp_path / "two")[0].scale
    assert dataclasses.astuple(two) == pytest.approx(dataclasses.astuple(stored.scale), rel=1e-3)

    assert main(["evaluate", "-m", str(model), "--fit-threshold", "--fit-scores", "--quiet", str(enough)]) == 0
    fitted, _ = tools.trained(tmp_path / "run")
    assert dataclasses.astuple(fitted.scale) == pytest.approx(dataclasses.astuple(stored.scale), rel=1e-5)
    assert fitted.no_answer_threshold == pytest.approx(stored.no_answer_threshold, abs=1e-4)


def test_few_questions_fit_no_scale(train, tmp_path, tools, twenty_questions, capsys):
    assert main(train(tmp_path / "run", "trainer.max_steps=1")) == 0
    stored, _ = tools.trained(tmp_path / "run")
    assert stored.scale == ScoreScale()
    assert "score_scale" not in stored.metrics["validation"]
    model = tmp_path / "run" / "checkpoints" / "trained-model.tlt"
    assert main(["evaluate", "-m", str(model), "--fit-temperature", "--quiet", str(twenty_questions)]) == 2
    assert "--fit-scores: 20 questions are too few: give at least 100" in capsys.readouterr().err
    assert tools.trained(tmp_path / "run")[0].scale == ScoreScale()
