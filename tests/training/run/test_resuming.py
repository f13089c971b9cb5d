"""An interrupted run ends as if nothing had happened, and no run goes on from what is not its own."""

import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.model import SpanModel
from spanqa_training.run import validation
from spanqa_training.run.resume import Keeper
from spanqa_training.run.state import sole_run


def killed_at_its_second_state(arguments):
    save, seen = Keeper.save, []

    def saving(self, cursor):
        save(self, cursor)
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Keeper.save = saving
    main(arguments)


@pytest.mark.parametrize("batches", ["training_ds.batch_size=4", "training_ds.batch_tokens=512"])
def test_a_run_that_was_killed_resumes_to_the_same_weights(train, tmp_path, tools, forked, batches):
    short = ["trainer.max_epochs=6", "optim.lr=1e-3", "trainer.save_every_s=0", "trainer.log_every_n_steps=1", batches]
    assert main(train(tmp_path / "whole", *short)) == 0
    killed = train(tmp_path / "killed", *short)
    process = forked.Process(target=killed_at_its_second_state, args=(killed,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "killed" / "state" / "state.pt").exists()
    assert main(killed) == 0
    (one, whole), (other, resumed) = tools.trained(tmp_path / "whole"), tools.trained(tmp_path / "killed")
    tools.assert_same_weights(whole, resumed)
    assert one.metrics == other.metrics
    assert tools.lines(tmp_path / "whole" / "train.jsonl") == tools.lines(tmp_path / "killed" / "train.jsonl")


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
def test_a_signal_ends_a_validation_and_the_resumed_run_begins_with_it(
    train, tmp_path, tools, monkeypatch, capsys, interval
):
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
    tools.assert_same_weights(tools.trained(tmp_path / "whole")[1], tools.trained(tmp_path / "run")[1])
    assert tools.lines(tmp_path / "whole" / "train.jsonl") == tools.lines(tmp_path / "run" / "train.jsonl")


def test_a_validation_whose_result_was_lost_is_logged_once(train, tmp_path, tools, monkeypatch):
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
    assert tools.lines(tmp_path / "whole" / "train.jsonl") == tools.lines(tmp_path / "run" / "train.jsonl")


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
    narrow = replace(checkpoint.encoder, hidden_size=24)
    for other in ((checkpoint, model), (replace(checkpoint, encoder=narrow), SpanModel(narrow))):
        save_checkpoint(*other, base)
        code, told = again()
        assert code == 2
        assert "is of a run with another base model: use another results folder" in told


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


def test_a_second_run_in_a_folder_is_refused_and_harms_nothing(train, tmp_path, capsys):
    with sole_run(tmp_path / "run" / "state"):
        assert main(train(tmp_path / "run", "trainer.max_steps=1")) == 2
    assert "run/state: another run is at work there: wait for its end, or give another -r" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert main(train(tmp_path / "run", "trainer.max_steps=1")) == 0
