"""A run that gets no better ends early, says so, and ends there too after an interruption."""

import pytest

from spanqa.cli import main
from spanqa_training.optimization.early_stopping import reason_to_stop
from spanqa_training.run.resume import Keeper


def checks(name, *values):
    return [{"step": 10 * place, name: value} for place, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("patience", "metric", "found", "reason"),
    [
        (None, None, checks("f1", 5, 4, 3, 2), None),
        (2, None, checks("f1", 5, 6, 6), None),
        (2, None, checks("f1", 5, 6, 6, 5.9), "f1 has not risen above the 6 of step 20 in 2 validations"),
        (1, None, checks("f1", 5, 6, 6, 7), None),
        (1, None, checks("val_loss", 2, 1, 1.5), "val_loss has not fallen below the 1 of step 20 in 1 validation"),
        (1, "val_loss", checks("f1", 5, 4), None),
        (1, None, [], None),
    ],
)
def test_a_run_ends_after_so_many_validations_without_a_better_one(patience, metric, found, reason):
    assert reason_to_stop(found, patience=patience, metric=metric) == reason


def test_f1_is_watched_where_both_are_known():
    found = [{"step": 1, "f1": 5.0, "val_loss": 1.0}, {"step": 2, "f1": 6.0, "val_loss": 2.0}]
    assert reason_to_stop(found, patience=1, metric=None) is None
    reason = reason_to_stop(found, patience=1, metric="val_loss")
    assert reason == "val_loss has not fallen below the 1 of step 1 in 1 validation"


@pytest.fixture
def hopeless(train):
    """A run whose rate is too small to change an answer, validated twice an epoch."""
    options = ["optim.lr=1e-12", "trainer.early_stopping_patience=2", "trainer.val_check_interval=0.5"]
    options += ["trainer.max_epochs=9", "training_ds.num_samples=8", "training_ds.batch_size=2"]
    return lambda results: train(results, *options)


def test_an_early_end_is_said_and_the_model_is_written(hopeless, tmp_path, tools, capsys):
    assert main(hopeless(tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert "stopping early after step" in said
    assert "f1 has not risen above the" in said
    checkpoint, _ = tools.trained(tmp_path / "run")
    logged = [line for line in tools.lines(tmp_path / "run" / "train.jsonl") if "val_loss" in line]
    assert len(logged) == 3
    assert [line.get("stopped_early") for line in logged[:2]] == [None, None]
    assert "in 2 validations" in logged[2]["stopped_early"]
    assert checkpoint.provenance["checks"] == logged
    assert main(hopeless(tmp_path / "run")) == 0
    assert "the run is complete already" in capsys.readouterr().err


@pytest.mark.parametrize("n_saves", [2, 3])
def test_a_run_that_dies_before_or_after_the_decision_ends_there_too(hopeless, tmp_path, tools, monkeypatch, n_saves):
    """Its state is saved before each validation, and once more when it is decided."""
    assert main(hopeless(tmp_path / "whole")) == 0
    once, seen = Keeper.save, []

    def dying(self, cursor):
        seen.append(1)
        if len(seen) > n_saves:
            raise MemoryError
        once(self, cursor)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", dying)
        with pytest.raises(MemoryError):
            main(hopeless(tmp_path / "run"))
    assert main(hopeless(tmp_path / "run")) == 0
    tools.assert_same_weights(tools.trained(tmp_path / "whole")[1], tools.trained(tmp_path / "run")[1])
    assert tools.lines(tmp_path / "whole" / "train.jsonl") == tools.lines(tmp_path / "run" / "train.jsonl")


def test_there_must_be_something_to_validate(train, tmp_path, capsys):
    no_validation = ["validation_ds.file=null", "trainer.early_stopping_patience=2"]
    assert main(train(tmp_path / "run", *no_validation)) == 2
    assert "trainer.early_stopping_patience: needs validation_ds.file" in capsys.readouterr().err
