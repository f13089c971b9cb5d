"""Weights of other projects as checkpoints: Hugging Face folders of BERT and Megatron-BERT."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoint import Checkpoint
from spanqa_training.errors import ImportWeightsError, ModelError
from spanqa_training.model import EncoderConfig, SpanModel

LAYER_NORM_OF_FAMILY = {"bert": "post", "megatron-bert": "pre"}
"""Hugging Face's model_type -> where the layer norms stand."""

MEGATRON_LAYER_NORM_EPS = 1e-5
"""Megatron-LM's default (`--layernorm-epsilon`); Hugging Face's configuration says 1e-12 unless told otherwise."""

ACTIVATION_FROM_HUGGING_FACE = {"gelu": "gelu", "gelu_python": "gelu"} | dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)

SHARED_KEYS = {
    "embeddings.word.weight": "embeddings.word_embeddings.weight",
    "embeddings.position.weight": "embeddings.position_embeddings.weight",
    "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
    "layers.{layer}.attention.query.{part}": "encoder.layer.{layer}.attention.self.query.{part}",
    "layers.{layer}.attention.key.{part}": "encoder.layer.{layer}.attention.self.key.{part}",
    "layers.{layer}.attention.value.{part}": "encoder.layer.{layer}.attention.self.value.{part}",
    "layers.{layer}.attention.output.{part}": "encoder.layer.{layer}.attention.output.dense.{part}",
    "layers.{layer}.expand.{part}": "encoder.layer.{layer}.intermediate.dense.{part}",
    "layers.{layer}.contract.{part}": "encoder.layer.{layer}.output.dense.{part}",
}
"""Our weights -> Hugging Face's, in both families. `{layer}` is a number and `{part}` weight or bias."""

NORM_KEYS = {
    "bert": {
        "embeddings.norm.{part}": "embeddings.LayerNorm.{part}",
        "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.output.LayerNorm.{part}",
        "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.output.LayerNorm.{part}",
    },
    "megatron-bert": {
        "layers.{layer}.attention_norm.{part}": "encoder.layer.{layer}.attention.ln.{part}",
        "layers.{layer}.feed_forward_norm.{part}": "encoder.layer.{layer}.ln.{part}",
        "final_norm.{part}": "encoder.ln.{part}",
    },
}
"""The layer norms of each family, likewise."""

HEAD_KEYS = {"head.weight": "qa_outputs.weight", "head.bias": "qa_outputs.bias"}

UNUSED = re.compile(r"(bert\.)?(pooler\..*|.*position_ids)|cls\..*|classifier\..*")
"""Weights that extracting a span does not need: the pooler and the heads of other tasks."""

_OLD_NORM_PARTS = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of a layer norm's parts in the first BERT checkpoints, still found on the Hub."""


def hugging_face_keys(family: str, num_layers: int) -> dict[str, str]:
    """Expand the renaming table of a family: our name of each encoder weight -> Hugging Face's, without `bert.`.

    The table is one-to-one, so that its inverse renames back.
    """
    expanded = {}
    for ours, theirs in (SHARED_KEYS | NORM_KEYS[family]).items():
        for layer in range(num_layers) if "{layer}" in ours else (0,):
            for part in ("weight", "bias") if "{part}" in ours else ("",):
                expanded[ours.format(layer=layer, part=part)] = theirs.format(layer=layer, part=part)
    return expanded


def hugging_face_weights_from_model(model: SpanModel) -> dict[str, Tensor]:
    """Rename a model's weights to those of `BertForQuestionAnswering` or `MegatronBertForQuestionAnswering`."""
    family = next(name for name, norm in LAYER_NORM_OF_FAMILY.items() if norm == model.config.layer_norm)
    keys = {ours: f"bert.{theirs}" for ours, theirs in hugging_face_keys(family, model.config.num_layers).items()}
    keys |= HEAD_KEYS
    return {keys[name]: tensor for name, tensor in model.state_dict().items()}


def checkpoint_from_hugging_face(
    folder: str | Path,
    *,
    layer_norm_eps: float | None = None,
    windows: WindowSettings | None = None,
    seed: int = 0,
) -> tuple[Checkpoint, SpanModel]:
    """Take over a Hugging Face folder: config.json, model.safetensors and a tokenizer.

    A question answering head is taken over where there is one; otherwise a fresh one is drawn.

    Args:
        folder: The folder, of model_type bert or megatron-bert.
        layer_norm_eps: Epsilon of the layer norms in place of the configuration's. Weights that were trained by
            Megatron-LM want `MEGATRON_LAYER_NORM_EPS`, which converted folders rarely say.
        windows: How contexts will be cut; BERT's settings by default.
        seed: Draws the fresh head.

    Returns:
        The checkpoint, with threshold 0, and the model in evaluation mode.

    Raises:
        ImportWeightsError: The folder is of another kind, incomplete or damaged.
        TokenizerError: The tokenizer cannot be used.
    """
    folder = Path(folder)
    source, config = _source_config(folder, layer_norm_eps)
    family = str(source["model_type"])
    tokenizer = load_tokenizer(folder)
    model = SpanModel(config)
    weights = _read_weights(folder)
    head = _head(weights, config, seed)
    model.load_state_dict(_encoder_weights(weights, family, model) | head)
    provenance = {
        "source": "Hugging Face folder",
        "name": source.get("_name_or_path") or folder.resolve().name,
        "model_type": family,
        "architectures": source.get("architectures"),
        "layer_norm_eps": config.layer_norm_eps,
        "layer_norm_eps_of_source": source.get("layer_norm_eps", 1e-12),
        "head": "taken over" if HEAD_KEYS["head.weight"] in weights else f"fresh, seed {seed}",
    }
    checkpoint = Checkpoint(
        encoder=config,
        tokenizer_json=tokenizer.serialized,
        windows=windows or WindowSettings(),
        provenance=provenance,
    )
    return checkpoint, model.eval()


def encoder_config_from_hugging_face(
    source: Mapping[str, Any], *, layer_norm_eps: float | None = None
) -> EncoderConfig:
    """Translate a Hugging Face configuration.

    Raises:
        ImportWeightsError: It is of another family, or of a variant that our encoder does not compute.
    """
    family = source.get("model_type")
    if family not in LAYER_NORM_OF_FAMILY:
        raise ImportWeightsError(
            f"model_type is {family!r}: only {' and '.join(LAYER_NORM_OF_FAMILY)} can be taken over"
        )
    for key, only in (("position_embedding_type", "absolute"), ("is_decoder", False), ("add_cross_attention", False)):
        if source.get(key, only) != only:
            raise ImportWeightsError(f"{key} is {source[key]!r}: only {only!r} is supported")
    activation = source.get("hidden_act", "gelu")
    if activation not in ACTIVATION_FROM_HUGGING_FACE:
        raise ImportWeightsError(
            f"hidden_act is {activation!r}: supported are {', '.join(ACTIVATION_FROM_HUGGING_FACE)}"
        )
    eps = source.get("layer_norm_eps", 1e-12) if layer_norm_eps is None else layer_norm_eps
    try:
        return EncoderConfig(
            vocab_size=source["vocab_size"],
            hidden_size=source["hidden_size"],
            num_layers=source["num_hidden_layers"],
            num_heads=source["num_attention_heads"],
            intermediate_size=source["intermediate_size"],
            max_positions=source["max_position_embeddings"],
            type_vocab_size=source.get("type_vocab_size", 2),
            layer_norm_eps=eps,
            activation=ACTIVATION_FROM_HUGGING_FACE[activation],
            layer_norm=LAYER_NORM_OF_FAMILY[family],
            dropout=source.get("hidden_dropout_prob", 0.1),
            attention_dropout=source.get("attention_probs_dropout_prob", 0.1),
            initializer_range=source.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise ImportWeightsError(f"the configuration lacks {error}: it does not describe an encoder") from error
    except ModelError as error:
        raise ImportWeightsError(f"the configuration cannot be used: {error}") from error


def _source_config(folder: Path, layer_norm_eps: float | None) -> tuple[dict[str, Any], EncoderConfig]:
    path = folder / "config.json"
    if not path.is_file():
        raise ImportWeightsError(f"{folder}: holds no config.json: give a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ImportWeightsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ImportWeightsError(f"{path}: is not a model's configuration: it holds no object")
    try:
        return config, encoder_config_from_hugging_face(config, layer_norm_eps=layer_norm_eps)
    except ImportWeightsError as error:
        raise ImportWeightsError(f"{path}: {error}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ImportWeightsError(
            f"{folder}: holds no model.safetensors; sharded weights and pytorch_model.bin are not read yet:"
            " load it with transformers and save_pretrained it into one safetensors file"
        )
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ImportWeightsError(f"{path}: is damaged or incomplete: {error}") from error
    for old, new in _OLD_NORM_PARTS:
        weights = {name.removesuffix(old) + new if name.endswith(old) else name: t for name, t in weights.items()}
    return weights


def _encoder_weights(weights: Mapping[str, Tensor], family: str, model: SpanModel) -> dict[str, Tensor]:
    keys = hugging_face_keys(family, model.config.num_layers)
    prefix = "bert." if any(name.startswith("bert.") for name in weights) else ""
    theirs = {prefix + name: ours for ours, name in keys.items()}
    unknown = [n for n in weights if n not in theirs and n not in HEAD_KEYS.values() and not UNUSED.fullmatch(n)]
    if unknown:
        raise ImportWeightsError(
            f"model.safetensors holds {unknown[0]} and {len(unknown) - 1} other weights that a {family} of"
            f" {model.config.num_layers} layers does not have: check config.json"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, ours in theirs.items():
        if name not in weights:
            raise ImportWeightsError(f"model.safetensors lacks {name}: it is not a complete {family} encoder")
        if tuple(weights[name].shape) != shapes[ours]:
            raise ImportWeightsError(
                f"{name} in model.safetensors has shape {tuple(weights[name].shape)} and config.json asks for"
                f" {shapes[ours]}: the two do not belong together"
            )
    return {ours: weights[name].to(torch.float32) for name, ours in theirs.items()}


def _head(weights: Mapping[str, Tensor], config: EncoderConfig, seed: int) -> dict[str, Tensor]:
    if HEAD_KEYS["head.weight"] not in weights:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(2, config.hidden_size)
        nn.init.normal_(weight, std=config.initializer_range, generator=generator)
        return {"head.weight": weight, "head.bias": torch.zeros(2)}
    head = {ours: weights[theirs].to(torch.float32) for ours, theirs in HEAD_KEYS.items() if theirs in weights}
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if shapes != {"head.weight": (2, config.hidden_size), "head.bias": (2,)}:
        raise ImportWeightsError(f"the question answering head has shapes {shapes}: a start and an end are expected")
    return head
