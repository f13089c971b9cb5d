"""Hugging Face folders of the families that we know: taken over as checkpoints, and written from them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spanqa.folder_swap import replace_folder
from spanqa.pair_template import bert_pair
from spanqa.tokenization import TOKENIZER_FILE, Tokenizer
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.errors import CheckpointError, ImportWeightsError
from spanqa_training.model import SpanModel
from spanqa_training.weights.hugging_face_names import (
    encoder_config_from_hugging_face,
    family_of_config,
    hugging_face_config_from_encoder,
    hugging_face_weights_from_model,
    overridden,
    parts_from_hugging_face,
)
from spanqa_training.weights.hugging_face_settings import (
    WRITER_KEY,
    hugging_face_settings,
    settings_from_hugging_face,
)
from spanqa_training.weights.import_types import Imported, ImportOptions, imported_from_parts, naming
from spanqa_training.weights.renaming import tensors_only
from spanqa_training.weights.torch_file import read_torch_file
from spanqa_training.weights.vocabulary import load_vocabulary

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
OWN_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE)


def import_hugging_face(folder: Path, options: ImportOptions) -> Imported:
    """Take over a Hugging Face folder: config.json, weights (safetensors or bin, whole or in shards) and a tokenizer.

    A question answering head is taken over where there is one; otherwise a fresh one is drawn. A folder that we wrote
    gives back its windows and decode settings too.

    Raises:
        ImportWeightsError: The folder is of another kind, incomplete or damaged.
        TokenizerError: The tokenizer cannot be used.
    """
    source = read_json(folder / CONFIG_FILE)
    config = overridden(source, options)
    with naming(folder / CONFIG_FILE):
        encoder = encoder_config_from_hugging_face(config)
    tokenizer = load_vocabulary(options, [folder], config=config)
    with naming(folder / CONFIG_FILE):
        settings = settings_from_hugging_face(source, encoder.max_positions, tokenizer)
    weights_path, weights = _read_weights(folder)
    with naming(weights_path):
        parts = parts_from_hugging_face(weights, config)
        provenance = {
            "source": "Hugging Face folder",
            "name": _name_of(folder.resolve()),
            "name_in_config": source.get("_name_or_path"),  # often its parent's
            "architectures": source.get("architectures"),
            "layer_norm_eps_of_source": source.get(
                "layer_norm_eps", family_of_config(config).defaults.get("layer_norm_eps")
            ),
        }
        return imported_from_parts(parts, tokenizer, options, provenance=provenance, settings=settings)


def _name_of(folder: Path) -> str:
    """A model's name: its folder's, and in the Hub's cache (models--OWNER--NAME/snapshots/COMMIT) the Hub's."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return folder.name


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ImportWeightsError: It cannot be read, or is something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ImportWeightsError(f"{path}: cannot be read as JSON: {error}: restore it") from error
    if not isinstance(value, dict):
        raise ImportWeightsError(f"{path}: holds no JSON object: restore it")
    return value


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    for name, read in _READERS.items():
        if (folder / name).is_file():
            return folder / name, read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return index, _read_shards(index, read)
    raise ImportWeightsError(
        f"{folder}: holds no weights: give a folder with {' or '.join(_READERS)}, or the shards and index of one"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ImportWeightsError(f"{path}: is damaged or incomplete: fetch it again ({error})") from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    saved = read_torch_file(path)
    with naming(path):
        return tensors_only(saved)


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    WEIGHTS_FILE: _read_safetensors,
    "pytorch_model.bin": _read_bin,
}
"""Names of whole files of weights -> what reads them or their shards, in order of preference."""


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    shard_of_weight = read_json(index).get("weight_map")
    if not isinstance(shard_of_weight, dict) or not shard_of_weight:
        raise ImportWeightsError(f"{index}: has no weight_map: restore it")
    weights: dict[str, Tensor] = {}
    for shard in dict.fromkeys(shard_of_weight.values()):
        if not isinstance(shard, str) or not shard or Path(shard).name != shard:
            raise ImportWeightsError(f"{index}: names the shard {shard!r}: only files beside it are read")
        path = index.with_name(shard)
        if not path.is_file():
            raise ImportWeightsError(f"{path}: is missing: fetch it; {index.name} names it")
        weights |= read(path)
    lacking = shard_of_weight.keys() - weights.keys()
    if lacking:
        raise ImportWeightsError(f"{index}: names {min(lacking)}, which no shard holds: fetch the folder again")
    return weights


def write_hugging_face(checkpoint: Checkpoint, model: SpanModel, folder: str | Path) -> None:
    """Write a checkpoint as a folder that transformers reads, atomically.

    Args:
        checkpoint: What to say beside the weights.
        model: The weights; of the architecture `checkpoint.encoder`.
        folder: The target: missing, empty, or an earlier export, whose other files are kept.

    Raises:
        CheckpointError: The target is something else or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    _check_replaceable(folder)
    try:
        replace_folder(folder, lambda new: _write_files(checkpoint, model, new), own_files=OWN_FILES)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error}") from error


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        ours = WRITER_KEY in read_json(folder / CONFIG_FILE)
    except ImportWeightsError:
        ours = False
    if not ours:
        raise CheckpointError(
            f"{folder}: holds something else than an earlier export and is left alone: give a new or an empty folder"
        )


def _write_files(checkpoint: Checkpoint, model: SpanModel, folder: Path) -> None:
    weights = {name: tensor.detach().cpu() for name, tensor in hugging_face_weights_from_model(model).items()}
    save_file({name: t.contiguous() for name, t in weights.items()}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    tokenizer = checkpoint.tokenizer()
    config = {
        **hugging_face_config_from_encoder(checkpoint.encoder),
        "pad_token_id": tokenizer.pad_id,
        "dtype": str(model.head.weight.dtype).removeprefix("torch."),
        WRITER_KEY: hugging_face_settings(checkpoint),
    }
    has_types = checkpoint.encoder.type_vocab_size > 1  # DistilBERT and MPNet refuse to be given any
    tokenizer_config = {
        # The class that takes tokenizer.json as it is; BERT's own would build another from the vocabulary.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": checkpoint.encoder.max_positions,
        "model_input_names": ["input_ids", *["token_type_ids"] * has_types, "attention_mask"],
        **tokenizer.special_tokens,
    }
    (folder / TOKENIZER_FILE).write_text(_tokenizer_json_of_pairs(tokenizer), encoding="utf-8")
    for name, value in (
        (CONFIG_FILE, config),
        (TOKENIZER_CONFIG_FILE, tokenizer_config),
        (SPECIAL_TOKENS_FILE, tokenizer.special_tokens),
    ):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # safetensors makes its file private to the owner; it gets the permissions of the others.
    (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)


def _tokenizer_json_of_pairs(tokenizer: Tokenizer) -> str:
    """The tokenizer.json, which says how a question and its context are joined; BERT's is given the words for it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors

    if tokenizer.pair != bert_pair(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id):
        return tokenizer.serialized
    cls, sep = tokenizer.special_tokens["cls_token"], tokenizer.special_tokens["sep_token"]
    backend = Backend.from_str(tokenizer.serialized)
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_id), (sep, tokenizer.sep_id)],
    )
    return str(backend.to_str(pretty=True))
