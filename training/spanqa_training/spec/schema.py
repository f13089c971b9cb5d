"""What a spec can say: frozen dataclasses with the key names and defaults of the toolkits that spanqa replaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from spanqa.errors import SettingsError
from spanqa.windows import WindowSettings
from spanqa_training.errors import SpecError, check_spec
from spanqa_training.optimization.early_stopping import STOPPING_METRICS
from spanqa_training.optimization.optimizers import OPTIMIZERS
from spanqa_training.optimization.schedules import ScheduleSpec
from spanqa_training.spec.model_section import ModelSpec

PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
PRECISIONS |= {mode: mode for mode in tuple(PRECISIONS.values())}
ACCELERATORS = ("ddp", "auto", "gpu", "cpu")
DTYPES = ("float32", "float16")
_SEEDS = 1 << 32
"""Seeds that torch and numpy take alike."""
BAD_EXAMPLES = ("stop", "skip")
TRAINING_SECTIONS = ("training_ds", "finetuning_ds")
EXPORT_FORMATS = ("ONNX", "RIVA", "JARVIS", "HF")


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """How long and how precisely to train."""

    gpus: int | None = None
    """Processes, one on each GPU, or on the CPU where there is none; 0 is one on the CPU. -g replaces it."""
    num_nodes: int | None = None
    """Machines, each with -g processes, all started by torchrun; null takes their number from it."""
    accelerator: str = "auto"
    """auto or ddp (the GPUs there are, else the CPU), gpu (a GPU or an error) or cpu."""
    max_epochs: int = 2
    """Passes over the training data."""
    max_steps: int | None = None
    """Steps of the optimiser in place of max_epochs; null or -1 for none."""
    precision: str = "16"
    """16 (mixed, with loss scaling; on a CPU bf16, or 32 where its cores have no bfloat16), bf16 (mixed) or 32."""
    gradient_clip_val: float = 0.0
    """Largest global norm of the gradients; 0 does not clip."""
    accumulate_grad_batches: int = 1
    """Batches summed before each step of the optimiser."""
    val_check_interval: float = 1.0
    """Validations as a share of an epoch: 1.0 at its end, 0.25 four times."""
    log_every_n_steps: int = 10
    """Steps between two lines of RESULTS/train.jsonl."""
    save_top_k: int = 3
    """Checkpoints of the lowest val_loss that are kept beside the last one; 0 keeps none."""
    seed: int = 42
    """Seeds the batch order, dropout and a fresh head."""
    checkpoint_dtype: str = "float32"
    """float32, or float16 for half the size; the model is rounded before it is validated."""
    save_every_s: float = 120.0
    """Seconds between two saves of the state that an interrupted run resumes from."""
    lost_after_s: float = 60.0
    """Seconds without a sign of life of a process that torchrun started, after which the others end the run."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass: the same weights, for less memory and more time."""
    early_stopping_patience: int | None = None
    """Validations without a better one after which a run ends; null goes on to its last step."""
    early_stopping_metric: str | None = None
    """f1 or val_loss (f1; val_loss for `adapt`)."""

    def __post_init__(self) -> None:
        if self.max_steps == -1:
            object.__setattr__(self, "max_steps", None)
        check_spec(0 <= self.seed < _SEEDS, "trainer.seed", f"in 0..{_SEEDS - 1}", self.seed)
        check_spec(self.gpus is None or self.gpus >= 0, "trainer.gpus", "at least 0", self.gpus)
        nodes = self.num_nodes
        check_spec(nodes is None or nodes >= 1, "trainer.num_nodes", "at least 1 or null", nodes)
        check_spec(self.accelerator in ACCELERATORS, "trainer.accelerator", ", ".join(ACCELERATORS), self.accelerator)
        check_spec(self.max_epochs >= 1, "trainer.max_epochs", "at least 1", self.max_epochs)
        check_spec(
            self.max_steps is None or self.max_steps >= 1, "trainer.max_steps", "at least 1 or null", self.max_steps
        )
        check_spec(self.precision in PRECISIONS, "trainer.precision", "32, 16 or bf16", self.precision)
        check_spec(
            self.checkpoint_dtype in DTYPES, "trainer.checkpoint_dtype", " or ".join(DTYPES), self.checkpoint_dtype
        )
        patience, metric = self.early_stopping_patience, self.early_stopping_metric
        check_spec(patience is None or patience >= 1, "trainer.early_stopping_patience", "at least 1 or null", patience)
        allowed = " or ".join(STOPPING_METRICS)
        check_spec(metric in (None, *STOPPING_METRICS), "trainer.early_stopping_metric", allowed, metric)
        check_spec(0 < self.val_check_interval <= 1, "trainer.val_check_interval", "in 0..1", self.val_check_interval)
        for name, least in (
            ("gradient_clip_val", 0),
            ("accumulate_grad_batches", 1),
            ("log_every_n_steps", 1),
            ("save_top_k", 0),
            ("save_every_s", 0),
            ("lost_after_s", 1),
        ):
            check_spec(getattr(self, name) >= least, f"trainer.{name}", f"at least {least}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """One dataset: files of SQuAD JSON, JSON Lines or Parquet, plain or gzipped, concatenated."""

    file: tuple[str, ...] = ()
    """One file or a list of files."""
    batch_size: int = 24
    """Windows in a batch of each process."""
    batch_tokens: int | None = None
    """In place of batch_size: most word pieces in a batch of each process, padding counted; training data alone."""
    num_samples: int = -1
    """Questions used, the first of the files; -1 for all."""
    shuffle: bool = True
    """Whether to shuffle the windows of training data in each epoch; the order of answers is always the file's."""
    num_workers: int | None = None
    """In place of model.dataset.num_workers."""
    pin_memory: bool | None = None
    """In place of model.dataset.pin_memory."""
    drop_last: bool | None = None
    """In place of model.dataset.drop_last."""
    bad_examples: str = "stop"
    """At a question with a defect: stop, or (only in training) skip, which lists it in RESULTS/bad_examples.jsonl."""
    output_prediction_file: str = "prediction.txt"
    """What `spanqa infer` names the file of answers."""
    output_nbest_file: str = "nbest.txt"
    """What it names the file of the best spans."""

    def batch(self, rows: str) -> str:
        """What is in a batch of each process, for a reader; the rows are windows or sequences."""
        tokens = self.batch_tokens
        return f"{self.batch_size} {rows}" if tokens is None else f"{rows} of at most {tokens:,} word pieces together"


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """The optimiser."""

    name: str = "adamw"
    """One of OPTIMIZERS."""
    lr: float = 3e-5
    """Highest learning rate."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """The two decay rates of the Adam family."""
    weight_decay: float = 0.0
    """Decay of weight matrices; biases and norms have none, as in BERT."""
    sched: ScheduleSpec = field(default_factory=ScheduleSpec)

    def __post_init__(self) -> None:
        check_spec(self.name in OPTIMIZERS, "optim.name", f"one of {', '.join(OPTIMIZERS)}", self.name)
        check_spec(self.lr > 0, "optim.lr", "above 0", self.lr)
        check_spec(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "optim.betas", "two in 0..1", self.betas
        )
        check_spec(self.weight_decay >= 0, "optim.weight_decay", "at least 0", self.weight_decay)
        min_lr = self.sched.min_lr
        check_spec(min_lr is None or min_lr <= self.lr, "optim.sched.min_lr", f"at most optim.lr {self.lr}", min_lr)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that any command reads from a spec."""

    restore_from: str | None = None
    """Checkpoint to start from; -m replaces it."""
    save_to: str | None = None
    """Name of the checkpoint to write below RESULTS/checkpoints: one file with the suffix .tlt, else a folder."""
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    training_ds: DataSpec = field(default_factory=DataSpec)
    finetuning_ds: DataSpec = field(default_factory=DataSpec)
    validation_ds: DataSpec = field(default_factory=DataSpec)
    test_ds: DataSpec = field(default_factory=DataSpec)
    infer_ds: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    export_format: str = "RIVA"
    """ONNX (one packed .eonnx), RIVA (a Triton model repository) or HF (a Hugging Face folder)."""
    export_to: str | None = None
    """What to write below RESULTS."""

    def __post_init__(self) -> None:
        check_spec(self.export_format in EXPORT_FORMATS, "export_format", ", ".join(EXPORT_FORMATS), self.export_format)
        for key in ("training_ds", "finetuning_ds", "validation_ds", "test_ds", "infer_ds"):
            dataset: DataSpec = getattr(self, key)
            check_spec(dataset.batch_size >= 1, f"{key}.batch_size", "at least 1", dataset.batch_size)
            n_samples = dataset.num_samples
            check_spec(n_samples == -1 or n_samples > 0, f"{key}.num_samples", "-1 or above 0", n_samples)
            self._check_batch_tokens(key, dataset)
            # What a model is measured on, or answers, may not shrink without a word.
            ways = BAD_EXAMPLES if key in TRAINING_SECTIONS else BAD_EXAMPLES[:1]
            rule = " or ".join(BAD_EXAMPLES) + (", and skip in training data alone" if len(ways) == 1 else "")
            check_spec(dataset.bad_examples in ways, f"{key}.bad_examples", rule, dataset.bad_examples)

    def _check_batch_tokens(self, key: str, dataset: DataSpec) -> None:
        """Refuse a batch's number of tokens where something else says what is in a batch."""
        tokens = dataset.batch_tokens
        if tokens is None:
            return
        check_spec(tokens >= 1, f"{key}.batch_tokens", "at least 1 or null", tokens)
        check_spec(key in TRAINING_SECTIONS, f"{key}.batch_tokens", "null outside training data", tokens)
        drop_last = self.model.dataset.drop_last if dataset.drop_last is None else dataset.drop_last
        check_spec(not drop_last, f"{key}.batch_tokens", "null where drop_last is true", tokens)

    def require_files(self, section: str) -> DataSpec:
        """Give a dataset's section.

        Raises:
            SpecError: It names no file.
        """
        dataset: DataSpec = getattr(self, section)
        check_spec(bool(dataset.file), f"{section}.file", "a file or a list of files", list(dataset.file))
        return dataset

    def window_settings(self, restored: WindowSettings) -> WindowSettings:
        """The windows that model.dataset asks for; what it leaves open is as in the restored model.

        Raises:
            SpecError: If its lengths contradict each other.
        """
        dataset = self.model.dataset
        try:
            return WindowSettings(
                max_seq_length=dataset.max_seq_length or restored.max_seq_length,
                doc_stride=dataset.doc_stride or restored.doc_stride,
                max_query_length=dataset.max_query_length or restored.max_query_length,
            )
        except SettingsError as error:
            raise SpecError(f"model.dataset: {error}") from error
