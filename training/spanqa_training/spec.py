"""What a training spec can say: frozen dataclasses with the key names of the toolkits that spanqa replaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from spanqa.errors import SettingsError
from spanqa.windows import WindowSettings
from spanqa_training.errors import SpecError

PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
DTYPES = ("float32", "float16")
SCHEDULES = ("WarmupAnnealing", "CosineAnnealing")


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """How long and how precisely to train."""

    max_epochs: int = 2
    """Passes over the training data."""
    precision: str = "32"
    """32, 16 (mixed, with loss scaling) or bf16 (mixed)."""
    gradient_clip_val: float = 0.0
    """Largest global norm of the gradients; 0 does not clip."""
    accumulate_grad_batches: int = 1
    """Batches summed before each step of the optimiser."""
    seed: int = 42
    """Seeds the batch order, dropout and a fresh head."""
    checkpoint_dtype: str = "float32"
    """float32, or float16 for half the size; the model is rounded before it is validated."""
    save_every_s: float = 120.0
    """Seconds between two saves of the state that an interrupted run resumes from."""


@dataclass(frozen=True, kw_only=True)
class ModelDatasetSpec:
    """How text becomes windows, and windows answers."""

    max_seq_length: int = 384
    """Longest encoder input in word pieces."""
    doc_stride: int = 128
    """Step between windows in word pieces."""
    max_query_length: int = 64
    """Longest question in word pieces."""
    max_answer_length: int = 30
    """Longest answer in word pieces."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model's settings."""

    dataset: ModelDatasetSpec = field(default_factory=ModelDatasetSpec)


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """One dataset: SQuAD files, concatenated."""

    file: tuple[str, ...] = ()
    """One file or a list of files."""
    batch_size: int = 24
    """Windows in a batch."""
    num_samples: int = -1
    """Questions used, drawn at random with the seed; -1 for all."""
    shuffle: bool = True
    """Whether to shuffle windows in each epoch."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """The learning rate over the steps."""

    name: str = "WarmupAnnealing"
    """WarmupAnnealing (linear to zero) or CosineAnnealing, both after a linear warm-up."""
    warmup_ratio: float = 0.1
    """Share of all steps that warms up."""


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """The optimiser."""

    name: str = "adamw"
    """adamw is the only one."""
    lr: float = 3e-5
    """Highest learning rate."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """AdamW's two betas."""
    weight_decay: float = 0.0
    """Decay of weight matrices; biases and norms have none, as in BERT."""
    sched: ScheduleSpec = field(default_factory=ScheduleSpec)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A training run."""

    restore_from: str = ""
    """Checkpoint folder to start from."""
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    training_ds: DataSpec = field(default_factory=DataSpec)
    validation_ds: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)

    def __post_init__(self) -> None:
        def check(ok: bool, key: str, rule: str, got: object) -> None:
            if not ok:
                raise SpecError(f"{key}: must be {rule}, got {got!r}")

        trainer, optim, data = self.trainer, self.optim, self.training_ds
        check(trainer.max_epochs >= 1, "trainer.max_epochs", "at least 1", trainer.max_epochs)
        check(trainer.precision in PRECISIONS, "trainer.precision", "32, 16 or bf16", trainer.precision)
        check(
            trainer.checkpoint_dtype in DTYPES,
            "trainer.checkpoint_dtype",
            " or ".join(DTYPES),
            trainer.checkpoint_dtype,
        )
        check(trainer.gradient_clip_val >= 0, "trainer.gradient_clip_val", "at least 0", trainer.gradient_clip_val)
        check(
            trainer.accumulate_grad_batches >= 1,
            "trainer.accumulate_grad_batches",
            "at least 1",
            trainer.accumulate_grad_batches,
        )
        check(optim.name == "adamw", "optim.name", "adamw", optim.name)
        check(optim.lr > 0, "optim.lr", "above 0", optim.lr)
        check(len(optim.betas) == 2 and all(0 <= b < 1 for b in optim.betas), "optim.betas", "two in 0..1", optim.betas)
        check(optim.weight_decay >= 0, "optim.weight_decay", "at least 0", optim.weight_decay)
        check(optim.sched.name in SCHEDULES, "optim.sched.name", " or ".join(SCHEDULES), optim.sched.name)
        check(0 <= optim.sched.warmup_ratio <= 1, "optim.sched.warmup_ratio", "in 0..1", optim.sched.warmup_ratio)
        check(bool(data.file), "training_ds.file", "a file or a list of files", data.file)
        for key, dataset in (("training_ds", data), ("validation_ds", self.validation_ds)):
            check(dataset.batch_size >= 1, f"{key}.batch_size", "at least 1", dataset.batch_size)
            n_samples = dataset.num_samples
            check(n_samples == -1 or n_samples > 0, f"{key}.num_samples", "-1 or above 0", n_samples)
        check(bool(self.restore_from), "restore_from", "a checkpoint folder (or give -m)", self.restore_from)
        self.window_settings()

    def window_settings(self) -> WindowSettings:
        """The windows that model.dataset asks for.

        Raises:
            SpecError: If its lengths contradict each other.
        """
        dataset = self.model.dataset
        try:
            return WindowSettings(
                max_seq_length=dataset.max_seq_length,
                doc_stride=dataset.doc_stride,
                max_query_length=dataset.max_query_length,
            )
        except SettingsError as error:
            raise SpecError(f"model.dataset: {error}") from error
