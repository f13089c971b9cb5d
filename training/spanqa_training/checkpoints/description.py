"""What a model's files say beside its weights, and config.json, which says most of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from spanqa.contract import DEFAULT_MAX_ANSWER_TOKENS
from spanqa.errors import SettingsError, SpanqaError
from spanqa.score_scale import ScoreScale
from spanqa.tokenization import TOKENIZER_FILE, Tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.archive import Create
from spanqa_training.checkpoints.storage import CONFIG_FILE, METRICS_FILE, SPEC_FILE, Root, read_text, write_text
from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, architecture_of

CHECKPOINT_FORMAT = "spanqa-checkpoint"
NETWORK_FORMAT = "spanqa-network"
_REMEDIES = {
    CHECKPOINT_FORMAT: 'other weights are taken over by "spanqa import"',
    NETWORK_FORMAT: 'a checkpoint is exported by "spanqa export"',
}


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
        answer_slope: Of the log-odds of an answer over the margin, for the scores; None unless fitted.
        answer_offset: The log-odds at margin 0.
        word_boundaries: Whether answers begin and end where words do.
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
    answer_slope: float | None = None
    answer_offset: float = 0.0
    word_boundaries: bool = False
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
                " they do not belong together: give the tokenizer that the weights were trained with"
            )
        if not math.isfinite(self.no_answer_threshold):
            raise CheckpointError(f"no_answer_threshold is {self.no_answer_threshold}: give a finite number")
        try:
            _ = self.scale
        except SettingsError as error:
            raise CheckpointError(str(error)) from error
        if self.max_answer_tokens < 1:
            raise CheckpointError(f"max_answer_tokens is {self.max_answer_tokens}: give at least 1")
        if not isinstance(self.word_boundaries, bool):
            raise CheckpointError(f"word_boundaries is {self.word_boundaries!r}: give true or false")

    @property
    def scale(self) -> ScoreScale:
        """How scores are made of logits."""
        return ScoreScale(self.temperature, self.answer_slope, self.answer_offset)

    def with_scale(self, scale: ScoreScale) -> Checkpoint:
        """The same with another scale of the scores."""
        return replace(self, temperature=scale.temperature, answer_slope=scale.slope, answer_offset=scale.offset)

    def tokenizer(self) -> Tokenizer:
        """Give the tokenizer; checkpoints with the same text share one."""
        return _tokenizer(self.tokenizer_json)


@lru_cache(maxsize=2)
def _tokenizer(tokenizer_json: str) -> Tokenizer:
    """Parse a tokenizer once: a training run asks for it at every check and every checkpoint that it writes."""
    return Tokenizer(tokenizer_json)


def config_from_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give the part of config.json that describes the model, whatever file it is in."""
    return {
        "encoder": architecture_of(checkpoint.encoder),
        "windows": asdict(checkpoint.windows),
        "decode": {
            "no_answer_threshold": checkpoint.no_answer_threshold,
            "max_answer_tokens": checkpoint.max_answer_tokens,
            **checkpoint.scale.as_settings(),
            "word_boundaries": checkpoint.word_boundaries,
        },
        "tokenizer_sha256": checkpoint.tokenizer().sha256,
        "provenance": checkpoint.provenance,
    }


def write_json(create: Create, name: str, value: object) -> None:
    """Write one of the texts as JSON.

    Raises:
        CheckpointError: It holds what JSON cannot.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: would hold what JSON cannot: {error}: give JSON values") from error
    write_text(create, name, text)


def read_json(path: Root) -> Any:
    """Read one of the texts as JSON.

    Raises:
        CheckpointError: It is missing or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON ({error}): restore it from a copy") from error


def is_of_format(config: object, expected: str) -> bool:
    """Whether a config.json is of a format of ours, in any version."""
    return isinstance(config, dict) and config.get("format") == expected


def read_config(root: Root, expected: str, versions: Collection[int]) -> dict[str, Any]:
    """Read config.json.

    Args:
        root: Where the model lies.
        expected: The format.
        versions: Those of its versions that can be read.

    Raises:
        CheckpointError: It is missing, damaged, or of another format or version.
    """
    path = root / CONFIG_FILE
    config = read_json(path)
    if not is_of_format(config, expected):
        raise CheckpointError(f"{path}: is not of a {expected}; {_REMEDIES[expected]}")
    if config.get("format_version") not in versions:
        raise CheckpointError(
            f"{path}: has format version {config.get('format_version')} and this spanqa reads"
            f" {' and '.join(map(str, versions))}: use the spanqa that wrote it"
        )
    return dict(config)


def checkpoint_from_config(root: Root, config: Mapping[str, Any]) -> Checkpoint:
    """Join config.json with the texts beside it.

    Raises:
        CheckpointError: A text is missing or damaged, or the values do not describe a model.
    """
    tokenizer = root / TOKENIZER_FILE
    tokenizer_json = read_text(tokenizer)
    if hashlib.sha256(tokenizer_json.encode()).hexdigest() != config.get("tokenizer_sha256"):
        raise CheckpointError(f"{tokenizer}: is not the tokenizer that the checkpoint was saved with: restore it")
    spec, metrics = root / SPEC_FILE, root / METRICS_FILE
    try:
        return Checkpoint(
            encoder=EncoderConfig(**config["encoder"]),
            tokenizer_json=tokenizer_json,
            windows=WindowSettings(**config["windows"]),
            **config["decode"],
            provenance=config["provenance"],
            spec=read_text(spec) if spec.exists() else None,
            metrics=read_json(metrics) if metrics.exists() else {},
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, SpanqaError) as error:
        raise CheckpointError(f"{root / CONFIG_FILE}: does not describe a model: {error}") from error
