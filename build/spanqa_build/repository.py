"""A complete model repository for Triton: a new version beside the last one, swapped in as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import spanqa
from spanqa import contract
from spanqa.manifest import MANIFEST_FILE, TORCH, Engine, Manifest
from spanqa.openvino_network import OPENVINO_FILE
from spanqa.packing import Packing
from spanqa.spans import DecodeSettings
from spanqa.startup import sha256_of, versions_in
from spanqa.tokenization import TOKENIZER_FILE
from spanqa.windows import Batch
from spanqa_build.configs import ONNXRUNTIME, TENSORRT
from spanqa_build.errors import RepositoryError
from spanqa_build.versions import add_version
from spanqa_build.warmup import warmup_files
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.fixed_length import WEIGHTS_FILE

NETWORK_FILE = "network.onnx"
CODE_FILE = "model.py"
ENGINE_FILES = {TENSORRT: "model.plan", ONNXRUNTIME: "model.onnx", TORCH: WEIGHTS_FILE}
"""What Triton's backends, or a model.py of ours, look for in a version folder."""
TORCH_TEMPLATE = "encoder_torch"
CPU_PACKING = Packing(rows_per_call=16, tokens_per_call=16 * 512, calls_in_flight=2)
"""Calls large enough to keep every core busy; the CPU encoder runs the windows of a call one by one all the same."""
_PACKAGED_TEMPLATES = Path(__file__).parent / "templates"
_SOURCE_TEMPLATES = Path(__file__).resolve().parents[2] / "model_repository"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network that a CPU serves.

    Args:
        path: An ONNX file, or OpenVINO's graph beside its weights.
        precision: "int8", "float32" or "bfloat16".
        facts: What the build measured and wants recorded; JSON values.
    """

    path: Path
    precision: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNetworks:
    """The networks that a GPU serves: one file a bucket.

    Args:
        target: What they were built for.
        engine: How Triton runs them.
        packing: The buckets.
        paths: The file of each encoder model, by its name; several may share one.
        warmup: One real row for each encoder model, as `warmup_from_examples` makes it.
        precision: Such as "fp16".
        facts: What the build measured and wants recorded, the parity report among it; JSON values.
    """

    target: str
    engine: Engine
    packing: Packing
    paths: Mapping[str, Path]
    warmup: Mapping[str, Batch]
    precision: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def manifest_from_checkpoint(checkpoint: Checkpoint, network: Network | GpuNetworks, *, name: str) -> Manifest:
    """Give the settings that the stages of a repository share.

    Args:
        checkpoint: The model.
        network: The network made from it.
        name: The checkpoint's name, for people.
    """
    tokenizer = checkpoint.tokenizer()
    manifest = Manifest(
        tokenizer_sha256=tokenizer.sha256,
        pair=tokenizer.pair,
        windows=checkpoint.windows,
        decode=DecodeSettings(
            no_answer_threshold=checkpoint.no_answer_threshold,
            max_answer_tokens=checkpoint.max_answer_tokens,
            temperature=checkpoint.temperature,
            answer_slope=checkpoint.answer_slope,
            answer_offset=checkpoint.answer_offset,
            word_boundaries=checkpoint.word_boundaries,
        ),
        packing=CPU_PACKING,
        encoder={"precision": network.precision, **network.facts},
        model={"name": name, "family": checkpoint.encoder.model_type, "provenance": checkpoint.provenance},
        versions={"spanqa": spanqa.__version__, **{tool: metadata.version(tool) for tool in ("torch", "onnxruntime")}},
    )
    if isinstance(network, GpuNetworks):
        return replace(manifest, target=network.target, packing=network.packing, engine=network.engine)
    described = {"file": next(iter(_network_files(network.path))), "sha256": sha256_of(network.path)}
    return replace(manifest, encoder={**described, **manifest.encoder})


def write_repository(
    folder: str | Path, manifest: Manifest, checkpoint: Checkpoint, network: Network | GpuNetworks
) -> int:
    """Write a new version and swap it in: an interruption leaves the old repository or the new one.

    The version before it is kept, so that a server can go on with it until the new one is loaded, and go back.

    Args:
        folder: The target; missing, empty or a model repository of ours. Models of other names in it are kept.
        manifest: The repository's settings.
        checkpoint: Gives the tokenizer.
        network: The network.

    Returns:
        The version written.

    Raises:
        RepositoryError: If the target is something else or cannot be written.
    """
    folder = check_output(folder, rehearsed=bool(manifest.engine and manifest.engine.rehearsed))
    files: dict[str, Path | bytes] = {
        f"{contract.QUESTION_ANSWERING}/{TOKENIZER_FILE}": checkpoint.tokenizer_json.encode()
    }
    if isinstance(network, GpuNetworks):
        coded = tuple(name for name in contract.MODELS if name not in (contract.ENSEMBLE, contract.ENCODER))
        file = ENGINE_FILES[network.engine.platform]
        files |= {f"{name}/{file}": network.paths[name] for name in manifest.packing.encoders}
        if network.engine.is_torch:
            code = _template(TORCH_TEMPLATE).read_bytes()
            files |= {f"{name}/{CODE_FILE}": code for name in manifest.packing.encoders}
        warmup = warmup_files(network.warmup)
    else:
        coded = tuple(name for name in contract.MODELS if name != contract.ENSEMBLE)
        files |= {f"{contract.ENCODER}/{name}": path for name, path in _network_files(network.path).items()}
        warmup = {}
    files |= {f"{name}/{CODE_FILE}": _template(name).read_bytes() for name in coded}
    return add_version(folder, manifest, files, warmup)


def _network_files(path: Path) -> dict[str, Path]:
    """The files of a CPU's network under the names that they are served by, the graph first."""
    if path.suffix == Path(OPENVINO_FILE).suffix:
        return {str(Path(OPENVINO_FILE).with_suffix(suffix)): path.with_suffix(suffix) for suffix in (".xml", ".bin")}
    return {NETWORK_FILE: path}


