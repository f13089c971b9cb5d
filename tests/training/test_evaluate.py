"""Offline evaluation: its order and batches change nothing, its thresholds are what they say."""

import json
import math
import shutil

import numpy as np
import pytest

from spanqa.cli import main
from spanqa.spans import DecodeSettings
from spanqa.windows import WindowMaker
from spanqa_training.checkpoint import load_checkpoint
from spanqa_training.evaluate import evaluate, network_from_model


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    return WindowMaker(checkpoint.tokenizer(), checkpoint.windows), network_from_model(model)


def test_answers_do_not_depend_on_how_windows_are_batched(model, real_questions):
    maker, network = model
    results = [
        evaluate(network, maker, real_questions[:40], DecodeSettings(), rows_per_batch=rows) for rows in (None, 1, 7)
    ]
    for other in results[1:]:
        for one, two in zip(results[0].decoded, other.decoded, strict=True):
            assert (one.spans[0].char_start, one.spans[0].char_end) == (two.spans[0].char_start, two.spans[0].char_end)
            assert two.no_answer_margin == pytest.approx(one.no_answer_margin, abs=1e-4)


def test_the_tuned_threshold_is_finite_and_at_least_as_good_as_any_other(model, real_questions):
    maker, network = model
    evaluation = evaluate(network, maker, real_questions, DecodeSettings())
    tuned = evaluation.tuned_threshold()
    assert math.isfinite(tuned)
    best = evaluation.scores(tuned)["f1"]
    margins = list(evaluation.margins().values())
    for threshold in np.linspace(min(margins) - 1, max(margins) + 1, 40):
        assert evaluation.scores(float(threshold))["f1"] <= best + 1e-9


def test_a_threshold_below_every_margin_never_answers(model, real_questions):
    maker, network = model
    evaluation = evaluate(network, maker, real_questions[:20], DecodeSettings())
    assert set(evaluation.predictions(-math.inf).values()) == {""}
    assert all(evaluation.predictions(math.inf).values())


def test_the_command_prints_the_scores_and_stores_a_fitted_threshold(
    tiny_checkpoint, fifty_questions, tmp_path, capsys
):

    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    assert main(["evaluate", "-m", str(folder), str(fifty_questions), "--json", "--quiet", "--fit-threshold"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threshold_0"]["total"] == 50
    assert report["best_threshold"]["f1"] >= report["threshold_0"]["f1"]
    fitted, _ = load_checkpoint(folder)
    assert fitted.no_answer_threshold == report["best_threshold"]["threshold"]
    assert main(["evaluate", "-m", str(folder), str(fifty_questions), "--quiet", "--intervals"]) == 0
    assert "always answering" in capsys.readouterr().out
