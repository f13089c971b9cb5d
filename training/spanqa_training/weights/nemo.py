"""NeMo archives of question answering models (also renamed to .tlt), taken over with their windows and vocabulary."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from torch import Tensor

from spanqa.errors import TokenizerError
from spanqa.tokenization import TOKENIZER_FILE, VOCABULARY_FILE, Tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.hugging_face_names import config_of_shapes, overridden, parts_from_hugging_face
from spanqa_training.weights.import_types import (
    Imported,
    ImportOptions,
    Parts,
    imported_from_parts,
    naming,
    windows_within,
)
from spanqa_training.weights.megatron_names import (
    MERGE_SHARDS,
    WORD_EMBEDDING,
    checkpoint_version,
    facts_of_megatron,
    parts_from_megatron,
)
from spanqa_training.weights.renaming import renamed_weights, tensors_only
from spanqa_training.weights.torch_file import read_torch_file
from spanqa_training.weights.vocabulary import load_vocabulary

CONFIG_FILE = "model_config.yaml"
WEIGHTS_FILE = "model_weights.ckpt"
VERSION_FILE = "megatron_checkpoint_version.json"

CLASSES = ("QAModel", "BERTQAModel")
"""NeMo's question answering models with a BERT encoder: of 1.0 to 1.10, and since 1.11."""

_ENCODER = "bert_model."
_HEAD_KEYS = {"head.weight": "classifier.mlp.layer0.weight", "head.bias": "classifier.mlp.layer0.bias"}

_NEWER_VERSION = 3.0
"""The order of fused attention weights that NeMo's own Megatron encoder has, unless told `megatron_legacy`."""

_WINDOWS = tuple(field.name for field in fields(WindowSettings))

_TEXTS = re.compile(r".*(\.yaml|\.json|\.txt|vocab\w*)")
"""Names of members that may be a configuration or a vocabulary; others are not read."""

_LARGEST_TEXTS_BYTES = 1 << 26
"""Of all of them together: a configuration and a vocabulary are a few MB."""

_LARGEST_WEIGHTS_BYTES = 1 << 34
"""Of the weights: those of the largest published Megatron-BERT, of 3.9 billion parameters, fit in float32."""


def import_nemo(path: Path, options: ImportOptions) -> Imported:
    """Take over a question answering model: encoder, head, vocabulary, windows and answer settings.

    Nothing of the archive is written under a name of its own: small members are read into memory, and the weights and
    the vocabulary are copied into a private temporary folder.

    Raises:
        ImportWeightsError: It holds another kind of model, or is damaged.
        TokenizerError: The tokenizer cannot be used.
    """
    with tempfile.TemporaryDirectory() as temporary, naming(path):
        folder = Path(temporary)
        members = _unpacked(path, folder)
        config = _config(members)
        tokenizer = _tokenizer(path, members, config, folder, options)
        encoder_config = _encoder_config(members, config)
        content = read_torch_file(folder / WEIGHTS_FILE, name=WEIGHTS_FILE)
        with naming(WEIGHTS_FILE):
            weights = tensors_only(content)
            parts, facts = _encoder(weights, encoder_config, members, tokenizer, options)
            parts = replace(parts, head=_head(weights))
        provenance = {"source": "NeMo archive", "name": path.resolve().name, "architectures": [_class(config)], **facts}
        settings = _settings(_section(config, "dataset"), windows_within(parts.config.max_positions, tokenizer))
        return imported_from_parts(parts, tokenizer, options, provenance=provenance, settings=settings)


def _unpacked(path: Path, folder: Path) -> dict[str, bytes]:
    """Copy the weights into the folder, and read the texts, by name without path."""
    members: dict[str, bytes] = {}
    n_text_bytes = 0
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                name = PurePosixPath(member.name).name
                if content is None:
                    continue
                if name == WEIGHTS_FILE:
                    _check_size(member, min(_LARGEST_WEIGHTS_BYTES, shutil.disk_usage(folder).free))
                    with open(folder / WEIGHTS_FILE, "xb") as copy:
                        shutil.copyfileobj(content, copy)
                elif _TEXTS.fullmatch(name):
                    _check_size(member, _LARGEST_TEXTS_BYTES - n_text_bytes)
                    n_text_bytes += member.size
                    members[name] = content.read()
    except ImportWeightsError:
        raise
    except FileExistsError as error:
        raise ImportWeightsError(
            f"holds several {WEIGHTS_FILE}, of a model-parallel network: {MERGE_SHARDS}"
        ) from error
    except Exception as error:  # tarfile fails in any way on a damaged archive
        raise ImportWeightsError(f"cannot be unpacked: fetch or save it again ({error})") from error
    for name, there in ((CONFIG_FILE, CONFIG_FILE in members), (WEIGHTS_FILE, (folder / WEIGHTS_FILE).is_file())):
        if not there:
            raise ImportWeightsError(f"holds no {name}: it is no archive that NeMo's save_to wrote")
    return members


def _check_size(member: tarfile.TarInfo, largest_bytes: int) -> None:
    """Refuse a member that would fill the memory or the disk: one of holes takes any size from nothing."""
    if member.issparse():
        raise ImportWeightsError(
            f"{member.name} is stored as a sparse file, as NeMo never does: save the archive again"
        )
    if member.size > largest_bytes:
        raise ImportWeightsError(
            f"{member.name} takes {member.size:,} bytes, and {largest_bytes:,} are allowed or free: make room in the"
            " temporary folder, or save the archive again with the model alone"
        )


