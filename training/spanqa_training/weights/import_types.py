"""What importing needs to be told, and what it gives: weights in our names as a checkpoint and a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spanqa.errors import SettingsError
from spanqa.tokenization import Tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.errors import CheckpointError, ImportWeightsError
from spanqa_training.model import ACTIVATIONS, EncoderConfig, SpanModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user knows better than the source.

    Args:
        layer_norm_eps: Epsilon of every layer norm, in place of the source's.
        activation: "gelu" or "gelu_tanh", likewise.
        num_heads: Attention heads of a layer, likewise.
        tokenizer: A vocab.txt, a tokenizer.json or a folder of one, in place of the source's own.
        do_lower_case: Whether a vocab.txt is one of lower-cased text; by default seen from its pieces.
        config: Values of a Hugging Face configuration that replace or supply the source's.
        windows: How contexts will be cut; by default the source's settings, else `windows_within` its positions.
        seed: Draws the head where the source has none.

    Raises:
        ImportWeightsError: The activation is none of ours.
    """

    layer_norm_eps: float | None = None
    activation: str | None = None
    num_heads: int | None = None
    tokenizer: str | Path | None = None
    do_lower_case: bool | None = None
    config: Mapping[str, Any] | None = None
    windows: WindowSettings | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.activation not in (None, *ACTIVATIONS):
            raise ImportWeightsError(f"activation is {self.activation!r}: give one of {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A model that was taken over.

    Args:
        checkpoint: What it says beside its weights, with threshold 0 unless the source had another.
        model: The network, in evaluation mode.
        lm_head: The masked-LM head, float32: transform.{weight,bias}, norm.{weight,bias} and bias, one a token; its
            decoder is the word embedding. Empty where the source has none, as ELECTRA's discriminators.
    """

    checkpoint: Checkpoint
    model: SpanModel
    lm_head: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's weights in our names, float32.

    Args:
        config: Its architecture.
        encoder: The weights of the encoder.
        head: head.weight and head.bias; empty where there are none.
        lm_head: As in `Imported`.
    """

    config: EncoderConfig
    encoder: dict[str, Tensor]
    head: dict[str, Tensor] = field(default_factory=dict)
    lm_head: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Put the file that an error is about before its message."""
    try:
        yield
    except (ImportWeightsError, CheckpointError, SettingsError) as error:
        raise ImportWeightsError(f"{path}: {error}") from error


def imported_from_parts(
    parts: Parts,
    tokenizer: Tokenizer,
    options: ImportOptions,
    *,
    provenance: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> Imported:
    """Put a checkpoint and a model together.

    Args:
        parts: The weights.
        tokenizer: The tokenizer that they were trained with.
        options: What the user says.
        provenance: What is worth remembering of the source; JSON values.
        settings: Other fields of the checkpoint that the source says.

    Raises:
        ImportWeightsError: A weight has not the shape that the configuration asks for, or the tokenizer another
            padding.
        CheckpointError: Tokenizer, windows and weights do not belong together.
    """
    head = parts.head or _fresh_head(parts.config, options.seed)
    with torch.device("meta"):
        model = SpanModel(parts.config)
    _check_shapes({**parts.encoder, **head}, {name: tensor.shape for name, tensor in model.state_dict().items()})
    _check_shapes(parts.lm_head, _lm_head_shapes(parts.config))
    check_padding(parts.config, tokenizer)
    model.load_state_dict({**parts.encoder, **head}, assign=True)
    fields: dict[str, Any] = {"windows": windows_within(parts.config.max_positions, tokenizer), **(settings or {})}
    if options.windows:
        fields["windows"] = options.windows
    facts = {
        "model_type": parts.config.model_type,
        **provenance,
        "layer_norm_eps": parts.config.layer_norm_eps,
        "activation": parts.config.activation,
        "head": "taken over" if parts.head else f"fresh, seed {options.seed}",
        "masked_lm_head": "taken over" if parts.lm_head else None,
    }
    checkpoint = Checkpoint(encoder=parts.config, tokenizer_json=tokenizer.serialized, provenance=facts, **fields)
    return Imported(checkpoint=checkpoint, model=model.eval(), lm_head=parts.lm_head)


def windows_within(max_positions: int, tokenizer: Tokenizer) -> WindowSettings:
    """BERT's windows, or as much of them as a model's positions hold.

    Args:
        max_positions: The model's positions.
        tokenizer: The tokenizer, whose special tokens take some of them.

    Raises:
        SettingsError: They hold no window.
    """
    default = WindowSettings()
    longest = min(default.max_seq_length, max_positions)
    room = longest - tokenizer.pair.n_special
    question = min(default.max_query_length, room // 2)
    return WindowSettings(
        max_seq_length=longest, doc_stride=min(default.doc_stride, room - question), max_query_length=question
    )


def _fresh_head(config: EncoderConfig, seed: int) -> dict[str, Tensor]:
    weight = torch.empty(2, config.hidden_size)
    nn.init.normal_(weight, std=config.initializer_range, generator=torch.Generator().manual_seed(seed))
    return {"head.weight": weight, "head.bias": torch.zeros(2)}


def _lm_head_shapes(config: EncoderConfig) -> dict[str, torch.Size]:
    size = config.table_width
    shapes = {"transform.weight": (size, config.hidden_size), "bias": (config.vocab_size,)}
    shapes |= dict.fromkeys(("transform.bias", "norm.weight", "norm.bias"), (size,))
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def check_padding(config: EncoderConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with another padding than the one that the positions begin after: it is another model's.

    Raises:
        ImportWeightsError: It has.
    """
    if config.position_offset and tokenizer.pad_id != config.position_offset - 1:
        raise ImportWeightsError(
            f"the tokenizer pads with id {tokenizer.pad_id}, and the positions of the weights begin after id"
            f" {config.position_offset - 1}: give the tokenizer that they were trained with (--tokenizer), or the right"
            " pad_token_id in config.json"
        )


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise ImportWeightsError(
                f"{name} has shape {tuple(tensor.shape)} and the configuration asks for {tuple(expected[name])}: the"
                " two do not belong together"
            )
