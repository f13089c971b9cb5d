"""float16 with loss scaling, through the very scaler that a GPU run uses, here on a CPU."""

import dataclasses

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision

from spanqa.windows import WindowMaker
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.data.window_index import build_or_open_index
from spanqa_training.errors import RunError
from spanqa_training.optimization.loss_scale import MOST_OVERFLOWS, OverflowWatch
from spanqa_training.run.loop import Trainer
from spanqa_training.spec.files import load_spec
from spanqa_training.spec.schema import Spec


@pytest.fixture
def trainer(tmp_path, tiny_checkpoint, twenty_questions):
    """Makes a process of a run on twenty real questions, and its scaler."""
    overrides = [f"training_ds.file={twenty_questions}", "training_ds.batch_size=3", "trainer.max_epochs=2"]
    overrides += ["optim.lr=1e-3"]
    spec = load_spec(None, [*overrides, "trainer.save_every_s=0"], uses=set(Spec.__dataclass_fields__), warn=print).spec
    checkpoint, _ = load_checkpoint(tiny_checkpoint)
    index = build_or_open_index(
        spec.training_ds.file, WindowMaker(checkpoint.tokenizer(), checkpoint.windows), folder=tmp_path / "index"
    )

    def make(results, *, scale, batch_size=3):
        dataset = dataclasses.replace(spec.training_ds, batch_size=batch_size)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=5)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
        _, model = load_checkpoint(tiny_checkpoint)
        results.mkdir(exist_ok=True)
        made = Trainer(fabric, model, index, index.lengths, spec=spec, dataset=dataset, results=results, quiet=True)
        return made, model, scaler

    yield make
    index.close()


def entry(progress):
    return {"step": progress.step, "loss": progress.loss}


def test_steps_whose_gradients_overflow_are_skipped_and_the_scale_falls_until_they_fit(trainer, tmp_path):
    run, model, scaler = trainer(tmp_path / "run", scale=2.0**80)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert run.run(entry)
    assert scaler.get_scale() < 2.0**80
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    fits, moved, _ = trainer(tmp_path / "fits", scale=2.0**10)
    assert fits.run(entry)
    assert not torch.equal(moved.state_dict()["head.weight"], before["head.weight"])
    assert fits.log[-1]["loss"] < fits.log[0]["loss"]


def test_gradients_that_overflow_in_every_step_end_the_run_with_what_to_do(trainer, tmp_path):
    run, _, scaler = trainer(tmp_path / "run", scale=2.0**120, batch_size=1)
    with pytest.raises(RunError, match="25 steps in a row overflowed float16, up to step 25") as raised:
        run.run(entry)
    assert str(raised.value).endswith("set trainer.precision=bf16 (or 32), or lower optim.lr")
    assert scaler.get_scale() == 2.0**95


def test_an_overflow_now_and_then_ends_no_run():
    watch = OverflowWatch(scaler := Falling())
    for step in range(1, 200):
        watch.before_step()
        scaler.scale *= 1.0 if step % MOST_OVERFLOWS == 0 else 0.5
        watch.after_step(step)


class Falling:
    scale = 2.0**200

    def get_scale(self):
        return self.scale


def test_the_scale_is_part_of_the_state_that_a_run_resumes_from(trainer, tmp_path):
    whole, wanted, wanted_scaler = trainer(tmp_path / "whole", scale=2.0**30)
    assert whole.run(entry)
    cut, _, scaler = trainer(tmp_path / "cut", scale=2.0**30)
    seen = []
    train_batch = cut._train_batch

    def counting(*args, **kwargs):
        seen.append(1)
        if len(seen) == 5:
            cut.stop()
        return train_batch(*args, **kwargs)

    cut._train_batch = counting
    assert not cut.run(entry)
    left_at = scaler.get_scale()
    assert left_at != 1.0
    resumed, model, fresh = trainer(tmp_path / "cut", scale=1.0)
    assert fresh.get_scale() == left_at
    assert resumed.run(entry)
    assert fresh.state_dict() == wanted_scaler.state_dict()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_in_float16_with_loss_scaling(tmp_path, tiny_checkpoint, fifty_questions):
    from spanqa.cli import main

    files = [f"training_ds.file={fifty_questions}", f"validation_ds.file={fifty_questions}"]
    options = ["trainer.precision=16", "trainer.accelerator=gpu", "trainer.max_epochs=2", "--quiet"]
    assert main(["train", "-m", str(tiny_checkpoint), "-r", str(tmp_path), *files, *options]) == 0
    assert torch.load(tmp_path / "state" / "state.pt", weights_only=True)["scaler"]
