"""`spanqa adapt` from the command line to a checkpoint that `spanqa train` starts from, whatever interrupts it."""

import signal
from contextlib import contextmanager

import pytest
import torch

from spanqa.cli import main
from spanqa_training.adaptation import adaptation_run
from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head, save_checkpoint
from spanqa_training.run.loop import Trainer
from spanqa_training.run.resume import Keeper


@pytest.fixture
def memorisable(tmp_path):
    """A text of one sentence, again and again, in several documents."""
    sentence = "The first bridge over the old river was built of stone near the northern tower of the city . "
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(sentence * (30 + number), encoding="utf-8")
    return [str(tmp_path / f"{number}.txt") for number in range(4)]


def test_a_text_is_learned_by_heart_and_the_result_can_be_trained(
    adapt, memorisable, tmp_path, tools, twenty_questions, tiny_checkpoint, capsys
):
    run = tmp_path / "run"
    files = [f"training_ds.file=[{','.join(memorisable)}]", "trainer.max_steps=30", "optim.lr=1e-2"]
    assert main(adapt(run, *files)) == 0
    out, said = capsys.readouterr()
    assert out.strip() == str(tools.adapted(run))
    assert "has no masked-LM head: a fresh one is trained" in said
    assert "pieces a word" in said
    found = tools.metrics(run)
    before, after = found["held_out"]["before"], found["held_out"]["after"]
    assert before["masked"] == after["masked"] > 0
    assert after["perplexity"] < 0.2 * before["perplexity"]
    assert found["vocabulary"]["pieces_a_word"] >= 1
    log = tools.lines(run)
    assert log[0] == {"step": 0, "epoch": 0, "val_loss": before["loss"], "perplexity": before["perplexity"]} | {
        "masked": before["masked"]
    }
    assert log[-1]["perplexity"] == after["perplexity"]
    assert "perplexity" in (run / "training.svg").read_text(encoding="utf-8")
    checkpoint, model = load_checkpoint(tools.adapted(run))
    _, base = load_checkpoint(tiny_checkpoint)
    assert torch.equal(model.head.weight, base.head.weight), "its head for questions is the base model's"
    assert not torch.equal(model.embeddings.word.weight, base.embeddings.word.weight)
    assert checkpoint.metrics == found
    card = (run / "model_card.md").read_text(encoding="utf-8")
    for part in ("0.txt", "held out", "whole words, 15%", f"| after | {after['loss']:.4f} |"):
        assert part in card
    again = adapt(tmp_path / "again", *files, "-m", str(tools.adapted(run)), "trainer.max_steps=1")
    assert main(again) == 0
    assert "masked-LM head" not in capsys.readouterr().err
    assert tools.metrics(tmp_path / "again")["held_out"]["before"] == after, "the head was kept"
    train = ["train", "-m", str(tools.adapted(run)), "-r", str(tmp_path / "trained"), "--quiet", "trainer.precision=32"]
    train += [f"training_ds.file={twenty_questions}", "trainer.max_steps=1", "model.dataset.doc_stride=16"]
    assert main([*train, "model.dataset.max_query_length=20"]) == 0
    trained, _ = load_checkpoint(tmp_path / "trained" / "checkpoints" / "trained-model.tlt")
    assert trained.provenance["adaptation"]["texts"] == ["0.txt", "1.txt", "2.txt", "3.txt"]


def test_an_index_is_read_as_the_texts_that_it_was_made_of(adapt, tmp_path, tools, fifty_questions, capsys):
    index = tmp_path / "papers.index"
    assert main(["index", str(fifty_questions), "-o", str(index), "--passage-words", "30", "--quiet"]) == 0
    counted = []
    for name, given in (("files", fifty_questions), ("index", index)):
        options = [f"training_ds.file={given}", f"validation_ds.file=[{given}]", "trainer.max_steps=1"]
        assert main(adapt(tmp_path / name, *options)) == 0
        counted += [line for line in capsys.readouterr().err.splitlines() if "13 texts held out" in line]
    assert len(counted) == 2
    assert counted[0] == counted[1]
    checkpoint, _ = load_checkpoint(tools.adapted(tmp_path / "index"))
    assert checkpoint.provenance["adaptation"]["texts"] == ["papers.index"]


@pytest.fixture
def stop(monkeypatch):
    """Does what a signal does, without one: a real one that comes amiss ends the process that runs the tests."""
    handlers = []

    @contextmanager
    def handled(handler):
        handlers.append(handler)
        yield

    monkeypatch.setattr(adaptation_run, "handled", handled)
    return lambda: handlers[-1](signal.SIGTERM, None)


