"""Where a model comes from: a checkpoint, a file of another project, or a name in a spec."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spanqa.tokenization import Tokenizer, load_tokenizer
from spanqa_training.checkpoints.archive import first_member
from spanqa_training.checkpoints.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, load_lm_head
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.packed_network import PackedNetwork, read_packed_network
from spanqa_training.checkpoints.storage import NETWORK_FILE
from spanqa_training.errors import CheckpointError, SpecError
from spanqa_training.model import SpanModel
from spanqa_training.spec.model_section import ModelSpec
from spanqa_training.spec.schema import Spec
from spanqa_training.weights.hub import folder_of_name
from spanqa_training.weights.import_types import check_padding, windows_within
from spanqa_training.weights.recognition import ImportOptions, encoder_config_from_hugging_face, import_model
from spanqa_training.weights.tokenizers.unigram import sentencepiece_file_at, tokenizer_json_from_sentencepiece

Warn = Callable[[str], None]
_FRESH = "fresh"


def open_model(path: str | Path, *, key: Key | None = None) -> tuple[Checkpoint, SpanModel]:
    """Open a checkpoint, or take over what another project wrote, whatever its name's suffix.

    Args:
        path: A checkpoint folder or file, a .nemo (also one renamed to .tlt), a Hugging Face folder or a Megatron-LM
            file.
        key: Decrypts a checkpoint's weights.

    Raises:
        CheckpointError: Nothing is there, or a checkpoint is damaged.
        EncryptionError: The key is missing or wrong.
        ImportWeightsError: It is something else.
    """
    if not Path(path).exists():
        raise CheckpointError(f"{path}: no such checkpoint{_near(Path(path))}")
    if Path(path).is_file() and first_member(Path(path)).startswith(NETWORK_FILE):
        raise CheckpointError(
            f"{path}: is an exported network: answer with it by spanqa infer_onnx, or give the checkpoint it came from"
        )
    if is_checkpoint(path):
        return load_checkpoint(path, key=key)
    imported = import_model(path)
    return imported.checkpoint, imported.model.eval()


def lm_head_of(path: str | Path, *, key: Key | None = None) -> dict[str, torch.Tensor]:
    """Read the head of the masked language model of what `open_model` opens; empty where it has none."""
    return load_lm_head(path, key) if is_checkpoint(path) else import_model(path).lm_head


def open_network(path: Path, *, key: Key | None = None) -> PackedNetwork:
    """Open what `spanqa export` packed.

    Raises:
        CheckpointError: Nothing is there, or something else, or it is damaged.
        EncryptionError: The key is missing or wrong.
    """
    export = "`spanqa export export_format=ONNX` writes one from a checkpoint"
    if not path.exists():
        raise CheckpointError(f"{path}: no such packed network: {export}")
    if path.is_file() and not first_member(path):
        raise CheckpointError(
            f"{path}: is no packed network of spanqa's, and what the old toolkit encrypted only that decrypts: {export}"
        )
    return read_packed_network(path, key=key)


def _near(path: Path) -> str:
    """What a mistyped name may have meant."""
    beside = [path.with_name(path.stem), *(path.with_name(path.name + suffix) for suffix in (".tlt", ".nemo"))]
    found = [other for other in beside if other != path and other.exists()]
    return f": did you mean {found[0]}?" if found else ": give a checkpoint that spanqa wrote, or a .nemo"


def restored_path(spec: Spec, results: Path) -> Path:
    """The checkpoint that `-m` or restore_from names; a bare name is also looked for among the results.

    Raises:
        SpecError: Neither is given.
    """
    if not spec.restore_from:
        raise SpecError("restore_from: must be a checkpoint, got nothing: give -m CHECKPOINT")
    path = Path(spec.restore_from)
    among_results = results / "checkpoints" / path
    return among_results if not path.exists() and among_results.exists() else path


def base_model(spec: Spec, *, key: Key | None, results: Path, warn: Warn) -> tuple[Checkpoint, SpanModel]:
    """Make the model that training starts from: the restored one, or a new one on `model.language_model`.

    Args:
        spec: The spec.
        key: Decrypts a restored checkpoint.
        results: Where a bare name in restore_from is looked for as well.
        warn: Told of keys that this model leaves without effect.

    Raises:
        SpecError: The spec names no model, or contradicts the one it names.
        SpanqaError: The model cannot be read.
    """
    if spec.restore_from:
        checkpoint, model = open_model(restored_path(spec, results), key=key)
    else:
        checkpoint, model = _new_model(spec.model, seed=spec.trainer.seed, key=key, warn=warn)
        _warn_of_case(spec.model, checkpoint.tokenizer(), warn)
    if str(checkpoint.provenance.get("head", "")).startswith(_FRESH) and "trained_on" not in checkpoint.provenance:
        _draw_head(model, spec)
    encoder = dataclasses.replace(checkpoint.encoder, head_dropout=spec.model.token_classifier.dropout)
    model.config = encoder
    model.take_dropout(dataclasses.replace(encoder, **spec.model.language_model.given_dropout()))
    checkpoint = dataclasses.replace(checkpoint, encoder=encoder, windows=spec.window_settings(checkpoint.windows))
    return checkpoint, model


def _new_model(spec: ModelSpec, *, seed: int, key: Key | None, warn: Warn) -> tuple[Checkpoint, SpanModel]:
    language_model, name = spec.language_model, spec.language_model.pretrained_model_name
    config = _config(spec)
    vocabulary = Path(spec.tokenizer.vocab_file) if spec.tokenizer.vocab_file else None
    if vocabulary is None and spec.tokenizer.tokenizer_name not in (None, name):
        vocabulary = folder_of_name(str(spec.tokenizer.tokenizer_name), "model.tokenizer.tokenizer_name", weights=False)
    lower = spec.dataset.do_lower_case if spec.tokenizer.vocab_file else _lower_case_of_name(name)
    if config is not None and language_model.lm_checkpoint is None:
        return _random_model(config, vocabulary, lower, seed)
    if language_model.lm_checkpoint is not None:
        source = Path(language_model.lm_checkpoint)
        if not source.exists():
            raise SpecError(f"model.language_model.lm_checkpoint: {source}: no such file or folder")
    elif name:
        source = folder_of_name(name, "model.language_model.pretrained_model_name")
    else:
        raise SpecError(
            "model.language_model names no model: give pretrained_model_name, lm_checkpoint, config_file or -m"
        )
    if is_checkpoint(source):
        _warn_of_own(source, spec, vocabulary, config, warn)
        return load_checkpoint(source, key=key)
    options = ImportOptions(tokenizer=vocabulary, do_lower_case=lower, config=config, seed=seed)
    imported = import_model(source, options)
    return imported.checkpoint, imported.model


def _warn_of_own(
    source: Path, spec: ModelSpec, vocabulary: Path | None, config: dict[str, Any] | None, warn: Warn
) -> None:
    """Tell of keys in whose place a checkpoint has something of its own."""
    idle = ["model.tokenizer." + ("vocab_file" if spec.tokenizer.vocab_file else "tokenizer_name")] * bool(vocabulary)
    if config is not None:
        idle.append("model.language_model." + ("config_file" if spec.language_model.config_file else "config"))
    if idle:
        warn(f"{source} is a checkpoint with its own tokenizer and config, so these have no effect: {', '.join(idle)}")


def _config(spec: ModelSpec) -> dict[str, Any] | None:
    """The architecture that the spec writes out; a file has precedence, as it had in the old toolkit."""
    path = spec.language_model.config_file
    if path is None:
        return spec.language_model.config
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"model.language_model.config_file: {path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise SpecError(f"model.language_model.config_file: {path}: is not a model's configuration: it holds no object")
    return config


def _random_model(
    config: dict[str, Any], vocabulary: Path | None, lower: bool | None, seed: int
) -> tuple[Checkpoint, SpanModel]:
    if vocabulary is None:
        raise SpecError("a model from scratch needs a vocabulary: give model.tokenizer.vocab_file")
    config = {"model_type": "bert", **config}
    model = sentencepiece_file_at(vocabulary)
    tokenizer = (
        Tokenizer(tokenizer_json_from_sentencepiece(model, config))
        if model
        else load_tokenizer(vocabulary, do_lower_case=lower)
    )
    sizes = {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}
    encoder = encoder_config_from_hugging_face({**sizes, **config})
    check_padding(encoder, tokenizer)
    torch.manual_seed(seed)
    checkpoint = Checkpoint(
        encoder=encoder,
        tokenizer_json=tokenizer.serialized,
        windows=windows_within(encoder.max_positions, tokenizer),
        provenance={"source": "random weights", "head": f"{_FRESH}, seed {seed}"},
    )
    return checkpoint, SpanModel(encoder)


def _lower_case_of_name(name: str | None) -> bool | None:
    """Megatron-LM's files hold no tokenizer: the old toolkit took the case from the model's name."""
    if name is None or os.path.exists(name):
        return None
    return False if name.endswith("-cased") else True if name.endswith("-uncased") else None


def _draw_head(model: SpanModel, spec: Spec) -> None:
    """Draw the fresh head as the spec asks, from the run's seed."""
    torch.manual_seed(spec.trainer.seed)
    if spec.model.token_classifier.use_transformer_init:
        torch.nn.init.normal_(model.head.weight, std=model.config.initializer_range)
        torch.nn.init.zeros_(model.head.bias)
    else:
        model.head.reset_parameters()


def _warn_of_case(spec: ModelSpec, tokenizer: Tokenizer, warn: Warn) -> None:
    wanted = spec.dataset.do_lower_case
    if wanted is not None and wanted != tokenizer.lower_cases:
        warn(
            f"model.dataset.do_lower_case is {str(wanted).lower()} and the tokenizer of the model "
            f"{'lower-cases' if tokenizer.lower_cases else 'keeps case'}: the tokenizer decides"
        )
