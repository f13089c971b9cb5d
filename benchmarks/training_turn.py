"""One turn of training.py: trains in this process, by our loop or by the plain one, and prints its figures as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LENGTH, OVERLAP = 384, 128
WARM_UP = 2
"""Steps before the clock."""
SEED = 42


class Clock:
    """Looks at each batch when a model is about to be given it.

    Args:
        device: Where the model is.
        warm_up: Batches before the time counts.
    """

    def __init__(self, device: str, warm_up: int = WARM_UP) -> None:
        self._device, self._left = device, warm_up
        self._began = self._ended = 0.0
        self.windows = self.tokens = self.padded = self.steps = 0

    def batch(self, mask: Tensor) -> None:
        """Take a batch's mask, `(n, length)`; the first that counts starts the time."""
        if self._left:
            self._left -= 1
            return
        if not self.steps:
            _reset_peak(self._device)
            self._began = time.perf_counter()
        self.steps += 1
        self.windows += mask.shape[0]
        self.padded += mask.numel()
        self.tokens += int(mask.sum())

    def stop(self) -> None:
        """End the time."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        self._ended = time.perf_counter()

    def figures(self, questions_per_window: float) -> dict[str, float]:
        """What was measured."""
        seconds = self._ended - self._began
        return {
            "steps": self.steps,
            "seconds": seconds,
            "windows_per_s": self.windows / seconds,
            "questions_per_s": self.windows * questions_per_window / seconds,
            "tokens_per_s": self.tokens / seconds,
            "padding_share": 1 - self.tokens / self.padded,
            "peak_mb": peak_mb(self._device),
        }


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew


def peak_mb(device: str) -> float:
    """Peak memory since the time began: the GPU's, or this process's resident memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def ours(asked: dict[str, Any]) -> dict[str, float]:
    """Train by our loop."""
    from lightning.fabric import Fabric

    from spanqa.datasets import read_dataset
    from spanqa.windows import WindowMaker, WindowSettings
    from spanqa_training.checkpoints.checkpoint import load_checkpoint
    from spanqa_training.data.window_index import build_or_open_index
    from spanqa_training.run.launch import accelerator_of, precision_of
    from spanqa_training.run.loop import Trainer
    from spanqa_training.run.progress import Progress
    from spanqa_training.spec.files import load_spec

    folder = Path(asked["folder"])
    checkpoint, model = load_checkpoint(asked["checkpoint"])
    file = folder / "questions.json"
    tokenizer = checkpoint.tokenizer()
    n_pieces = statistics.median(len(tokenizer.pieces(example.question).ids) for example in read_dataset(file))
    length = min(LENGTH, checkpoint.encoder.max_positions)
    # The plain loop says how far windows overlap, ours how far they step: equal for a question of median length.
    step = max(1, int(length - n_pieces - 3 - min(OVERLAP, length // 3)))
    maker = WindowMaker(tokenizer, WindowSettings(max_seq_length=length, doc_stride=step))
    steps = asked["steps"] and asked["steps"] + WARM_UP
    overrides = [
        *(f"training_ds.file={file}", f"training_ds.batch_size={asked['batch_size']}", "trainer.save_every_s=1e9"),
        *(f"trainer.precision={asked['precision']}", "trainer.max_epochs=1", "trainer.gradient_clip_val=1.0"),
        *(f"trainer.accelerator={'gpu' if asked['device'] == 'cuda' else 'cpu'}", f"trainer.seed={SEED}"),
        *(f"trainer.gradient_checkpointing={str(asked['recompute']).lower()}", "optim.sched.name=WarmupAnnealing"),
        *([f"trainer.max_steps={steps}"] if steps else []),
    ]
    if asked["by_tokens"]:
        with build_or_open_index([file], maker, folder=folder / "index") as index:
            most = max(int(asked["batch_size"] * index.lengths.mean()), int(index.lengths.max()))
        overrides.append(f"training_ds.batch_tokens={most}")
    spec = load_spec(None, overrides, uses={"trainer", "training_ds", "optim"}, warn=lambda _: None).spec
    _as_the_command_does(asked["device"])
    accelerator = accelerator_of(spec.trainer)
    precision: Any = precision_of(spec.trainer, accelerator)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    clock = Clock(asked["device"])
    model.register_forward_pre_hook(lambda _module, inputs: clock.batch(inputs[1]))

    def on_check(progress: Progress) -> dict[str, Any]:
        clock.stop()
        return {"step": progress.step}

    with build_or_open_index([file], maker, folder=folder / "index") as index:
        results = folder / f"results-{time.monotonic_ns()}"
        trainer = Trainer(
            fabric, model, index, index.lengths, spec=spec, dataset=spec.training_ds, results=results, quiet=True
        )
        trainer.run(on_check)
        return clock.figures(index.n_questions / index.n_windows)


def _as_the_command_does(device: str) -> None:
    """Do what `spanqa train` does before it trains on a CPU."""
    from spanqa_training.run.allocator import keep_freed_memory

    if device == "cpu":
        keep_freed_memory()


def plain(asked: dict[str, Any]) -> dict[str, float]:
    """Train by a plain loop over transformers' model."""
    from transformers import AutoTokenizer, BertForQuestionAnswering, get_linear_schedule_with_warmup
    from transformers.utils.logging import disable_progress_bar

    from spanqa.datasets import read_dataset

    disable_progress_bar()
    device, precision = asked["device"], asked["precision"]
    folder = Path(asked["folder"])
    model = BertForQuestionAnswering.from_pretrained(folder / "hugging-face").to(device).train()
    tokenizer = AutoTokenizer.from_pretrained(folder / "hugging-face")
    length = min(LENGTH, model.config.max_position_embeddings)
    examples = read_dataset(folder / "questions.json")
    rows = _padded_windows(tokenizer, examples, length, min(OVERLAP, length // 3))
    n_windows = len(rows["input_ids"])
    torch.manual_seed(SEED)
    batches = torch.randperm(n_windows).split(asked["batch_size"])
    batches = batches[: asked["steps"] + WARM_UP] if asked["steps"] else batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(batches))
    scaler = torch.amp.GradScaler(device, enabled=precision == "16")
    dtype = {"16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    clock = Clock(device)
    for batch in batches:
        inputs = {name: rows[name][batch].to(device) for name in rows}
        clock.batch(inputs["attention_mask"])
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = model(**inputs).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
    clock.stop()
    return clock.figures(len(examples) / n_windows)


def _padded_windows(tokenizer: Any, examples: Any, length: int, overlap: int) -> dict[str, Tensor]:
    """All windows at one length; their labels are the tokens of the first gold answer, [CLS] where it is not inside."""
    cut = tokenizer(
        [example.question for example in examples],
        [example.context for example in examples],
        truncation="only_second",
        max_length=length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    starts, ends = [], []
    for row, of_example in enumerate(cut["overflow_to_sample_mapping"]):
        answers = examples[of_example].answers
        start = end = 0
        if answers:
            low, high = answers[0].char_start, answers[0].char_start + len(answers[0].text)
            chars = np.array(cut["offset_mapping"][row])
            context = np.array([part == 1 for part in cut.sequence_ids(row)])
            first = np.flatnonzero(context & (chars[:, 0] <= low) & (low < chars[:, 1]))
            last = np.flatnonzero(context & (chars[:, 0] < high) & (high <= chars[:, 1]))
            if len(first) and len(last):
                start, end = int(first[0]), int(last[-1])
        starts.append(start)
        ends.append(end)
    names = ("input_ids", "attention_mask", "token_type_ids")
    rows = {name: torch.tensor(cut[name]) for name in names}
    return {**rows, "start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(plain(request) if request["plain"] else ours(request)))
