"""Keys of the old toolkits' specs that are spelled otherwise here, have one value only, or are replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spanqa_training.errors import SpecError

Values = dict[str, Any]
"""A spec as nested dicts."""


@dataclass(frozen=True, slots=True)
class OnlyValue:
    """A key that works with some values alone: the values, and what to do where another is wanted."""

    allowed: tuple[Any, ...]
    otherwise: str


MOVED = {
    "model.train_ds": "training_ds",
    "model.validation_ds": "validation_ds",
    "model.test_ds": "test_ds",
    "model.optim": "optim",
    "trainer.devices": "trainer.gpus",
    "trainer.row_log_interval": "trainer.log_every_n_steps",
    "infer_ds.input_file": "infer_ds.file",
}
"""NeMo's and older names -> the names here, which are TAO's."""

ONLY = {
    "trainer.amp_level": OnlyValue(("O1", None), "set trainer.precision to 32 in place of O0, to bf16 in place of O2"),
    "trainer.distributed_backend": OnlyValue(("ddp", None), "several GPUs always run as ddp: delete the key"),
    "trainer.strategy": OnlyValue(("ddp", "auto", None), "several GPUs always run as ddp: delete the key"),
    "trainer.checkpoint_callback": OnlyValue((False,), "checkpoints are kept by trainer.save_top_k: delete the key"),
    "trainer.enable_checkpointing": OnlyValue((False,), "checkpoints are kept by trainer.save_top_k: delete the key"),
    "trainer.logger": OnlyValue((False,), "the log is RESULTS/train.jsonl: delete the key"),
    "trainer.num_sanity_val_steps": OnlyValue((0,), "validation data are read before training starts: delete the key"),
    "trainer.resume_from_checkpoint": OnlyValue(
        (None,), "a run resumes by itself when it is started again with the same -r; -m starts from a checkpoint"
    ),
    "model.nemo_path": OnlyValue((None,), "the file to write is named by save_to"),
    "model.tensor_model_parallel_size": OnlyValue((1,), "a model lies on one GPU: delete the key"),
    "model.library": OnlyValue(("huggingface", "megatron"), "BERT and Megatron-BERT are told apart by their weights"),
    "model.save_model": OnlyValue((False,), "checkpoints are kept by trainer.save_top_k: delete the key"),
    "model.dataset.check_if_answer_in_context": OnlyValue((True,), "a span without the answer is always null"),
    "model.tokenizer.tokenizer_model": OnlyValue((None,), "give its path as model.tokenizer.vocab_file"),
    "model.tokenizer.special_tokens": OnlyValue((None,), "BERT's special tokens are in its vocabulary: delete the key"),
    "model.token_classifier.num_layers": OnlyValue((1,), "the published models have a head of one layer"),
    "model.token_classifier.num_classes": OnlyValue((2,), "a span has a start and an end"),
    "model.token_classifier.log_softmax": OnlyValue((False,), "spans are found by logits"),
    "model.token_classifier.activation": OnlyValue(("relu",), "a head of one layer has no activation: delete the key"),
    "optim.sched.monitor": OnlyValue(("val_loss",), "the best checkpoints are chosen by val_loss: delete the key"),
    "optim.sched.reduce_on_plateau": OnlyValue((False,), "the schedule alone decides the rate: delete the key"),
    "optim.sched.last_epoch": OnlyValue((-1,), "a schedule starts at its beginning: delete the key"),
    "optim.sched.cycle": OnlyValue((False,), "a run ends where its schedule does: delete the key"),
    "optim.sched.max_steps": OnlyValue((None, -1), "give trainer.max_steps"),
}
"""Keys whose published value is the only one; it is accepted and means what is always done."""

REPLACED = {
    "exp_manager": "-r names the folder of results, trainer.save_top_k the checkpoints that are kept",
    "hydra": "-r names the folder of results",
    "name": "-r names the folder of results",
    "do_training": "the command decides: spanqa train, finetune or evaluate",
    "pretrained_model": "-m or restore_from names a checkpoint",
    "model.tokens_to_generate": "only models that write text use it",
    "optim.args": "write what is below its params directly below optim",
    "optim.sched.args": "write what is below its params directly below optim.sched",
}
"""Keys that are refused, and what takes their place."""


def apply_rules(values: Values, warn: Callable[[str], None]) -> None:
    """Rename, check and remove the keys of these tables, in place.

    Args:
        values: The spec.
        warn: Told of every key that was read under another name.

    Raises:
        SpecError: A key is replaced, has a value that nothing here does, or is given under both names.
    """
    for key, instead in REPLACED.items():
        if _has(values, key):
            raise SpecError(f"{key}: has no meaning here: {instead}: delete it")
    for old, new in MOVED.items():
        if _has(values, old):
            if _has(values, new):
                raise SpecError(f"{old} and {new} are the same: give one of them")
            _put(values, new, _take(values, old))
            warn(f"{old} is read as {new}")
    gpus = values["trainer"]["gpus"] if _has(values, "trainer.gpus") else None
    if isinstance(gpus, list) and gpus:
        _put(values, "trainer.gpus", len(gpus))
        warn(f"trainer.gpus {gpus} is read as their number, {len(gpus)}: $CUDA_VISIBLE_DEVICES chooses which")
    for key, rule in ONLY.items():
        if _has(values, key):
            value = _take(values, key)
            if not any(value == allowed and type(value) is type(allowed) for allowed in rule.allowed):
                names = " or ".join("null" if allowed is None else str(allowed) for allowed in rule.allowed)
                raise SpecError(f"{key}: must be {names}, got {value!r}: {rule.otherwise}")


def _parent(values: Values, key: str) -> tuple[Any, str]:
    *path, leaf = key.split(".")
    for part in path:
        values = values.get(part, {}) if isinstance(values, dict) else {}
    return values, leaf


def _has(values: Values, key: str) -> bool:
    parent, leaf = _parent(values, key)
    return isinstance(parent, dict) and leaf in parent


def _take(values: Values, key: str) -> Any:
    parent, leaf = _parent(values, key)
    return parent.pop(leaf)


def _put(values: Values, key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[leaf] = value
