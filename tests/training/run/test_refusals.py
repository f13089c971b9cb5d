"""What cannot be trained, and what has no effect, is said in one line."""

import pytest
import torch

from spanqa.cli import main
from spanqa_training.run import launch


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training_ds.batch_size=500", "model.dataset.drop_last=true"], "windows do not fill one batch: lower batch_"),
        (["training_ds.batch_tokens=100"], "batch_tokens is 100, the longest window 128 word pieces: give at"),
        (["training_ds.batch_tokens=0"], "training_ds.batch_tokens: must be at least 1 or null"),
        (["training_ds.batch_tokens=400", "model.dataset.drop_last=true"], "must be null where drop_last is true"),
        (["validation_ds.batch_tokens=400"], "validation_ds.batch_tokens: must be null outside training data"),
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


def test_a_model_that_must_answer_is_trained_on_answerable_questions_alone(train, tmp_path, capsys):
    must_answer = ["trainer.max_epochs=1", "model.dataset.version_2_with_negative=false"]
    assert main(train(tmp_path / "run", *must_answer)) == 2
    error = capsys.readouterr().err
    assert "twenty.json: data[" in error
    assert "model.dataset.version_2_with_negative=true" in error


def test_a_learning_rate_that_explodes_is_one_sentence(train, tmp_path, capsys):
    assert main(train(tmp_path / "run", "optim.lr=1e30", "trainer.max_epochs=2")) == 2
    assert "lower optim.lr" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("precision", "has_bfloat16", "taken"),
    [
        ("16", True, "bf16"),
        ("16", False, "float32, as its cores have no bfloat16"),
        ("bf16", False, ""),
        ("32", True, ""),
    ],
)
def test_every_precision_trains_and_says_what_a_cpu_makes_of_it(
    train, tmp_path, capsys, monkeypatch, precision, has_bfloat16, taken
):
    monkeypatch.setattr(launch, "has_bfloat16", lambda: has_bfloat16)
    assert main(train(tmp_path / "run", "trainer.max_steps=2", f"trainer.precision={precision}")) == 0
    told = capsys.readouterr().err
    assert ("note: trainer.precision 16 needs a GPU" in told) == bool(taken)
    assert f"training in {taken} on the CPU\n" in told or not taken


@pytest.mark.parametrize(
    ("described", "has_bfloat16"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni avx512_bf16\n", True),
        ("flags\t\t: fpu avx2 amx_tile amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t\t: bf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_is_what_the_cores_say_they_have(tmp_path, described, has_bfloat16):
    path = tmp_path / "cpuinfo"
    if described is not None:
        path.write_text(described)
    assert launch.has_bfloat16(path) == has_bfloat16
