"""Training learns, and an interrupted run ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.inference.decode_settings import ALWAYS_ANSWER
from spanqa_training.model import SpanModel
from spanqa_training.run import validation
from spanqa_training.run.resume import Keeper
from spanqa_training.run.state import sole_run

SPEC = """\
restore_from: ???
trainer: {max_epochs: 40, seed: 1, precision: 32, save_top_k: 0}
model: {dataset: {max_seq_length: 256, doc_stride: 128}}
training_ds: {file: '???', batch_size: 10}
validation_ds: {file: '???'}
optim: {lr: 2.0e-3, sched: {name: WarmupAnnealing, warmup_ratio: 0.1}}
"""


@pytest.fixture
def train(tmp_path, tiny_checkpoint, fifty_questions):
    """The arguments of `spanqa train` on 50 real questions."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")

    def arguments(results, *overrides):
        files = [f"training_ds.file={fifty_questions}", f"validation_ds.file={fifty_questions}"]
        return ["train", "-e", str(spec), "-m", str(tiny_checkpoint), "-r", str(results), "--quiet", *files, *overrides]

    return arguments


def trained(results, name="trained-model.tlt"):
    return load_checkpoint(results / "checkpoints" / name)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same_weights(one, other, *, atol=0.0):
    for name, tensor in one.state_dict().items():
        assert torch.allclose(tensor, other.state_dict()[name], rtol=0, atol=atol), name


def test_training_on_fifty_real_questions_overfits_them(train, tmp_path, capsys):
    assert main(train(tmp_path / "run")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "checkpoints" / "trained-model.tlt")
    checkpoint, _ = trained(tmp_path / "run")
    validation = checkpoint.metrics["validation"]
    assert validation["model_threshold"]["total"] == 50
    assert validation["model_threshold"]["f1"] >= 95
    assert validation["forced_answerable"]["f1"] >= 95
    checks = [line for line in lines(tmp_path / "run" / "train.jsonl") if "train_loss" in line]
    assert len(checks) == 40
    assert checks[-1]["val_loss"] < 0.2 < checks[0]["val_loss"]
    assert checks == checkpoint.provenance["checks"]


