"""The files of a model, in a folder or packed: small texts, and one big part that is hashed and may be encrypted."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spanqa.folder_swap import readable_folder
from spanqa.tokenization import TOKENIZER_FILE
from spanqa_training.checkpoints.archive import Create, open_archive
from spanqa_training.checkpoints.encryption import read_sealed, sealing
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
LM_HEAD_FILE = "lm_head.safetensors"
NETWORK_FILE = "network.onnx"
SPEC_FILE = "spec.yaml"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
SEALED_SUFFIX = ".sealed"
CHECKPOINT_FILES = (
    CONFIG_FILE,
    WEIGHTS_FILE,
    WEIGHTS_FILE + SEALED_SUFFIX,
    LM_HEAD_FILE,
    LM_HEAD_FILE + SEALED_SUFFIX,
    TOKENIZER_FILE,
    SPEC_FILE,
    METRICS_FILE,
    CARD_FILE,
)
NETWORK_FILES = (CONFIG_FILE, NETWORK_FILE, NETWORK_FILE + SEALED_SUFFIX, TOKENIZER_FILE)

Root = Path | zipfile.Path
"""Where the files of a model lie."""


@contextmanager
def opened(path: Path) -> Iterator[Root]:
    """Open a model for reading.

    Args:
        path: Its folder, or the file that it is packed in.

    Raises:
        CheckpointError: The packed file is something else or damaged; also while it is read.
    """
    path = Path(os.path.abspath(path))
    if path.is_file():
        with open_archive(path, {*CHECKPOINT_FILES, *NETWORK_FILES}) as root:
            yield root
    else:
        yield readable_folder(path)


def folder_creator(folder: Path) -> Create:
    """Give the function that opens new files in a folder, as `write_archive` gives one for members."""
    return lambda name: open(folder / name, "wb")


def write_text(create: Create, name: str, text: str) -> None:
    """Write one of the texts, in UTF-8."""
    with create(name) as file:
        file.write(text.encode())


def read_text(path: Root) -> str:
    """Read one of the texts.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            return file.read().decode()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing: restore it, or give the path of a checkpoint") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def write_part(create: Create, name: str, pieces: Iterable[bytes], key: Key | None) -> str:
    """Write one of the parts, encrypted where there is a key.

    Args:
        create: Opens the file.
        name: Its name when it is not encrypted.
        pieces: The content.
        key: The key.

    Returns:
        SHA-256 of the content as it is without a key, as hexadecimal digits.
    """
    digest = hashlib.sha256()
    with create(_stored(name, key is not None)) as file, sealing(file, key) as content:
        for piece in pieces:
            digest.update(piece)
            content.write(piece)
    return digest.hexdigest()


def read_part(root: Root, name: str, *, encrypted: bool, sha256: object, key: Key | None) -> bytes:
    """Read one of the parts; takes twice its size in memory.

    Args:
        root: Where it lies.
        name: Its name when it is not encrypted.
        encrypted: Whether it is.
        sha256: What `write_part` returned.
        key: The key; not used for a part that is not encrypted.

    Raises:
        CheckpointError: It is missing, damaged or another.
        EncryptionError: The key is missing or another, or the encrypted file was altered.
    """
    path = root / _stored(name, encrypted)
    try:
        with path.open("rb") as file:
            content = read_sealed(file, key, path) if encrypted else file.read()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing: restore it, or save the model again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path}: is damaged, or not the file that config.json was saved with: restore it")
    return content


def _stored(name: str, encrypted: bool) -> str:
    return name + SEALED_SUFFIX if encrypted else name
