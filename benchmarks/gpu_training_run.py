"""Short stretches of training by our own loop, for gpu_training.py: windows of one length or of real ones."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_setting import ROOT
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision
from numpy.typing import NDArray
from torch import Tensor

from spanqa.datasets import read_dataset
from spanqa.tokenization import load_tokenizer
from spanqa.windows import Batch, WindowMaker, WindowSettings
from spanqa_training.data.labels import LabelledBatch
from spanqa_training.data.windowing import windows_of_examples
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.run.loop import Trainer
from spanqa_training.run.progress import Progress
from spanqa_training.spec.files import load_spec
from spanqa_training.spec.schema import Spec

QUESTIONS = ROOT / "data" / "heldout200.json"
TOKENIZER = ROOT / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"
_WORDS = 30_000
_COPIES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Windows of given lengths, of random words; where the answer is depends on the words, so that it can be learned.

    Args:
        lengths: `int32 (n_windows,)`.
    """

    lengths: NDArray[np.int32]

    def batch(self, indices: NDArray[np.int64]) -> LabelledBatch:
        """Make some windows, padded to the longest of them; the same index gives the same window."""
        longest = int(self.lengths[indices].max())
        ids = np.zeros((len(indices), longest), dtype=np.int32)
        places = np.empty(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            drawn = np.random.default_rng(int(index))
            length = int(self.lengths[index])
            ids[row, :length] = drawn.integers(1000, _WORDS, length)
            places[row] = drawn.integers(1, length - 1)
            ids[row, places[row]] = 999
        mask = (ids > 0).astype(np.int32)
        types = (np.arange(longest) >= min(20, longest // 2)).astype(np.int32) * mask
        inputs = Batch(input_ids=ids, attention_mask=mask, token_type_ids=types)
        return LabelledBatch(inputs=inputs, starts=places, ends=places)


def length_source(length: int, n_windows: int) -> Source:
    """Windows that are all of one length."""
    return Source(lengths=np.full(n_windows, length, dtype=np.int32))


def real_source(longest: int) -> Source:
    """Windows as long as those of 200 real questions, in copies, so that batches of similar length can be made."""
    maker = WindowMaker(
        load_tokenizer(TOKENIZER),
        WindowSettings(max_seq_length=longest, doc_stride=longest // 3, max_query_length=longest // 6),
    )
    windows = windows_of_examples(read_dataset(QUESTIONS), maker)
    lengths = np.concatenate([one.seq_lengths for one in windows]).astype(np.int32)
    return Source(lengths=np.tile(lengths, _COPIES))


class _EnoughError(Exception):
    """The steps are done: what comes next would save gigabytes."""


@dataclasses.dataclass(kw_only=True)
class Course:
    """What a stretch of training went like.

    Args:
        losses: Of each step.
        scales: The loss scale before each step; none where the loss is not scaled.
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    scales: list[float] = dataclasses.field(default_factory=list)

    @staticmethod
    def model(config: EncoderConfig, device: str) -> SpanModel:
        """A model of random weights, always the same."""
        torch.manual_seed(0)
        with torch.device(device):
            return SpanModel(config)


def course_of(
    model: SpanModel,
    source: Source,
    *,
    device: str,
    precision: str,
    batch: int,
    steps: int,
    on_batch: Callable[[Tensor], None] = lambda _: None,
    first_scale: float | None = None,
) -> Course:
    """Train for some steps.

    Args:
        model: Trained in place.
        source: The windows.
        device: "cuda" or "cpu".
        precision: "32", "16" (with loss scaling, on a CPU too) or "bf16".
        batch: Windows a batch.
        steps: How many.
        on_batch: Given each batch's mask, before its step.
        first_scale: The loss scale to begin with; torch's own where not given.
    """
    course = Course()
    fabric, scaler = _fabric(device, precision, first_scale)
    spec = _spec(precision, batch=batch, steps=steps)

    def look(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        if scaler:
            course.scales.append(scaler.get_scale())
        on_batch(inputs[1])

    hook = model.register_forward_pre_hook(look)
    try:
        course.losses = _losses_of_training(fabric, model, source, spec)
    finally:
        hook.remove()
    return course


def _losses_of_training(fabric: Fabric, model: SpanModel, source: Source, spec: Spec) -> list[float]:
    def on_check(_: Progress) -> dict[str, Any]:
        raise _EnoughError

    with tempfile.TemporaryDirectory(prefix="spanqa-gpu-training-") as folder:
        results = Path(folder)
        trainer = Trainer(
            fabric,
            model,
            source,
            source.lengths,
            spec=spec,
            dataset=spec.training_ds,
            results=results,
            quiet=True,
        )
        with suppress(_EnoughError):
            trainer.run(on_check)
        lines = (results / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["loss"]) for line in lines]


def _fabric(device: str, precision: str, first_scale: float | None) -> tuple[Fabric, Any]:
    """One process's Fabric, and the scaler of its losses where there is one."""
    plugins: list[Any] = []
    scaler = None
    if precision == "16":
        scaler = torch.amp.GradScaler(device, init_scale=first_scale) if first_scale else torch.amp.GradScaler(device)
        plugins = [MixedPrecision("16-mixed", device, scaler=scaler)]
    elif precision == "bf16":
        plugins = [MixedPrecision("bf16-mixed", device)]
    return Fabric(accelerator=device, devices=1, plugins=plugins), scaler


def _spec(precision: str, *, batch: int, steps: int) -> Spec:
    overrides = ["trainer.seed=1", f"trainer.max_steps={steps}", "trainer.save_every_s=1e9", "training_ds.file=none"]
    overrides += [f"training_ds.batch_size={batch}", "optim.lr=1e-4", "trainer.gradient_clip_val=1.0"]
    overrides += [f"trainer.precision={precision}", "trainer.log_every_n_steps=1", "model.dataset.num_workers=4"]
    return load_spec(None, overrides, uses={"trainer", "model", "training_ds", "optim"}, warn=lambda _: None).spec
