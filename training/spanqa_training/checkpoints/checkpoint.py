"""Checkpoints: a folder or one packed file with all that a model needs to be trained on, evaluated and exported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spanqa.folder_swap import replace_folder
from spanqa.tokenization import TOKENIZER_FILE
from spanqa_training.checkpoints.archive import Create, first_member, write_archive
from spanqa_training.checkpoints.description import (
    CHECKPOINT_FORMAT,
    Checkpoint,
    checkpoint_from_config,
    config_from_checkpoint,
    is_of_format,
    read_config,
    read_json,
    write_json,
)
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.storage import (
    CARD_FILE,
    CHECKPOINT_FILES,
    CONFIG_FILE,
    LM_HEAD_FILE,
    METRICS_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    Root,
    folder_creator,
    opened,
    read_part,
    read_text,
    write_part,
    write_text,
)
from spanqa_training.checkpoints.weights_file import (
    DTYPES,
    check_finite,
    model_from_weights,
    safetensors_from_weights,
    weights_from_safetensors,
)
from spanqa_training.errors import CheckpointError
from spanqa_training.model import SpanModel

PACKED_SUFFIXES = (".tlt", ".ckpt")
_VERSIONS = (1, 2)
"""2 is what the first release cannot read: encrypted weights, the head of the masked language model beside them, or
another family than BERT."""


def save_checkpoint(
    checkpoint: Checkpoint,
    model: SpanModel,
    target: str | Path,
    *,
    dtype: str = "float32",
    key: Key | None = None,
    card: str | None = None,
    lm_head: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint, atomically: an interruption leaves the old one or the new one.

    An existing checkpoint is replaced, but for its model card where there is no new one, and the files of others in
    its folder.

    Args:
        checkpoint: What to say beside the weights.
        model: The weights; of the architecture `checkpoint.encoder`.
        target: With the suffix .tlt or .ckpt one packed file, else a folder; missing, empty or a checkpoint.
        dtype: Precision of the stored weights: "float32" or "float16".
        key: Encrypts the weights, which then never lie on the disk as they are.
        card: The model card, in Markdown.
        lm_head: Weights of the head of the masked language model, kept for adapting to a domain.

    Raises:
        CheckpointError: The target is something else or cannot be written, or the values cannot be stored.
    """
    target = Path(os.path.abspath(target))
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}: give one of {', '.join(DTYPES)}")
    if model.config != checkpoint.encoder:
        raise CheckpointError("the model's architecture is not the checkpoint's: save the model it was made for")
    check_target(target)
    parts = {WEIGHTS_FILE: model.state_dict(), LM_HEAD_FILE: lm_head or {}}
    for weights in parts.values():
        check_finite(weights, DTYPES[dtype])
    if card is None and target.is_file():
        card = _old_card(target)
    write = partial(_write_files, checkpoint=checkpoint, parts=parts, dtype=DTYPES[dtype], key=key, card=card)
    try:
        if _is_packed(target):
            write_archive(target, write)
        else:
            own_files = [name for name in CHECKPOINT_FILES if name != CARD_FILE or card is not None]
            replace_folder(target, lambda folder: write(folder_creator(folder)), own_files=own_files)
    except OSError as error:
        raise CheckpointError(f"{target}: the checkpoint cannot be written: {error}") from error


def check_target(target: str | Path) -> None:
    """Refuse to write over what is no checkpoint: worth asking before a long training.

    Raises:
        CheckpointError: The target is something that nobody meant to give up, or has the suffix of another format.
    """
    target = Path(os.path.abspath(target))
    if target.suffix == ".nemo":
        raise CheckpointError(f"{target}: is another toolkit's format, which is only read: write .tlt")
    if not target.exists():
        return
    if target.is_dir() and _is_packed(target):
        raise CheckpointError(f"{target}: is a folder, and {target.suffix} names one packed file: give another path")
    if target.is_file() and not _is_packed(target):
        raise CheckpointError(
            f"{target}: is a file, and a checkpoint of that name is a folder: give another path, or one with .tlt"
        )
    empty = not any(target.iterdir()) if target.is_dir() else target.stat().st_size == 0
    if not empty and not is_checkpoint(target):
        raise CheckpointError(
            f"{target}: holds something else than a checkpoint and is left alone: give another path, or delete it"
        )


