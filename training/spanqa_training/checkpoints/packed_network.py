"""A packed network, .eonnx: one file with an ONNX and all that answering with it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanqa.tokenization import TOKENIZER_FILE
from spanqa_training.checkpoints.archive import Create, first_member, write_archive
from spanqa_training.checkpoints.description import (
    NETWORK_FORMAT,
    Checkpoint,
    checkpoint_from_config,
    config_from_checkpoint,
    read_config,
    write_json,
)
from spanqa_training.checkpoints.keys import Key
from spanqa_training.checkpoints.storage import CONFIG_FILE, NETWORK_FILE, opened, read_part, write_part, write_text
from spanqa_training.errors import CheckpointError

_VERSION = 1
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedNetwork:
    """What a packed network holds.

    Args:
        checkpoint: What it says beside the network; without the spec and the metrics of training.
        network: The ONNX file.
        precision: That of its matrix products, such as "float32".
        facts: What was measured when it was exported; JSON values.
    """

    checkpoint: Checkpoint
    network: bytes = field(repr=False)
    precision: str
    facts: Mapping[str, Any]


def save_packed_network(
    target: str | Path,
    checkpoint: Checkpoint,
    network: Path,
    *,
    precision: str,
    key: Key | None = None,
    facts: Mapping[str, Any] = {},
) -> None:
    """Pack a network, atomically.

    Args:
        target: The file to write, usually .eonnx; missing, empty or a packed network.
        checkpoint: The model.
        network: Its ONNX file, without external data.
        precision: That of its matrix products, such as "float32".
        key: Encrypts the network.
        facts: What was measured; JSON values.

    Raises:
        CheckpointError: The target is something else or cannot be written, or the facts cannot be stored.
    """
    target = Path(os.path.abspath(target))
    _check_target(target)

    def write(create: Create) -> None:
        config = {
            "format": NETWORK_FORMAT,
            "format_version": _VERSION,
            "encrypted": key is not None,
            "precision": precision,
            **config_from_checkpoint(checkpoint),
            "network_sha256": write_part(create, NETWORK_FILE, _pieces(network), key),
            "facts": facts,
        }
        write_json(create, CONFIG_FILE, config)
        write_text(create, TOKENIZER_FILE, checkpoint.tokenizer_json)

    try:
        write_archive(target, write)
    except OSError as error:
        raise CheckpointError(f"{target}: the network cannot be written: {error}") from error


def read_packed_network(path: str | Path, key: Key | None = None) -> PackedNetwork:
    """Read a packed network; takes twice its size in memory.

    Raises:
        CheckpointError: It is something else or damaged.
        EncryptionError: The key is missing or another, or the encrypted network was altered.
    """
    with opened(Path(path)) as root:
        config = read_config(root, NETWORK_FORMAT, (_VERSION,))
        encrypted = bool(config.get("encrypted"))
        return PackedNetwork(
            checkpoint=checkpoint_from_config(root, config),
            network=read_part(root, NETWORK_FILE, encrypted=encrypted, sha256=config.get("network_sha256"), key=key),
            precision=str(config.get("precision")),
            facts=config.get("facts", {}),
        )


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise CheckpointError(f"{target}: is a folder, and a packed network is a file: give another path")
    if target.exists() and target.stat().st_size and not first_member(target).startswith(NETWORK_FILE):
        raise CheckpointError(
            f"{target}: holds something else than a packed network and is left alone: give another path, or delete it"
        )


def _pieces(network: Path) -> Iterator[bytes]:
    with network.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece
