"""Several processes train the model that one process would have trained."""

import json
import os
import signal
import sys
import threading

import pytest
import torch

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.run.loop import Trainer
from spanqa_training.run.resume import Keeper

SPEC = """\
trainer: {max_epochs: 1, seed: 1, precision: 32, save_top_k: 0, save_every_s: 0}
model: {dataset: {max_seq_length: 128, doc_stride: 48}}
training_ds: {file: '???', batch_size: 3}
validation_ds: {file: '???'}
optim: {lr: 1.0e-3, sched: {name: WarmupAnnealing, warmup_ratio: 0.1}}
"""

EPOCHS = ("-g", "2", "trainer.max_epochs=4")


@pytest.fixture(scope="module")
def command(tmp_path_factory, twenty_questions):
    spec = tmp_path_factory.mktemp("spec") / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")

    def arguments(model, results, *more):
        files = [f"training_ds.file={twenty_questions}", f"validation_ds.file={twenty_questions}"]
        return ["train", "-e", str(spec), "-m", str(model), "-r", str(results), "--quiet", *files, *more]

    return arguments


@pytest.fixture(scope="module", autouse=True)
def started_soon(forked):
    """test_secrets.py spawns processes as a user's command does."""
    start = torch.multiprocessing.start_processes

    def from_one(*arguments, **options):
        return start(*arguments, **{**options, "start_method": "forkserver"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.multiprocessing, "start_processes", from_one)
        yield


@pytest.fixture(scope="module")
def uninterrupted(command, tiny_checkpoint, tmp_path_factory):
    """The results of a run of two processes."""
    results = tmp_path_factory.mktemp("whole")
    assert main(command(tiny_checkpoint, results, *EPOCHS)) == 0
    return results


def trained(results):
    return load_checkpoint(results / "checkpoints" / "trained-model.tlt")


def interrupted_at_its_first_state(arguments, said):
    """The command in a process of its own, which is sent a signal once its first state is saved."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    command, start, save, stop = os.getpid(), torch.multiprocessing.start_processes, Keeper.save, Trainer.stop
    told = threading.Event()

    def saving(self, cursor):
        save(self, cursor)
        if self.fabric.global_rank == 0 and not told.is_set():
            os.kill(command, signal.SIGTERM)
            assert told.wait(60), "the command passed no signal on"

    def stopping(self):
        told.set()
        stop(self)

    Keeper.save, Trainer.stop = saving, stopping
    torch.multiprocessing.start_processes = lambda *some, **more: start(*some, **{**more, "start_method": "fork"})
    sys.exit(main(arguments))


def largest_difference(one, other):
    return max(float((tensor - other.state_dict()[name]).abs().max()) for name, tensor in one.state_dict().items())


def test_two_processes_end_with_the_model_of_one_with_batches_twice_as_large(command, tmp_path, still_checkpoint):
    """Without dropout, whose masks differ, and with SGD, as Adam makes whole steps of rounding errors."""
    sgd = ["optim.name=sgd", "optim.lr=0.1"]
    assert main(command(still_checkpoint, tmp_path / "two", "-g", "2", *sgd)) == 0
    assert main(command(still_checkpoint, tmp_path / "one", "training_ds.batch_size=6", *sgd)) == 0
    (two_says, two), (one_says, one) = trained(tmp_path / "two"), trained(tmp_path / "one")
    assert two_says.provenance["n_windows"] % 6
    assert largest_difference(two, one) < 2e-5
    assert two_says.metrics["validation"]["model_threshold"]["total"] == 20
    names = ("train_loss", "val_loss")
    losses = [[check[name] for check in says.provenance["checks"] for name in names] for says in (two_says, one_says)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_every_window_counts_alike_in_batches_of_as_many_tokens(command, tmp_path, still_checkpoint):
    """The gradients of a whole epoch, summed before one step, are those of its windows one by one."""
    sgd = ["optim.name=sgd", "optim.lr=0.1", "trainer.log_every_n_steps=1", "optim.sched=null"]
    two = ["-g", "2", "training_ds.batch_tokens=300", *sgd]
    assert main(command(still_checkpoint, tmp_path / "steps", *two)) == 0
    n_windows = trained(tmp_path / "steps")[0].provenance["n_windows"]
    log = (tmp_path / "steps" / "train.jsonl").read_text().splitlines()
    n_batches = max(json.loads(line)["step"] for line in log)
    assert n_windows / n_batches > 2 * 300 // 128
    assert main(command(still_checkpoint, tmp_path / "two", f"trainer.accumulate_grad_batches={n_batches}", *two)) == 0
    one = ["training_ds.batch_size=1", f"trainer.accumulate_grad_batches={n_windows}", *sgd]
    assert main(command(still_checkpoint, tmp_path / "one", *one)) == 0
    (two_says, ours), (one_says, theirs) = trained(tmp_path / "two"), trained(tmp_path / "one")
    assert largest_difference(ours, theirs) < 2e-6 < largest_difference(ours, trained(tmp_path / "steps")[1])
    losses = [says.provenance["checks"][0]["train_loss"] for says in (two_says, one_says)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    card = (tmp_path / "two" / "model_card.md").read_text(encoding="utf-8")
    assert "batches of windows of at most 300 word pieces together on each of 2 processes, " in card


def test_an_interrupted_run_of_two_processes_ends_as_an_uninterrupted_one(
    command, tmp_path, tiny_checkpoint, uninterrupted, forked
):
    """With dropout: every process's own generator is restored."""
    arguments, said = command(tiny_checkpoint, tmp_path / "cut", *EPOCHS), tmp_path / "said"
    # A process of its own: the signal goes to the whole command, as a user's does, and not to the tests.
    process = forked.Process(target=interrupted_at_its_first_state, args=(arguments, said))
    process.start()
    process.join()
    assert process.exitcode == 130, said.read_text()
    assert "the same command resumes" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert main(arguments) == 0
    assert largest_difference(trained(uninterrupted)[1], trained(tmp_path / "cut")[1]) == 0


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(command, tmp_path, tiny_checkpoint, capsys):
    assert main(command(tiny_checkpoint, tmp_path / "run", "trainer.gpus=1", "trainer.max_steps=1")) == 0
    state = tmp_path / "run" / "state" / "state.pt"
    content = torch.load(state, weights_only=True)
    torch.save({**content, "world_size": 2}, state)
    assert main(command(tiny_checkpoint, tmp_path / "run", "trainer.gpus=1", "trainer.max_steps=1")) == 2
    assert "-g 2" in capsys.readouterr().err


def test_an_error_in_one_process_is_one_sentence(command, tmp_path, tiny_checkpoint, capfd):
    assert main(command(tiny_checkpoint, tmp_path / "run", "-g", "2", "optim.lr=1e30")) == 2
    error = capfd.readouterr().err
    assert "spanqa: error: the loss is" in error
    assert "lower optim.lr" in error
    assert "Traceback" not in error
