"""Checkpoints: a folder that holds everything a model needs to be trained on, evaluated, exported and served."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from spanqa.contract import DEFAULT_MAX_ANSWER_TOKENS
from spanqa.errors import SpanqaError
from spanqa.folder_swap import readable_folder, replace_folder
from spanqa.tokenization import TOKENIZER_FILE, Tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights_file import read_model, write_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "spec.yaml"
METRICS_FILE = "metrics.json"
FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, SPEC_FILE, METRICS_FILE)

FORMAT = "spanqa-checkpoint"
FORMAT_VERSION = 1
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says beside its weights.

    Args:
        encoder: The architecture.
        tokenizer_json: The tokenizer: the text of a tokenizer.json.
        windows: How contexts are cut.
        no_answer_threshold: Null score minus best span score above which there is no answer, in logits.
        max_answer_tokens: Longest answer, in word pieces.
        temperature: Divides the logits before they become scores; 1 unless fitted.
        provenance: Where the weights come from; JSON values.
        spec: The resolved training spec as YAML; None before any training.
        metrics: Scores and what they were measured on; JSON values.

    Raises:
        CheckpointError: The values contradict each other.
    """

    encoder: EncoderConfig
    tokenizer_json: str = field(repr=False)
    windows: WindowSettings = field(default_factory=WindowSettings)
    no_answer_threshold: float = 0.0
    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS
    temperature: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    spec: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.windows.max_seq_length > self.encoder.max_positions:
            raise CheckpointError(
                f"max_seq_length {self.windows.max_seq_length} is more than the model's {self.encoder.max_positions}"
                " positions: lower it"
            )
        vocab_size = self.tokenizer().vocab_size
        if vocab_size > self.encoder.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {vocab_size} tokens and the model's word embedding only {self.encoder.vocab_size}:"
                " they do not belong together"
            )
        if not math.isfinite(self.no_answer_threshold):
            raise CheckpointError(f"no_answer_threshold is {self.no_answer_threshold}: give a finite number")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CheckpointError(f"temperature is {self.temperature}: give a number above 0")
        if self.max_answer_tokens < 1:
            raise CheckpointError(f"max_answer_tokens is {self.max_answer_tokens}: give at least 1")

    def tokenizer(self) -> Tokenizer:
        """Make the tokenizer."""
        return Tokenizer(self.tokenizer_json)


def save_checkpoint(checkpoint: Checkpoint, model: SpanModel, folder: str | Path, *, dtype: str = "float32") -> None:
    """Write a checkpoint folder, atomically.

    It is written beside the target and swapped in, so that an interruption leaves the old one or the new one. Other
    files in an existing checkpoint folder, such as a model card, are kept.

    Args:
        checkpoint: What to say beside the weights.
        model: The weights; of the architecture `checkpoint.encoder`.
        folder: The target; missing, empty or a checkpoint.
        dtype: Precision of the stored weights: "float32" or "float16".

    Raises:
        CheckpointError: The target is something else or cannot be written, or the values cannot be stored.
    """
    folder = Path(os.path.abspath(folder))
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}: give one of {', '.join(DTYPES)}")
    if model.config != checkpoint.encoder:
        raise CheckpointError("the model's architecture is not the checkpoint's: save the model it was made for")
    _check_replaceable(folder)
    try:
        replace_folder(folder, lambda new: _write_files(checkpoint, model, new, DTYPES[dtype]), own_files=FILES)
    except OSError as error:
        raise CheckpointError(f"{folder}: the checkpoint cannot be written: {error}") from error


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint without its weights.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the others.
    """
    folder = readable_folder(Path(os.path.abspath(folder)))
    return _checkpoint_from_config(folder, _config(folder))


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu", *, dtype: torch.dtype = torch.float32
) -> tuple[Checkpoint, SpanModel]:
    """Read a checkpoint with its weights.

    Args:
        folder: The checkpoint.
        device: Where the model goes.
        dtype: Precision of the model's weights, whatever the stored one.

    Returns:
        The checkpoint and the model, in evaluation mode.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the others.
    """
    folder = readable_folder(Path(os.path.abspath(folder)))
    config = _config(folder)
    checkpoint = _checkpoint_from_config(folder, config)
    path, sha256 = folder / WEIGHTS_FILE, str(config.get("weights_sha256"))
    model = read_model(path, checkpoint.encoder, sha256, torch.device(device), dtype)
    return checkpoint, model.eval()


def _check_replaceable(folder: Path) -> None:
    """Refuse a target whose files nobody meant to give up."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file, and a checkpoint is a folder: give another path")
    if any(folder.iterdir()):
        try:
            _config(folder)
        except CheckpointError as error:
            raise CheckpointError(
                f"{folder}: holds something else than a checkpoint and is left alone: give a new or an empty folder"
            ) from error


def _write_files(checkpoint: Checkpoint, model: SpanModel, folder: Path, dtype: torch.dtype) -> None:
    weights_sha256 = write_weights(model, folder / WEIGHTS_FILE, dtype)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "encoder": asdict(checkpoint.encoder),
        "windows": asdict(checkpoint.windows),
        "decode": {
            "no_answer_threshold": checkpoint.no_answer_threshold,
            "max_answer_tokens": checkpoint.max_answer_tokens,
            "temperature": checkpoint.temperature,
        },
        "tokenizer_sha256": checkpoint.tokenizer().sha256,
        "weights_sha256": weights_sha256,
        "provenance": checkpoint.provenance,
    }
    (folder / CONFIG_FILE).write_text(_json(config), encoding="utf-8")
    # safetensors makes its file private to the owner; it gets the permissions of the others.
    (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)
    # newline="": the hash is of this very text.
    with open(folder / TOKENIZER_FILE, "w", encoding="utf-8", newline="") as file:
        file.write(checkpoint.tokenizer_json)
    if checkpoint.spec is not None:
        (folder / SPEC_FILE).write_text(checkpoint.spec, encoding="utf-8")
    (folder / METRICS_FILE).write_text(_json(checkpoint.metrics), encoding="utf-8")


def _json(value: object) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"provenance or metrics hold what JSON cannot: {error}") from error


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing: a checkpoint holds {', '.join(FILES[:3])}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f'{path}: is not of a spanqa checkpoint; other weights are taken over by "spanqa import"')
    if config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format version {config.get('format_version')} and this spanqa reads {FORMAT_VERSION}:"
            " use the spanqa that wrote it"
        )
    return config


def _checkpoint_from_config(folder: Path, config: dict[str, Any]) -> Checkpoint:
    tokenizer_json = _text(folder / TOKENIZER_FILE)
    if hashlib.sha256(tokenizer_json.encode()).hexdigest() != config.get("tokenizer_sha256"):
        raise CheckpointError(
            f"{folder / TOKENIZER_FILE}: is not the tokenizer that the checkpoint was saved with: restore it"
        )
    metrics = folder / METRICS_FILE
    spec = folder / SPEC_FILE
    try:
        return Checkpoint(
            encoder=EncoderConfig(**config["encoder"]),
            tokenizer_json=tokenizer_json,
            windows=WindowSettings(**config["windows"]),
            **config["decode"],
            provenance=config["provenance"],
            spec=_text(spec) if spec.exists() else None,
            metrics=json.loads(_text(metrics)) if metrics.exists() else {},
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, json.JSONDecodeError, SpanqaError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: does not describe a model: {error}") from error