def test_a_run_that_dies_or_is_stopped_ends_with_the_same_weights(adapt, tmp_path, tools, monkeypatch, capsys, stop):
    options = ["trainer.save_every_s=0", "trainer.val_check_interval=0.5", "trainer.max_steps=6"]
    assert main(adapt(tmp_path / "whole", *options)) == 0
    once, train_batch, steps, saves = Keeper.save, Trainer._train_batch, [], []

    def dying(self, cursor):
        saves.append(1)
        if len(saves) == 2:
            raise MemoryError
        once(self, cursor)

    def stopped(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 2:
            stop()
        return train_batch(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", dying)
        with pytest.raises(MemoryError):
            main(adapt(tmp_path / "cut", *options))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", stopped)
        assert main(adapt(tmp_path / "cut", *options)) == 130
    capsys.readouterr()
    assert main(adapt(tmp_path / "cut", *options)) == 0
    assert "resuming at epoch 1" in capsys.readouterr().err
    tools.assert_same_weights(tools.weights(tmp_path / "whole"), tools.weights(tmp_path / "cut"))
    assert tools.lines(tmp_path / "whole") == tools.lines(tmp_path / "cut")
    assert tools.metrics(tmp_path / "whole") == tools.metrics(tmp_path / "cut")
    assert main(adapt(tmp_path / "cut", *options)) == 0
    assert "the run is complete already" in capsys.readouterr().err


def test_a_signal_before_the_first_step_is_obeyed(adapt, tmp_path, tools, monkeypatch, capsys, stop):
    from spanqa_training.adaptation import held_out

    once = held_out.share_of_held_out

    def interrupting(*args):
        stop()
        return once(*args)

    monkeypatch.setattr(held_out, "share_of_held_out", interrupting)
    monkeypatch.setattr(held_out, "_BATCH", 1)
    assert main(adapt(tmp_path / "run")) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_other_text_or_another_base_does_not_resume_a_run(adapt, tmp_path, tools, memorisable, capsys):
    assert main(adapt(tmp_path / "run", "trainer.max_steps=1")) == 0
    capsys.readouterr()
    assert main(adapt(tmp_path / "run", "trainer.max_steps=1", "--held-out", "0.5")) == 2
    assert "is of a run with another text: use another results folder" in capsys.readouterr().err
    assert main(adapt(tmp_path / "run", "trainer.max_steps=1", "-m", str(tools.adapted(tmp_path / "run")))) == 2
    assert "is of a run with another" in capsys.readouterr().err


def test_what_cannot_be_adapted_is_one_sentence(adapt, tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "short.txt").write_text("a bridge", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    save_checkpoint(checkpoint, model, tmp_path / "bad", lm_head={"transform.weight": torch.ones(2, 2)})
    assert load_lm_head(tmp_path / "bad")
    for given, message in (
        ([f"training_ds.file={tmp_path / 'short.txt'}"], "less than one sequence of 64: give more text"),
        ([f"training_ds.file={tmp_path / 'empty'}"], "empty: holds no file that is read"),
        (["training_ds.file=opensearch://localhost:9200/papers"], "make an index of that in a folder (`spanqa index"),
        (["training_ds.file=[]"], "training_ds.file: must be a file or a list of files"),
        (["--held-out", "1.5"], "--held-out 1.5: give a share of the texts"),
        (["-m", str(tmp_path / "bad")], "the masked-LM head holds transform.weight and should hold"),
        (["-m", str(tmp_path / "nowhere")], "no such checkpoint"),
    ):
        assert main(adapt(tmp_path / "run", *given)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("spanqa: error: ")
        assert message in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_ends_early_where_the_held_out_text_is_read_no_better(adapt, tmp_path, tools, capsys):
    options = ["optim.lr=1e-12", "trainer.early_stopping_patience=1", "trainer.max_epochs=9"]
    assert main(adapt(tmp_path / "run", *options)) == 0
    assert "stopping early after step" in capsys.readouterr().err
    log = [line for line in tools.lines(tmp_path / "run") if "val_loss" in line]
    assert "val_loss has not fallen below the" in log[-1]["stopped_early"]
    assert main(adapt(tmp_path / "other", *options, "trainer.early_stopping_metric=f1")) == 2
    assert "trainer.early_stopping_metric: must be val_loss for adapt, got 'f1'" in capsys.readouterr().err
    assert main(adapt(tmp_path / "none", *options, "--held-out", "0")) == 2
    assert "trainer.early_stopping_patience: needs held-out texts" in capsys.readouterr().err


def test_several_machines_are_refused(adapt, tmp_path, capsys):
    assert main(adapt(tmp_path / "run", "trainer.num_nodes=2")) == 2
    assert "spanqa adapt runs on one machine: start it without torchrun" in capsys.readouterr().err