def test_the_log_has_a_line_for_each_nth_step_and_the_card_says_what_was_done(train, tmp_path, fifty_questions):
    run = tmp_path / "run"
    assert main(train(run, "trainer.max_epochs=2", "trainer.log_every_n_steps=2", "save_to=folder")) == 0
    checkpoint, _ = trained(run, "folder")
    n_steps = 2 * -(-checkpoint.provenance["n_windows"] // 10)
    steps = [line["step"] for line in lines(run / "train.jsonl") if "loss" in line]
    assert steps == list(range(2, n_steps + 1, 2))
    card = (run / "model_card.md").read_text(encoding="utf-8")
    assert card == (run / "checkpoints" / "folder" / "README.md").read_text(encoding="utf-8")
    for part in ("## Data", "fifty.json", "50 questions", "2 epochs", "learning rate 0.002", "WarmupAnnealing"):
        assert part in card
    assert f"{checkpoint.metrics['validation']['model_threshold']['f1']:.2f} [" in card
    for section in ("Limits", "Bias", "Licence"):
        assert f"## {section}\n\n*To fill:*" in card
    further = tmp_path / "further"
    data = tmp_path / "ours.json"
    data.write_bytes(fifty_questions.read_bytes())
    more = ("-m", str(run / "checkpoints" / "folder"), "trainer.max_steps=1", f"training_ds.file={data}")
    assert main(train(further, *more)) == 0
    card = (further / "model_card.md").read_text(encoding="utf-8")
    assert "| training | ours.json |" in card
    assert "| training, of the checkpoint it started from | fifty.json |" in card
    assert ", trained before; fingerprint " in card


def test_a_run_that_was_killed_resumes_to_the_same_weights(train, tmp_path):
    short = ["trainer.max_epochs=6", "optim.lr=1e-3", "trainer.save_every_s=0.2", "trainer.log_every_n_steps=1"]
    assert main(train(tmp_path / "whole", *short)) == 0
    killed = train(tmp_path / "killed", *short)
    state = tmp_path / "killed" / "state" / "state.pt"
    process = subprocess.Popen([sys.executable, "-m", "spanqa.cli", *killed], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(killed) == 0
    (one, whole), (other, resumed) = trained(tmp_path / "whole"), trained(tmp_path / "killed")
    assert_same_weights(whole, resumed)
    assert one.metrics == other.metrics
    assert lines(tmp_path / "whole" / "train.jsonl") == lines(tmp_path / "killed" / "train.jsonl")


def test_a_signal_saves_the_state_and_the_same_command_goes_on(train, tmp_path, monkeypatch, capsys):
    from spanqa_training.run.loop import Trainer

    once = Trainer._train_batch
    seen = []

    def interrupted(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGTERM)
        return once(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_train_batch", interrupted)
    arguments = train(tmp_path / "run", "trainer.max_epochs=2")
    assert main(arguments) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "resuming at epoch 1, batch 3" in capsys.readouterr().err
    assert main(arguments) == 0, "a run that is done is done again at no cost"
    assert "the run is complete already and nothing is trained" in capsys.readouterr().err


@pytest.mark.parametrize("interval", [0.5, 1.0])
def test_a_signal_ends_a_validation_and_the_resumed_run_begins_with_it(train, tmp_path, monkeypatch, capsys, interval):
    options = [f"trainer.val_check_interval={interval}", "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
    options += ["validation_ds.batch_size=2", "validation_ds.num_samples=6"]
    options += ["training_ds.batch_size=4", "training_ds.num_samples=6"]
    assert main(train(tmp_path / "whole", *options)) == 0
    once, calls = validation.network_from_model, []

    def interrupting(*args):
        network = once(*args)

        def call(batch):
            assert (tmp_path / "run" / "state" / "state.pt").exists(), "a validation that is killed loses no step"
            calls.append(1)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGTERM)
            return network(batch)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(validation, "network_from_model", interrupting)
        assert main(train(tmp_path / "run", *options)) == 130
    assert len(calls) == 2
    assert "the same command resumes" in capsys.readouterr().err
    assert main(train(tmp_path / "run", *options)) == 0
    assert_same_weights(trained(tmp_path / "whole")[1], trained(tmp_path / "run")[1])
    assert lines(tmp_path / "whole" / "train.jsonl") == lines(tmp_path / "run" / "train.jsonl")


def test_a_validation_whose_result_was_lost_is_logged_once(train, tmp_path, monkeypatch):
    options = ["trainer.max_steps=1", "trainer.log_every_n_steps=1", "training_ds.batch_size=4"]
    options += ["validation_ds.num_samples=6", "training_ds.num_samples=6"]
    assert main(train(tmp_path / "whole", *options)) == 0
    once, seen = Keeper.save, []

    def dying(self, cursor):
        seen.append(1)
        if len(seen) == 2:
            raise MemoryError
        once(self, cursor)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", dying)
        with pytest.raises(MemoryError):
            main(train(tmp_path / "run", *options))
    assert main(train(tmp_path / "run", *options)) == 0
    assert lines(tmp_path / "whole" / "train.jsonl") == lines(tmp_path / "run" / "train.jsonl")


def test_other_data_or_another_base_does_not_resume_a_run(train, tiny_checkpoint, tmp_path, capsys, real_questions):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    data = {"training": tmp_path / "train.json", "validation": tmp_path / "dev.json"}

    def again():
        files = [f"training_ds.file={data['training']}", f"validation_ds.file={data['validation']}"]
        capsys.readouterr()
        code = main(train(tmp_path / "run", "-m", str(base), "trainer.max_steps=1", *files))
        return code, capsys.readouterr().err

    for path in data.values():
        write_squad(real_questions[:6], path)
    assert again()[0] == 0
    for kind, path in data.items():
        write_squad(real_questions[:7], path)
        code, told = again()
        assert code == 2
        assert f"state.pt: is of a run with another {kind} data: use another results folder, or delete it" in told
        write_squad(real_questions[:6], path)
    checkpoint, model = load_checkpoint(base)
    torch.nn.init.ones_(model.head.bias)
    narrow = replace(checkpoint.encoder, hidden_size=48)
    for other in ((checkpoint, model), (replace(checkpoint, encoder=narrow), SpanModel(narrow))):
        save_checkpoint(*other, base)
        code, told = again()
        assert code == 2
        assert "is of a run with another base model: use another results folder" in told


def test_a_second_run_in_a_folder_is_refused_and_harms_nothing(train, tmp_path, capsys):
    with sole_run(tmp_path / "run" / "state"):
        assert main(train(tmp_path / "run", "trainer.max_steps=1")) == 2
    assert "run/state: another run is at work there: wait for its end, or give another -r" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert main(train(tmp_path / "run", "trainer.max_steps=1")) == 0


def test_a_reader_that_goes_away_does_not_end_a_run(train, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "spanqa.cli",
        *train(tmp_path / "run", "trainer.max_steps=1", "optim.sched.power=2"),
    ]
    process = subprocess.run(command, stdout=writing, stderr=writing, timeout=60)
    os.close(writing)
    assert process.returncode == 0
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "trained-model.tlt").provenance["n_windows"]


def test_settings_that_nothing_reads_are_named(train, tmp_path, tiny_checkpoint, capsys):
    idle = ["optim.sched.hold_steps=3", "optim.sched.power=2", "optim.name=sgd", "optim.betas=[0.9,0.98]"]
    idle += ["restore_from=null", f"model.language_model.pretrained_model_name={tiny_checkpoint}"]
    idle += [f"model.tokenizer.vocab_file={tiny_checkpoint / 'tokenizer.json'}", "trainer.max_steps=1"]
    arguments = train(tmp_path / "run", *idle)
    del arguments[3:5]  # -m
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert "note: WarmupAnnealing does not read optim.sched.hold_steps, optim.sched.power" in told
    assert "note: sgd does not read optim.betas" in told
    assert "so these have no effect: model.tokenizer.vocab_file" in told


def test_the_checkpoints_with_the_lowest_validation_loss_are_kept(train, tmp_path):
    run = tmp_path / "run"
    options = ["trainer.max_epochs=5", "trainer.save_top_k=2", "trainer.val_check_interval=0.5", "optim.lr=5e-3"]
    assert main(train(run, *options)) == 0
    checks = [line for line in lines(run / "train.jsonl") if "val_loss" in line]
    assert len(checks) >= 10
    best = sorted(checks, key=lambda check: (check["val_loss"], check["step"]))[:2]
    kept = sorted(path.name for path in (run / "checkpoints").glob("*.ckpt"))
    assert kept == sorted(check["checkpoint"] for check in best)
    for check in best:
        checkpoint, _ = trained(run, check["checkpoint"])
        assert checkpoint.no_answer_threshold == check["threshold"]


def test_max_steps_ends_a_run_whatever_max_epochs_says(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "trainer.max_steps=3", "trainer.log_every_n_steps=1")) == 0
    assert [line["step"] for line in lines(tmp_path / "run" / "train.jsonl") if "loss" in line] == [1, 2, 3]
    assert "step 3 of 3" in capsys.readouterr().err


def test_summed_batches_are_one_large_batch(train, tmp_path, still_checkpoint):
    still = ["-m", str(still_checkpoint), "trainer.max_epochs=1", "training_ds.shuffle=false", "validation_ds.file=[]"]
    still += ["optim.name=sgd", "optim.lr=0.1"]
    assert main(train(tmp_path / "large", *still, "training_ds.batch_size=70", "training_ds.num_samples=48")) == 0
    assert main(
        train(
            tmp_path / "summed",
            *still,
            "training_ds.batch_size=35",
            "training_ds.num_samples=48",
            "trainer.accumulate_grad_batches=2",
        )
    ) == 0  # fmt: skip
    (checkpoint, large), (_, summed) = trained(tmp_path / "large"), trained(tmp_path / "summed")
    assert checkpoint.provenance["n_windows"] == 70
    assert_same_weights(large, summed, atol=1e-5)


def test_a_model_that_must_answer_is_trained_on_answerable_questions_alone(train, tmp_path, capsys):
    must_answer = ["trainer.max_epochs=1", "model.dataset.version_2_with_negative=false"]
    assert main(train(tmp_path / "run", *must_answer)) == 2
    error = capsys.readouterr().err
    assert "fifty.json: data[" in error
    assert "model.dataset.version_2_with_negative=true" in error


def test_a_threshold_in_the_spec_is_the_models(train, tmp_path):
    assert main(train(tmp_path / "run", "trainer.max_epochs=1", "model.dataset.null_score_diff_threshold=-1.5")) == 0
    assert trained(tmp_path / "run")[0].no_answer_threshold == -1.5


def test_a_model_without_negatives_answers_always(train, tmp_path, answerable_questions):
    files = [f"training_ds.file={answerable_questions}", f"validation_ds.file={answerable_questions}"]
    options = ["trainer.max_epochs=1", "model.dataset.version_2_with_negative=false"]
    assert main(train(tmp_path / "run", *files, *options)) == 0
    checkpoint, _ = trained(tmp_path / "run")
    assert checkpoint.no_answer_threshold == ALWAYS_ANSWER
    assert checkpoint.metrics["validation"]["model_threshold"]["f1"] == pytest.approx(
        checkpoint.metrics["validation"]["forced_answerable"]["f1"]
    )


def test_half_precision_weights_are_scored_as_they_are_stored(train, tmp_path, fifty_questions, capsys):
    assert main(train(tmp_path / "run", "trainer.max_epochs=1", "trainer.checkpoint_dtype=float16")) == 0
    model = tmp_path / "run" / "checkpoints" / "trained-model.tlt"
    capsys.readouterr()
    assert main(["evaluate", "-m", str(model), str(fifty_questions), "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stored = read_checkpoint(model).metrics["validation"]["model_threshold"]
    assert (report["model_threshold"]["exact"], report["model_threshold"]["f1"]) == (stored["exact"], stored["f1"])


@pytest.mark.parametrize("precision", ["16", "bf16", "32"])
def test_every_precision_trains_and_says_what_a_cpu_makes_of_it(train, tmp_path, capsys, precision):
    assert main(train(tmp_path / "run", "trainer.max_steps=2", f"trainer.precision={precision}")) == 0
    told = capsys.readouterr().err
    assert ("note: trainer.precision 16 needs a GPU: training in bf16 on the CPU" in told) == (precision == "16")


def test_the_windows_are_indexed_once_and_the_index_is_dropped_on_request(train, tmp_path):
    run = tmp_path / "run"
    assert main(train(run, "trainer.max_steps=1")) == 0
    (index,) = [path for path in (run / "index").iterdir() if path.is_dir()]
    assert main(train(tmp_path / "other", "trainer.max_steps=1", "model.dataset.use_cache=false")) == 0
    assert [path for path in (tmp_path / "other" / "index").iterdir() if path.is_dir()] == []
    assert index.is_dir()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_number_of_workers_changes_nothing(train, tmp_path, workers):
    options = ["trainer.max_steps=4", "validation_ds.file=[]"]
    assert main(train(tmp_path / "two", *options)) == 0
    assert main(train(tmp_path / "other", *options, f"training_ds.num_workers={workers}")) == 0
    assert_same_weights(trained(tmp_path / "two")[1], trained(tmp_path / "other")[1])


def test_another_spec_does_not_resume_a_run(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "trainer.max_epochs=1")) == 0
    assert main(train(tmp_path / "run", "trainer.max_epochs=2")) == 2
    assert "is of a run with another spec: use another results folder" in capsys.readouterr().err


def test_a_damaged_state_is_one_sentence(train, tmp_path, capsys):
    state = tmp_path / "run" / "state"
    state.mkdir(parents=True)
    (state / "state.pt").write_bytes(b"not a state")
    assert main(train(tmp_path / "run")) == 2
    assert "delete it to start again" in capsys.readouterr().err


def test_a_learning_rate_that_explodes_is_one_sentence(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "optim.lr=1e30", "trainer.max_epochs=2")) == 2
    assert "lower optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training_ds.batch_size=500", "model.dataset.drop_last=true"], "windows do not fill one batch: lower batch_"),
        (["trainer.accelerator=gpu"], "1 GPUs are asked for and 0 are there: lower -g, or set trainer.accelerator=cpu"),
        (["save_to=../elsewhere.tlt"], "save_to: must be a name, alone for a folder or with .tlt for one file"),
        (["save_to=model.nemo"], "save_to: must be a name"),
        (["training_ds.file=nowhere.json"], "nowhere.json: no such file"),
        (["restore_from=", "-m", "nowhere.tlt"], "nowhere.tlt: no such checkpoint"),
        (["model.dataset.max_seq_length=400"], "max_seq_length 400 is more than the model's 256 positions"),
        (["validation_ds.file=nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_anything_is_done(train, tmp_path, capsys, overrides, message):
    if torch.cuda.is_available() and "trainer.accelerator=gpu" in overrides:
        pytest.skip("there is a GPU")
    assert main(train(tmp_path / "run", *overrides)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("spanqa: error: ")
    assert message in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_course_of_a_run_is_drawn(train, tmp_path):
    run = tmp_path / "run"
    assert main(train(run, "trainer.max_epochs=3", "trainer.log_every_n_steps=1")) == 0
    picture = ElementTree.fromstring((run / "training.svg").read_text(encoding="utf-8"))
    shown = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"training loss", "validation loss", "F1", "exact match", "trained-model"} <= set(shown)
