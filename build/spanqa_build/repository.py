"""A complete model repository for Triton: models, configs, network, tokenizer and manifest, swapped in as a whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spanqa import contract
from spanqa.folder_swap import replace_folder
from spanqa.manifest import MANIFEST_FILE, Manifest, Packing, manifest_json
from spanqa.spans import DecodeSettings
from spanqa.tokenization import TOKENIZER_FILE
from spanqa_build.configs import config_texts
from spanqa_build.errors import RepositoryError
from spanqa_training.checkpoint import Checkpoint

NETWORK_FILE = "network.onnx"
VERSION = "1"
CPU_PACKING = Packing(rows_per_call=16, tokens_per_call=16 * 512, calls_in_flight=2)
"""Calls large enough to keep every core busy; the CPU encoder runs the windows of a call one by one all the same."""
_PACKAGED_TEMPLATES = Path(__file__).parent / "templates"
_SOURCE_TEMPLATES = Path(__file__).resolve().parents[2] / "model_repository"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network to serve.

    Args:
        path: An ONNX file.
        precision: "int8" or "float32".
        facts: What the build measured and wants recorded; JSON values.
    """

    path: Path
    precision: str
    facts: Mapping[str, Any]


def manifest_from_checkpoint(checkpoint: Checkpoint, network: Network, *, name: str) -> Manifest:
    """Give the settings that the stages of a repository share.

    Args:
        checkpoint: The model.
        network: The network made from it.
        name: The checkpoint's name, for people.
    """
    tokenizer = checkpoint.tokenizer()
    return Manifest(
        tokenizer_sha256=tokenizer.sha256,
        windows=checkpoint.windows,
        decode=DecodeSettings(
            no_answer_threshold=checkpoint.no_answer_threshold,
            max_answer_tokens=checkpoint.max_answer_tokens,
            temperature=checkpoint.temperature,
        ),
        packing=replace(CPU_PACKING),
        encoder={
            "target": "cpu",
            "file": NETWORK_FILE,
            "precision": network.precision,
            "sha256": hashlib.sha256(network.path.read_bytes()).hexdigest(),
            **network.facts,
        },
        model={"name": name, "provenance": checkpoint.provenance},
    )


def write_repository(folder: str | Path, manifest: Manifest, checkpoint: Checkpoint, network: Network) -> None:
    """Write a repository beside the target and swap it in: an interruption leaves the old one or the new one.

    Args:
        folder: The target; missing, empty or a model repository of ours. Models of other names in it are kept.
        manifest: The repository's settings.
        checkpoint: Gives the tokenizer.
        network: The network.

    Raises:
        RepositoryError: If the target is something else or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / contract.QUESTION_ANSWERING).is_dir())
    ):
        raise RepositoryError(f"{folder}: holds something else than a model repository: give a new or an empty folder")
    templates = {name: _template(name).read_text(encoding="utf-8") for name in contract.MODELS if _has_code(name)}

    def write(new: Path) -> None:
        for name, config in config_texts(manifest).items():
            version = new / name / VERSION
            version.mkdir(parents=True)
            (new / name / "config.pbtxt").write_text(config, encoding="utf-8")
            if _has_code(name):
                (version / "model.py").write_text(templates[name], encoding="utf-8")
            else:
                (version / ".gitkeep").touch()  # Triton wants the folder, git keeps no empty one
        main = new / contract.QUESTION_ANSWERING / VERSION
        (main / MANIFEST_FILE).write_text(manifest_json(manifest), encoding="utf-8")
        with open(main / TOKENIZER_FILE, "w", encoding="utf-8", newline="") as file:
            file.write(checkpoint.tokenizer_json)
        shutil.copyfile(network.path, new / contract.ENCODER / VERSION / NETWORK_FILE)

    try:
        replace_folder(folder, write, own_files=contract.MODELS)
    except OSError as error:
        raise RepositoryError(f"{folder}: cannot be written: {error}: the old repository is as it was") from error


def _has_code(name: str) -> bool:
    return name != contract.ENSEMBLE


def _template(name: str) -> Path:
    """The model.py of a stage: of the source tree, else as packaged in the wheel."""
    for path in (_SOURCE_TEMPLATES / name / VERSION / "model.py", _PACKAGED_TEMPLATES / f"{name}.py"):
        if path.is_file():
            return path
    raise RepositoryError(f"the model.py of {name} is missing from this installation: install spanqa again")
