"""Offline evaluation: its order and batches change nothing, its thresholds are what they say."""

import dataclasses
import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from spanqa.cli import main
from spanqa.datasets import read_datasets
from spanqa.errors import DataError
from spanqa.score_scale import ScoreScale
from spanqa.spans import DecodeSettings
from spanqa.squad import GoldAnswer
from spanqa.windows import WindowMaker, batch_windows
from spanqa_client.reports.calibration import fitted_scale
from spanqa_client.reports.runs import read_run
from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.feed import Share, span_loss
from spanqa_training.data.labels import window_labels
from spanqa_training.inference import score_fit
from spanqa_training.inference.evaluation import devices, evaluate, network_from_model
from spanqa_training.inference.prediction_files import answered
from spanqa_training.inference.score_fit import scale_from_evaluation


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
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert f" -> {report['best_threshold']['threshold']:.4f} in {folder}" in shown.err
    assert report["threshold_0"]["total"] == 50
    assert report["best_threshold"]["f1"] >= report["threshold_0"]["f1"]
    fitted, _ = load_checkpoint(folder)
    assert fitted.no_answer_threshold == report["best_threshold"]["threshold"]
    assert main(["evaluate", "-m", str(folder), str(fifty_questions), "--quiet", "--intervals"]) == 0
    assert re.search(r"always answering  +-  +\d+\.\d\d  +\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", capsys.readouterr().out)


def test_questions_that_all_have_no_answer_have_no_score_of_always_answering(
    tiny_checkpoint, real_questions, tmp_path, capsys
):
    write_squad([example for example in real_questions if not example.answers][:20], tmp_path / "none.json")
    assert main(["evaluate", "-m", str(tiny_checkpoint), str(tmp_path / "none.json"), "--quiet", "--intervals"]) == 0
    shown = capsys.readouterr().out
    assert "model threshold" in shown
    assert "always answering" not in shown


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_a_threshold_that_is_no_finite_number_is_refused(tiny_checkpoint, fifty_questions, capsys, threshold):
    assert main(["evaluate", "-m", str(tiny_checkpoint), str(fifty_questions), "--threshold", threshold]) == 2
    assert f"--threshold {threshold}: give a finite number" in capsys.readouterr().err


def test_batches_in_work_at_once_change_nothing(model, real_questions):
    maker, network = model
    one, four = (evaluate(network, maker, real_questions[:40], DecodeSettings(), n_threads=n) for n in (1, 4))
    assert one.decoded == four.decoded
    assert one.losses == four.losses


def test_each_device_runs_one_batch_at_a_time(tiny_checkpoint, real_questions):
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    places = devices(3, cpu=True)
    network = network_from_model(model, *places)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    several = evaluate(network, maker, real_questions[:30], DecodeSettings(), n_threads=len(places))
    single = evaluate(network_from_model(model), maker, real_questions[:30], DecodeSettings())
    assert several.decoded == single.decoded


def test_the_loss_is_that_of_training(tiny_checkpoint, real_questions):
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    (example,) = [example for example in real_questions if example.answers][:1]
    windows = maker.windows(example.question, example.context)
    batch = batch_windows([(windows, index) for index in range(len(windows))])
    inputs = tuple(torch.from_numpy(a) for a in (batch.input_ids, batch.attention_mask, batch.token_type_ids))
    starts, ends = (torch.tensor(labels) for labels in zip(*window_labels(windows, example), strict=True))
    with torch.no_grad():
        wanted = span_loss(*model(*inputs), Share(inputs=inputs, starts=starts, ends=ends, weight=1.0))
    evaluation = evaluate(network_from_model(model), maker, [example], DecodeSettings())
    assert np.mean(evaluation.losses) == pytest.approx(float(wanted), abs=1e-5)


