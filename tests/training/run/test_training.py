"""Training learns what a spec says, and tells what it did."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import read_checkpoint
from spanqa_training.inference.decode_settings import ALWAYS_ANSWER


def test_training_on_twenty_real_questions_overfits_them(train, tmp_path, tools, capsys):
    assert main(train(tmp_path / "run")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "checkpoints" / "trained-model.tlt")
    checkpoint, _ = tools.trained(tmp_path / "run")
    validation = checkpoint.metrics["validation"]
    assert validation["model_threshold"]["total"] == 20
    assert validation["model_threshold"]["f1"] >= 95
    assert validation["forced_answerable"]["f1"] >= 95
    checks = [line for line in tools.lines(tmp_path / "run" / "train.jsonl") if "train_loss" in line]
    assert len(checks) == 20
    assert checks[-1]["val_loss"] < 0.2 < checks[0]["val_loss"]
    assert checks == checkpoint.provenance["checks"]


def test_the_log_has_a_line_for_each_nth_step_and_the_card_says_what_was_done(train, tmp_path, tools, twenty_questions):
    run = tmp_path / "run"
    assert main(train(run, "trainer.max_epochs=2", "trainer.log_every_n_steps=2", "save_to=folder")) == 0
    checkpoint, _ = tools.trained(run, "folder")
    n_steps = 2 * -(-checkpoint.provenance["n_windows"] // 4)
    steps = [line["step"] for line in tools.lines(run / "train.jsonl") if "loss" in line]
    assert steps == list(range(2, n_steps + 1, 2))
    card = (run / "model_card.md").read_text(encoding="utf-8")
    assert card == (run / "checkpoints" / "folder" / "README.md").read_text(encoding="utf-8")
    for part in ("## Data", "twenty.json", "20 questions", "2 epochs", "learning rate 0.005", "WarmupAnnealing"):
        assert part in card
    assert f"{checkpoint.metrics['validation']['model_threshold']['f1']:.2f} [" in card
    for section in ("Limits", "Bias", "Licence"):
        assert f"## {section}\n\n*To fill:*" in card
    further = tmp_path / "further"
    data = tmp_path / "ours.json"
    data.write_bytes(twenty_questions.read_bytes())
    more = ("-m", str(run / "checkpoints" / "folder"), "trainer.max_steps=1", f"training_ds.file={data}")
    assert main(train(further, *more)) == 0
    card = (further / "model_card.md").read_text(encoding="utf-8")
    assert "| training | ours.json |" in card
    assert "| training, of the checkpoint it started from | twenty.json |" in card
    assert ", trained before; fingerprint " in card


def test_a_reader_that_goes_away_does_not_end_a_run(train, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "spanqa.cli",
        *train(tmp_path / "run", "trainer.max_steps=1", "optim.sched.power=2"),
    ]
    process = subprocess.run(command, stdout=writing, stderr=writing, timeout=300)
    os.close(writing)
    assert process.returncode == 0
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "trained-model.tlt").provenance["n_windows"]


def test_the_checkpoints_with_the_lowest_validation_loss_are_kept(train, tmp_path, tools):
    run = tmp_path / "run"
    options = ["trainer.max_epochs=5", "trainer.save_top_k=2", "trainer.val_check_interval=0.5", "optim.lr=1e-2"]
    assert main(train(run, *options)) == 0
    checks = [line for line in tools.lines(run / "train.jsonl") if "val_loss" in line]
    assert len(checks) >= 10
    best = sorted(checks, key=lambda check: (check["val_loss"], check["step"]))[:2]
    kept = sorted(path.name for path in (run / "checkpoints").glob("*.ckpt"))
    assert kept == sorted(check["checkpoint"] for check in best)
    for check in best:
        checkpoint, _ = tools.trained(run, check["checkpoint"])
        assert checkpoint.no_answer_threshold == check["threshold"]


def test_max_steps_ends_a_run_whatever_max_epochs_says(train, tmp_path, tools, capsys):
    assert main(train(tmp_path / "run", "trainer.max_steps=3", "trainer.log_every_n_steps=1")) == 0
    assert [line["step"] for line in tools.lines(tmp_path / "run" / "train.jsonl") if "loss" in line] == [1, 2, 3]
    assert "step 3 of 3" in capsys.readouterr().err


def test_summed_batches_are_one_large_batch(train, tmp_path, tools, still_checkpoint):
    still = ["-m", str(still_checkpoint), "trainer.max_epochs=1", "training_ds.shuffle=false", "validation_ds.file=[]"]
    still += ["optim.name=sgd", "optim.lr=0.1"]
    assert main(train(tmp_path / "large", *still, "training_ds.batch_size=26")) == 0
    half = ["training_ds.batch_size=13", "trainer.accumulate_grad_batches=2"]
    assert main(train(tmp_path / "summed", *still, *half)) == 0
    (checkpoint, large), (_, summed) = tools.trained(tmp_path / "large"), tools.trained(tmp_path / "summed")
    assert checkpoint.provenance["n_windows"] == 26
    tools.assert_same_weights(large, summed, atol=1e-5)


def test_a_threshold_in_the_spec_is_the_models(train, tmp_path, tools):
    assert main(train(tmp_path / "run", "trainer.max_epochs=1", "model.dataset.null_score_diff_threshold=-1.5")) == 0
    assert tools.trained(tmp_path / "run")[0].no_answer_threshold == -1.5


def test_a_model_without_negatives_answers_always(train, tmp_path, tools, answerable_questions):
    files = [f"training_ds.file={answerable_questions}", f"validation_ds.file={answerable_questions}"]
    options = ["trainer.max_epochs=1", "model.dataset.version_2_with_negative=false"]
    assert main(train(tmp_path / "run", *files, *options)) == 0
    checkpoint, _ = tools.trained(tmp_path / "run")
    assert checkpoint.no_answer_threshold == ALWAYS_ANSWER
    assert checkpoint.metrics["validation"]["model_threshold"]["f1"] == pytest.approx(
        checkpoint.metrics["validation"]["forced_answerable"]["f1"]
    )


def test_half_precision_weights_are_scored_as_they_are_stored(train, tmp_path, twenty_questions, capsys):
    assert main(train(tmp_path / "run", "trainer.max_epochs=1", "trainer.checkpoint_dtype=float16")) == 0
    model = tmp_path / "run" / "checkpoints" / "trained-model.tlt"
    capsys.readouterr()
    assert main(["evaluate", "-m", str(model), str(twenty_questions), "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stored = read_checkpoint(model).metrics["validation"]["model_threshold"]
    assert (report["model_threshold"]["exact"], report["model_threshold"]["f1"]) == (stored["exact"], stored["f1"])


def test_the_windows_are_indexed_once_and_the_index_is_dropped_on_request(train, tmp_path):
    run = tmp_path / "run"
    assert main(train(run, "trainer.max_steps=1")) == 0
    (index,) = [path for path in (run / "index").iterdir() if path.is_dir()]
    assert main(train(tmp_path / "other", "trainer.max_steps=1", "model.dataset.use_cache=false")) == 0
    assert [path for path in (tmp_path / "other" / "index").iterdir() if path.is_dir()] == []
    assert index.is_dir()


def test_the_number_of_workers_changes_nothing(train, tmp_path, tools):
    options = ["trainer.max_steps=4", "validation_ds.file=[]"]
    assert main(train(tmp_path / "two", *options)) == 0
    for workers in (0, 1, 4):
        results = tmp_path / str(workers)
        assert main(train(results, *options, f"training_ds.num_workers={workers}")) == 0
        tools.assert_same_weights(tools.trained(tmp_path / "two")[1], tools.trained(results)[1])


def test_the_course_of_a_run_is_drawn(train, tmp_path):
    run = tmp_path / "run"
    assert main(train(run, "trainer.max_epochs=3", "trainer.log_every_n_steps=1")) == 0
    picture = ElementTree.fromstring((run / "training.svg").read_text(encoding="utf-8"))
    shown = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"training loss", "validation loss", "F1", "exact match", "trained-model"} <= set(shown)