def is_checkpoint(path: str | Path) -> bool:
    """Whether there is a checkpoint of ours, of any version and perhaps damaged; reads no weights.

    Raises:
        CheckpointError: There is a file, but it cannot be read.
    """
    path = Path(path)
    try:
        with opened(path) as root:
            return is_of_format(read_json(root / CONFIG_FILE), CHECKPOINT_FORMAT)
    except CheckpointError:
        # What is left of a packed one that was cut off begins with its weights.
        return path.is_file() and first_member(path).startswith(WEIGHTS_FILE)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, a folder or packed, without its weights, which takes no key.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the others.
    """
    with opened(Path(path)) as root:
        return checkpoint_from_config(root, read_config(root, CHECKPOINT_FORMAT, _VERSIONS))


def load_checkpoint(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    key: Key | None = None,
) -> tuple[Checkpoint, SpanModel]:
    """Read a checkpoint with its weights.

    Args:
        path: A folder or a packed file.
        device: Where the model goes.
        dtype: Precision of the model's weights, whatever the stored one.
        key: Decrypts the weights; not used where they are not encrypted.

    Returns:
        The checkpoint and the model, in evaluation mode.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the others.
        EncryptionError: The key is missing or another, or the encrypted weights were altered.
    """
    with opened(Path(path)) as root:
        config = read_config(root, CHECKPOINT_FORMAT, _VERSIONS)
        checkpoint = checkpoint_from_config(root, config)
        weights = _weights(root, WEIGHTS_FILE, config, "weights_sha256", key)
        model = model_from_weights(weights, checkpoint.encoder, torch.device(device), dtype, root / WEIGHTS_FILE)
    return checkpoint, model.eval()


def load_lm_head(path: str | Path, key: Key | None = None) -> dict[str, Tensor]:
    """Read the head of the masked language model that a checkpoint keeps: float32; empty where it keeps none.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the others.
        EncryptionError: The key is missing or another, or the encrypted weights were altered.
    """
    with opened(Path(path)) as root:
        config = read_config(root, CHECKPOINT_FORMAT, _VERSIONS)
        if config.get("lm_head_sha256") is None:
            return {}
        weights = _weights(root, LM_HEAD_FILE, config, "lm_head_sha256", key)
    return {name: tensor.float() for name, tensor in weights.items()}


def _is_packed(target: Path) -> bool:
    return target.suffix in PACKED_SUFFIXES


def _weights(root: Root, name: str, config: Mapping[str, Any], checksum: str, key: Key | None) -> dict[str, Tensor]:
    encrypted = bool(config.get("encrypted"))
    content = read_part(root, name, encrypted=encrypted, sha256=config.get(checksum), key=key)
    return weights_from_safetensors(content, root / name)


def _old_card(target: Path) -> str | None:
    """The card of the packed file that is about to be replaced."""
    try:
        with opened(target) as root:
            return read_text(root / CARD_FILE)
    except CheckpointError:
        return None


def _write_files(
    create: Create,
    *,
    checkpoint: Checkpoint,
    parts: Mapping[str, Mapping[str, Tensor]],
    dtype: torch.dtype,
    key: Key | None,
    card: str | None,
) -> None:
    sha256 = {
        name: write_part(create, name, safetensors_from_weights(weights, dtype), key)
        for name, weights in parts.items()
        if weights
    }
    config = {
        "format": CHECKPOINT_FORMAT,
        "format_version": 2 if key or LM_HEAD_FILE in sha256 or checkpoint.encoder.family != "bert" else 1,
        "encrypted": key is not None,
        **config_from_checkpoint(checkpoint),
        "weights_sha256": sha256[WEIGHTS_FILE],
        "lm_head_sha256": sha256.get(LM_HEAD_FILE),
    }
    write_json(create, CONFIG_FILE, config)
    write_text(create, TOKENIZER_FILE, checkpoint.tokenizer_json)
    write_json(create, METRICS_FILE, checkpoint.metrics)
    for name, text in ((SPEC_FILE, checkpoint.spec), (CARD_FILE, card)):
        if text is not None:
            write_text(create, name, text)