def _config(members: Mapping[str, bytes]) -> Mapping[str, Any]:
    """The model's configuration, if it is of a model that can be taken over."""
    try:
        config = yaml.safe_load(members[CONFIG_FILE])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ImportWeightsError(f"{CONFIG_FILE}: is no YAML of NeMo's: save the archive again ({reason})") from error
    if not isinstance(config, Mapping):
        raise ImportWeightsError(f"{CONFIG_FILE}: holds no settings: save the archive again")
    if _class(config) not in CLASSES:
        raise ImportWeightsError(
            f"is of the class {config.get('target')}: only question answering models with a BERT encoder"
            f" ({', '.join(CLASSES)}) can be taken over"
        )
    classifier = _section(config, "token_classifier")
    for key, only in (("num_layers", 1), ("log_softmax", False)):
        if classifier.get(key, only) != only:
            raise ImportWeightsError(f"token_classifier.{key} is {classifier[key]!r}: only {only!r} can be taken over")
    return config


def _class(config: Mapping[str, Any]) -> str:
    return str(config.get("target")).rpartition(".")[2]


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise ImportWeightsError(f"{CONFIG_FILE}: {name} is {section!r}: it must be a section of settings")
    return section


def _member(members: Mapping[str, bytes], named: object, *endings: str) -> str | None:
    """The member that the configuration names (`nemo:HASH_name`), else one that ends so."""
    name = PurePosixPath(str(named).removeprefix("nemo:")).name
    if name in members:
        return name
    return next((name for ending in endings for name in sorted(members) if name.endswith(ending)), None)


def _tokenizer(
    path: Path, members: Mapping[str, bytes], config: Mapping[str, Any], folder: Path, options: ImportOptions
) -> Tokenizer:
    named = _section(config, "tokenizer").get("vocab_file")
    name = _member(members, named, VOCABULARY_FILE, "tokenizer.vocab_file", TOKENIZER_FILE)
    if name is not None:
        (folder / (TOKENIZER_FILE if name.endswith(".json") else VOCABULARY_FILE)).write_bytes(members[name])
    lower = _section(config, "dataset").get("do_lower_case")
    if not isinstance(lower, bool | None):
        raise ImportWeightsError(f"{CONFIG_FILE}: dataset.do_lower_case is {lower!r}: it must be true or false")
    try:
        return load_vocabulary(options, [path.parent if name is None else folder], do_lower_case=lower)
    except TokenizerError as error:
        raise TokenizerError(str(error).replace(str(folder), str(path))) from error


def _json(members: Mapping[str, bytes], name: str | None) -> Mapping[str, Any]:
    try:
        value = json.loads(members[name]) if name else {}
    except (ValueError, RecursionError) as error:
        raise ImportWeightsError(f"{name}: cannot be read as JSON: {error}: save the archive again") from error
    if not isinstance(value, Mapping):
        raise ImportWeightsError(f"{name}: holds no JSON object: save the archive again")
    return value


def _encoder_config(members: Mapping[str, bytes], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the archive says of the encoder, in Hugging Face's or Megatron-LM's keys."""
    language_model = _section(config, "language_model")
    artefact = _json(members, _member(members, language_model.get("config_file"), "encoder_config.json"))
    return artefact or _section(language_model, "config")


def _encoder(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    members: Mapping[str, bytes],
    tokenizer: Tokenizer,
    options: ImportOptions,
) -> tuple[Parts, dict[str, Any]]:
    """The encoder, and what is worth remembering of it."""
    encoder = {name: tensor for name, tensor in weights.items() if name.startswith(_ENCODER)}
    if not any(name.endswith(f".{WORD_EMBEDDING}") for name in encoder):
        encoder = {name.removeprefix(_ENCODER): tensor for name, tensor in encoder.items()}
        return parts_from_hugging_face(encoder, overridden(config or config_of_shapes(encoder), options)), {}
    said = _json(members, _member(members, None, VERSION_FILE)).get("checkpoint_version")
    if said is None and config.get("megatron_legacy") is False:
        said = _NEWER_VERSION
    version = checkpoint_version(said)
    parts = parts_from_megatron(encoder, config, version=version, tokenizer=tokenizer, options=options)
    return parts, facts_of_megatron(config, version)


def _head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    head = {name: tensor for name, tensor in weights.items() if not name.startswith(_ENCODER)}
    others = [name for name in head if name not in _HEAD_KEYS.values()]
    if others:
        raise ImportWeightsError(
            f"holds {others[0]}: only a head of one linear layer (classifier.mlp.layer0) can be taken over"
        )
    return renamed_weights(head, _HEAD_KEYS)


def _settings(dataset: Mapping[str, Any], default: WindowSettings) -> dict[str, Any]:
    """How the model cut contexts and chose answers, as fields of a checkpoint."""
    said = {name: value for name, value in dataset.items() if value is not None}
    names = dict.fromkeys((*_WINDOWS, "max_answer_length"), int) | {"null_score_diff_threshold": (int, float)}
    for name, kind in names.items():
        if not isinstance(said.get(name, 1), kind):
            raise ImportWeightsError(f"{CONFIG_FILE}: dataset.{name} is {said[name]!r}: it must be a number")
    settings: dict[str, Any] = {"windows": replace(default, **{name: said[name] for name in _WINDOWS if name in said})}
    if "max_answer_length" in said:
        settings["max_answer_tokens"] = said["max_answer_length"]
    if "null_score_diff_threshold" in said:
        settings["no_answer_threshold"] = float(said["null_score_diff_threshold"])
    return settings
