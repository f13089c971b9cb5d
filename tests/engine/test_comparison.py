"""A network is held against torch on real questions: logits, answers, scores, and a paired interval of the loss."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from spanqa.cli import main
from spanqa.datasets import read_dataset
from spanqa.windows import WindowMaker
from spanqa_build import comparison as comparison_module
from spanqa_build.comparison import FLOAT32, Comparison, Limits, table_from_stages
from spanqa_build.errors import ParityError
from spanqa_build.parity import answers_from_logits, run_torch
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.inference.evaluation import window_logits


@pytest.fixture(scope="module")
def minilm(root):
    return load_checkpoint(root / "training" / "checkpoints" / "spanqa-minilm")


@pytest.fixture(scope="module")
def asked_once(minilm):
    """The network, asked once for the same batch: every comparison here is of the same questions."""
    answers = {}

    def network(batch):
        key = batch.input_ids.shape, batch.input_ids.tobytes()
        if key not in answers:
            answers[key] = run_torch(minilm[1], batch)
        return answers[key]

    return network


@pytest.fixture(scope="module")
def comparison(root, minilm, asked_once):
    return Comparison(minilm[0], read_dataset(root / "data" / "heldout200.json")[:12], asked_once)


def noisy(asked_once, size):
    """The network with noise on its logits that does not depend on how windows are batched."""

    def network(batch):
        start, end = asked_once(batch)
        noise = np.sin(batch.input_ids * 12.9898 + np.arange(batch.input_ids.shape[1])) * size
        return (start + noise).astype(np.float32), (end - noise).astype(np.float32)

    return network


def test_the_network_itself_differs_in_nothing(comparison, minilm):
    stage = comparison.of("again", partial(run_torch, minilm[1]), limits=FLOAT32, rows_per_batch=3)
    assert stage.parity.answers_changed == stage.parity.spans_changed == 0
    assert stage.parity.max_difference < 1e-4
    assert (stage.exact, stage.f1, stage.forced_f1) == pytest.approx(
        (comparison.reference.exact, comparison.reference.f1, comparison.reference.forced_f1)
    )
    assert stage.f1_difference_95 == stage.exact_difference_95 == (0.0, 0.0)


def test_a_worse_network_is_measured_with_an_interval_around_its_loss(comparison, asked_once):
    stage = comparison.of("noisy", noisy(asked_once, 3.0))
    assert stage.parity.answers_changed > 2
    assert stage.f1 < comparison.reference.f1
    low, high = stage.f1_difference_95
    assert low <= stage.f1 - comparison.reference.f1 <= high
    assert high - low > 1
    assert stage.parity.max_difference == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (Limits(max_difference=0.5), "logits differ by up to 3, at most 0.5 are allowed"),
        (Limits(max_difference=9, answers_changed=0.1), "answers changed, at most 1 are allowed"),
        (Limits(max_difference=9, answers_changed=1.0, f1_loss=0.5), "points, at most 0.5 are allowed"),
    ],
)
def test_a_network_beyond_a_limit_is_refused_with_the_limit(comparison, asked_once, limits, problem):
    with pytest.raises(ParityError) as caught:
        comparison.of("noisy", noisy(asked_once, 3.0), limits=limits)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("noisy against torch: ")
    assert "\n" not in str(caught.value)


def test_logits_that_are_not_numbers_are_beyond_every_limit(comparison, asked_once):
    def broken(batch):
        start, end = asked_once(batch)
        return start * np.float32("nan"), end

    with pytest.raises(Exception, match="not finite"):
        comparison.of("broken", broken, limits=Limits(max_difference=float("inf")))


def test_the_table_has_a_line_for_each_stage(comparison, asked_once):
    stages = [comparison.reference, comparison.of("noisy", noisy(asked_once, 0.5))]
    lines = table_from_stages(stages).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["", "torch float32", "noisy"]
    assert "of 12" in lines[2]


class Server:
    """A client of a server that serves the checkpoint itself, or answers nothing right."""

    def __init__(self, checkpoint, model, *, right):
        self._checkpoint, self._model, self._right = checkpoint, model, right

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def ask_many(self, pairs, **_settings):
        maker = WindowMaker(self._checkpoint.tokenizer(), self._checkpoint.windows)
        windows = maker.windows_of_many(pairs)
        logits = window_logits(partial(run_torch, self._model), windows, quiet=True)
        decoded = answers_from_logits(self._checkpoint, windows, [context for _, context in pairs], logits).decoded
        return [self._answer(one) for one in decoded]

    def _answer(self, decoded):
        best = decoded.spans[0]
        margin = decoded.null_logit - best.logit
        spans = (best if self._right else replace(best, text="no such answer", char_start=0, char_end=1),)
        return SimpleNamespace(spans=spans, no_answer_margin=margin, no_answer_score=0.5)


@pytest.mark.parametrize("right", [True, False])
def test_a_server_that_answers_worse_than_int8_may_fails_the_command_after_the_table(
    root, minilm, monkeypatch, capsys, tmp_path, right
):
    monkeypatch.setattr(comparison_module, "QAClient", lambda _url, model_name: Server(*minilm, right=right))
    questions = tmp_path / "questions.json"
    write_squad(read_dataset(root / "data" / "heldout200.json")[:20], questions)
    model = str(root / "training" / "checkpoints" / "spanqa-minilm")
    code = main(["build", "-m", model, "--served", "localhost:1", "--data", str(questions), "--quiet"])
    out, err = capsys.readouterr()
    assert [line.split("  ")[0] for line in out.splitlines()] == ["", "torch float32", "served"]
    if right:
        assert (code, err) == (0, "")
        return
    assert code == 2
    assert "served against torch: F1 -" in err
    assert "a loss of 0.5 is allowed: serve a repository that is built from this checkpoint" in err
    assert err.count("\n") == 1


def test_the_help_tells_what_a_server_is_held_to(capsys):
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    assert "fails where F1 falls by more than 0.5 points" in " ".join(capsys.readouterr().out.split())