def test_the_stored_precision_of_a_model_stays_when_its_threshold_is_fitted(tiny_checkpoint, fifty_questions, tmp_path):
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    save_checkpoint(
        checkpoint, model, tmp_path / "half.tlt", dtype="float16", card="# card\n", lm_head={"x": torch.ones(3)}
    )
    size = (tmp_path / "half.tlt").stat().st_size
    assert main(["evaluate", "-m", str(tmp_path / "half.tlt"), str(fifty_questions), "--quiet", "--fit-threshold"]) == 0
    assert (tmp_path / "half.tlt").stat().st_size == pytest.approx(size, rel=0.01)
    assert load_lm_head(tmp_path / "half.tlt").keys() == {"x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "restore_from: must be a checkpoint, got nothing: give -m CHECKPOINT"),
        (["-m", "nowhere"], "nowhere: no such checkpoint"),
        (["-m", "nowhere", "-g", "-1"], "-g -1: give a number of processes of at least 1, or 0 for one on the CPU"),
        (["-m", "nowhere", "optim.lr=1"], None),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(arguments, message, fifty_questions, capsys):
    assert main(["evaluate", *arguments, str(fifty_questions)]) == 2
    assert (message or "no such checkpoint") in capsys.readouterr().err.splitlines()[-1]


def test_nothing_to_evaluate_on_is_said(tiny_checkpoint, capsys):
    assert main(["evaluate", "-m", str(tiny_checkpoint)]) == 2
    assert "give a dataset, or a spec with test_ds.file" in capsys.readouterr().err


def write_rows(path, *changes):
    row = {"id": "one", "question": "who sat", "context": "the cat sat", "answers": {"text": [], "answer_start": []}}
    path.write_text("".join(json.dumps({**row, **change}) + "\n" for change in changes), encoding="utf-8")
    return path


@pytest.mark.parametrize(("change", "what"), [({"context": " "}, "context"), ({"question": "\u200e"}, "question")])
def test_a_text_without_a_word_is_named_with_its_file_and_place(model, tmp_path, change, what):
    maker, network = model
    path = write_rows(tmp_path / "rows.jsonl", {}, {"id": "two", **change})
    examples = read_datasets([path])
    with pytest.raises(DataError, match=rf"^{path}: line 2: the {what} holds no word"):
        evaluate(network, maker, examples, DecodeSettings())
    with pytest.raises(DataError, match=rf"^{path}: line 2: the {what} holds no word"):
        list(answered(network, maker, examples, DecodeSettings(), n_best=1))


def test_validation_that_cannot_be_cut_is_told_before_anything_is_trained(tiny_checkpoint, tmp_path, capsys):
    training = write_rows(tmp_path / "training.jsonl", {})
    validation = write_rows(tmp_path / "validation.jsonl", {"context": " "})
    files = [f"training_ds.file={training}", f"validation_ds.file={validation}"]
    assert main(["train", "-m", str(tiny_checkpoint), "-r", str(tmp_path / "out"), "--quiet", *files]) == 2
    assert f"{validation}: line 1: the context holds no word" in capsys.readouterr().err
    assert not (tmp_path / "out" / "index").exists()


def test_inference_stops_at_an_id_that_another_file_has_and_writes_nothing(tiny_checkpoint, tmp_path, capsys):
    files = [write_rows(tmp_path / name, {}) for name in ("a.jsonl", "b.jsonl")]
    values = [f"infer_ds.file=[{files[0]},{files[1]}]", "--quiet"]
    assert main(["infer", "-m", str(tiny_checkpoint), "-r", str(tmp_path / "out"), *values]) == 2
    assert f"{files[1]}: line 1: id: 'one' is also the id of {files[0]}: line 1" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*predict*"))


@pytest.mark.parametrize("asked", ["max_seq_length=200", "max_answer_length=7", "word_boundaries=true"])
def test_what_is_fitted_is_fitted_under_the_model_s_own_settings(
    tiny_checkpoint, fifty_questions, tmp_path, capsys, asked
):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    arguments = ["evaluate", "-m", str(folder), str(fifty_questions), "--quiet", "--fit-threshold"]
    assert main([*arguments, f"model.dataset.{asked}"]) == 2
    assert "model.dataset asks for other windows or answers than that model's own" in capsys.readouterr().err
    assert load_checkpoint(folder)[0] == load_checkpoint(tiny_checkpoint)[0]


def test_a_report_judges_the_scale_of_the_scores_on_articles_that_it_was_not_fitted_on(
    tiny_checkpoint, real_questions, root, tmp_path, capsys
):
    folder, page, card = tmp_path / "checkpoint", tmp_path / "report.html", tmp_path / "card.md"
    shutil.copytree(tiny_checkpoint, folder)
    dataset = root / "data" / "heldout200.json"
    arguments = [str(dataset), "--quiet", "--report", str(page), "--card", str(card), "--fit-scores"]
    assert main(["evaluate", "-m", str(folder), *arguments]) == 0
    fitted, _ = load_checkpoint(folder)
    assert f"scale of the scores T 1 -> {fitted.scale} in {folder}" in capsys.readouterr().err
    assert fitted.metrics["scores_fitted_on"] == ["heldout200.json"]
    assert fitted.no_answer_threshold == 0.0
    text = re.search(r'id="figures-data">(.*?)</script>', page.read_text(encoding="utf-8"))[1]
    before, after = json.loads(text)["calibration"]
    assert ScoreScale(**before["scale"]) == ScoreScale()
    assert ScoreScale(**after["scale"]) == fitted.scale
    assert fitted.scale.slope is not None
    assert before["n"] == after["n"] == len(real_questions)
    for part in ("# checkpoint\n", "BERT (post-LN)", "heldout200.json", "### Calibration", "## Bias\n\n*To fill:*"):
        assert part in card.read_text(encoding="utf-8")
    # The decoder now uses it.
    saved = tmp_path / "again.json"
    assert main(["evaluate", "-m", str(folder), str(dataset), "--quiet", "--save-run", str(saved)]) == 0
    one, two = (read_run(path) for path in (tmp_path / "report.run.json", saved))
    assert two.scale == fitted.scale
    assert [said.text for said in one.said.values()] == [said.text for said in two.said.values()]
    assert [said.score for said in one.said.values()] != [said.score for said in two.said.values()]


def test_a_part_is_whole_articles_and_of_one_article_whole_paragraphs(model, real_questions, monkeypatch):
    maker, network = model
    evaluation = evaluate(network, maker, real_questions, DecodeSettings(), keep_inputs=True)
    fitted_on = []

    def fit(shares_at, margins, right):
        fitted_on.append(len(right))
        return fitted_scale(shares_at, margins, right)

    monkeypatch.setattr(score_fit, "fitted_scale", fit)
    found = scale_from_evaluation(evaluation, DecodeSettings())
    sizes = Counter(example.title for example in real_questions)
    assert len(sizes) > 10
    assert sorted(fitted_on)[-1] == len(real_questions)
    assert sum(200 - n for n in fitted_on) == 200
    assert len(fitted_on) == 10 + 1
    # Each article's scores are as if it had never been there.
    title = max(sizes, key=sizes.get)
    places = [n for n, example in enumerate(real_questions) if example.title == title]
    all_right = [
        dataclasses.replace(e, answers=(GoldAnswer(d.spans[0].text, d.spans[0].char_start),)) if e.title == title else e
        for e, d in zip(real_questions, evaluation.decoded, strict=True)
    ]
    changed = dataclasses.replace(evaluation, examples=all_right)
    again = scale_from_evaluation(changed, DecodeSettings())
    assert [again.scores_after[n] for n in places] == [found.scores_after[n] for n in places]
    assert again.scale != found.scale
    one_article = [dataclasses.replace(example, title="one") for example in real_questions]
    split = scale_from_evaluation(dataclasses.replace(evaluation, examples=one_article), DecodeSettings())
    assert split.judged_by == "each of 10 parts, of whole paragraphs, judged by a fit on the others"
    # So it is where one article is most of all.
    unequal = [dataclasses.replace(e, title="large" if n < 150 else "small") for n, e in enumerate(real_questions)]
    parted = scale_from_evaluation(dataclasses.replace(evaluation, examples=unequal), DecodeSettings())
    assert "whole paragraphs" in parted.judged_by
    one_paragraph = [dataclasses.replace(example, title="one", paragraph=0) for example in real_questions]
    alone = dataclasses.replace(evaluation, examples=one_paragraph)
    assert scale_from_evaluation(alone, DecodeSettings()) is None