def check_output(folder: str | Path, *, rehearsed: bool = False) -> Path:
    """Check that a repository may be written to a folder: before the work, and before the writing.

    Args:
        folder: The target.
        rehearsed: Whether a rehearsal's is to be written, beside which no real version may lie, nor the reverse.

    Returns:
        The folder, absolute; where it is a link, what that names, as Triton reads it.

    Raises:
        RepositoryError: It holds something else, or cannot be written to.
    """
    folder = Path(folder).resolve()
    try:
        if folder.exists() and not _is_ours(folder):
            raise RepositoryError(
                f"{folder}: holds something else than a model repository: give a new or an empty folder"
            )
        is_rehearsed = _is_rehearsed(folder)
        if is_rehearsed is not None and is_rehearsed != rehearsed:
            held, wanted = ("real", "rehearsed") if rehearsed else ("rehearsed", "real")
            raise RepositoryError(
                f"{folder}: holds a {held} repository, beside which no {wanted} version is put: give another folder"
            )
        parent = next(parent for parent in folder.parents if parent.exists())
    except OSError as error:
        raise RepositoryError(f"{folder}: cannot be read: {error.strerror}: give another folder") from error
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RepositoryError(f"{folder}: cannot be written: {parent} is no folder that you may write to")
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or a build's: a folder that is only called like a model of ours may be anything."""
    entry = folder / contract.QUESTION_ANSWERING
    return folder.is_dir() and (
        not any(folder.iterdir())
        or any((entry / str(version) / MANIFEST_FILE).is_file() for version in versions_in(entry))
    )


def _is_rehearsed(folder: Path) -> bool | None:
    """Whether the newest version is a rehearsal's, as its manifest says, sound or not; None where nothing says so."""
    versions = versions_in(folder / contract.QUESTION_ANSWERING)
    try:
        path = folder / contract.QUESTION_ANSWERING / str(versions[-1]) / MANIFEST_FILE
        return bool((json.loads(path.read_text(encoding="utf-8"))["engine"] or {}).get("rehearsed"))
    except (IndexError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _template(name: str) -> Path:
    """The model.py of a stage: of the source tree, else as packaged in the wheel."""
    for path in (_SOURCE_TEMPLATES / name / "1" / CODE_FILE, _PACKAGED_TEMPLATES / f"{name}.py"):
        if path.is_file():
            return path
    raise RepositoryError(f"the model.py of {name} is missing from this installation: install spanqa again")
