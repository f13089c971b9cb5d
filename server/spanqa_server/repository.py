"""A model repository as Triton will read it: its models, and what is wrong with it before Triton says so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa import contract
from spanqa.errors import SettingsError, SpanqaError
from spanqa.manifest import MANIFEST_FILE, Manifest, load_manifest
from spanqa.startup import check_machine, check_not_rehearsed, sha256_of, versions_in
from spanqa_server.environment import check_packages, has_backend
from spanqa_server.errors import InstallationError, RepositoryError

REPOSITORY_NAME = "model_repository"
CONFIG_FILE = "config.pbtxt"
CODE_FILE = "model.py"
TORCH_FILES = "*.safetensors"
"""Weights that a model.py of ours gives to torch."""
SOURCE_TREE = Path(__file__).resolve().parents[2]
"""The folder that holds this package's source tree, where the package is installed from one."""
ENTRIES = (contract.ENSEMBLE, contract.QUESTION_ANSWERING)
"""The models that clients ask; every other one works for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """One model of a repository.

    Args:
        name: The model's name, which is its folder's.
        n_processes: How many Python processes it runs.
        has_torch: Whether each of them runs torch.
        version: Its newest version, which Triton serves.
        file_bytes: Size of everything in that version's folder.
        steps: The models that it names, where it is an ensemble.
        config: Content of its configuration file, which is that version's: the next build replaces the file.
        seal: What tells this version from another one of its number; empty where nothing does.
    """

    name: str
    n_processes: int
    has_torch: bool
    version: int
    file_bytes: int
    steps: tuple[str, ...]
    config: bytes
    seal: str


def default_repository() -> Path:
    """Return the repository of the current folder, or else that of the source tree.

    Raises:
        RepositoryError: If there is neither.
    """
    places = (Path.cwd() / REPOSITORY_NAME, SOURCE_TREE / REPOSITORY_NAME)
    for place in places:
        if place.is_dir():
            return place
    raise RepositoryError(
        f"there is no model repository at {' or '.join(map(str, places))}: name one with --repository, "
        "or make one with `spanqa build`"
    )


def is_of_build(name: str) -> bool:
    """Say whether a model is one of ours, all of which have the versions of the main entry."""
    return name in contract.MODELS or name.startswith(f"{contract.ENCODER}_")


def config_of(folder: Path) -> Any:
    """Read a model's configuration.

    Raises:
        RepositoryError: If it is none, or another model's.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = folder / CONFIG_FILE
    try:
        config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise RepositoryError(f"{path} is not a Triton model configuration: {error}") from error
    if config.name and config.name != folder.name:
        raise RepositoryError(f"{path} calls its model {config.name!r}: it must be {folder.name!r}, as its folder is")
    return config


def _check_code(code: Path) -> None:
    if not code.is_file():
        raise RepositoryError(
            f"{code.parents[1]} has no {code.parent.name}/{CODE_FILE}, which its backend runs: build the repository "
            "again"
        )
    try:
        compile(code.read_bytes(), str(code), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        name = code.parents[1].name
        raise RepositoryError(f"the model {name!r} is not valid Python: {code}{where}: {error}") from error


def _model_of(folder: Path) -> ModelFolder:
    config = config_of(folder)
    steps = tuple(step.model_name for step in config.ensemble_scheduling.step)
    is_python = config.backend == "python"
    version = max(versions_in(folder), default=1)
    content = folder / str(version)
    if is_python:
        _check_code(content / CODE_FILE)
    elif not steps and not has_backend(config.backend or config.platform):
        raise RepositoryError(
            f"the model {folder.name!r} asks for the backend {config.backend or config.platform!r}: the installed "
            "Triton has the Python backend alone; serve this repository in a Triton image that has that backend"
        )
    elif steps and not content.is_dir():
        raise RepositoryError(f"{folder} has no folder {version}, which Triton wants of an ensemble: make an empty one")
    sizes = (path.stat().st_size for path in content.rglob("*") if path.is_file())
    n_processes = sum(max(1, group.count) for group in config.instance_group) or 1
    return ModelFolder(
        name=folder.name,
        n_processes=n_processes if is_python else 0,
        has_torch=is_python and any(content.glob(TORCH_FILES)),
        version=version,
        file_bytes=sum(sizes),
        steps=steps,
        config=(folder / CONFIG_FILE).read_bytes(),
        seal=seal_of(folder, version),
    )


def seal_of(folder: Path, version: int) -> str:
    """Give what tells one build from another of the same number: the SHA-256 of its manifest; empty where it has none.

    Raises:
        OSError: If the manifest cannot be read.
    """
    manifest = folder / str(version) / MANIFEST_FILE
    return sha256_of(manifest) if manifest.exists() else ""


def served_version(models: Sequence[ModelFolder]) -> int:
    """Give the version of the build: that of the main entry."""
    return next(model.version for model in models if model.name == contract.QUESTION_ANSWERING)


def _check_readable(repository: Path) -> None:
    """Refuse folders that this user may not enter: what looks for files finds none there, and says no more."""
    for folder in (repository, *sorted(path for path in repository.glob("*") if path.is_dir())):
        if not os.access(folder, os.R_OK | os.X_OK):
            raise RepositoryError(
                f"{folder} cannot be read by user {os.geteuid()}, as whom this runs: let that user read all of "
                f"{repository}"
            )


def _models_in(repository: Path) -> tuple[ModelFolder, ...]:
    _check_readable(repository)
    folders = {path.parent.name: path.parent for path in sorted(repository.glob(f"*/{CONFIG_FILE}"))}
    if contract.QUESTION_ANSWERING not in folders:
        holds = f"it holds {', '.join(folders)}" if folders else "it holds no model"
        raise RepositoryError(
            f"{repository} has no model {contract.QUESTION_ANSWERING!r}, {holds}: name a repository that "
            "`spanqa build` made"
        )
    entry = folders[contract.QUESTION_ANSWERING]
    newest = max(versions_in(entry), default=1)
    of_build: tuple[str, ...] = contract.MODELS
    if (entry / str(newest) / MANIFEST_FILE).exists():
        manifest = load_manifest(entry / str(newest))
        _check_manifest(manifest)
        of_build = manifest.models
        absent = sorted(set(of_build) - folders.keys())
        if absent:
            raise RepositoryError(f"{entry} needs {', '.join(absent)}: not in {repository}: build the repository again")
    for name, folder in list(folders.items()):
        versions = versions_in(folder)
        if name in of_build and versions and versions[-1] != newest:
            raise RepositoryError(
                f"the newest version of the model {name!r} is {versions[-1]}, that of {contract.QUESTION_ANSWERING!r} "
                f"{newest}, and {repository} must have both of one build: build the repository again"
            )
        # An encoder that is only there for the build before the newest: that build alone has its bucket.
        if name not in of_build and is_of_build(name) and newest not in versions:
            del folders[name]
    return tuple(map(_model_of, folders.values()))


def _check_manifest(manifest: Manifest) -> None:
    """Refuse what cannot be served here, before Triton finds out in words of its own."""
    try:
        check_not_rehearsed(manifest)
    except SpanqaError as error:
        raise RepositoryError(str(error)) from error
    try:
        if manifest.engine and manifest.engine.is_torch:
            check_machine(manifest)
    except SpanqaError as error:
        raise InstallationError(str(error)) from error


def models_of(repository: Path) -> tuple[ModelFolder, ...]:
    """Read every model of a repository.

    Args:
        repository: The repository's folder.

    Returns:
        The models, sorted by name.

    Raises:
        RepositoryError: If the folder is missing, holds no `question_answering`, or one of its models cannot be right.
        InstallationError: If a model needs a package that is not installed, or a GPU that is not there.
    """
    if not repository.is_dir():
        raise RepositoryError(f"there is no folder {repository}: name a model repository, or make one: `spanqa build`")
    try:
        models = _models_in(repository)
        has_networks = any(repository.glob("*/*/*.onnx"))
    except SettingsError as error:
        raise RepositoryError(str(error)) from error
    except (OSError, ValueError) as error:
        raise RepositoryError(
            f"{repository} cannot be read: {error}: try again if a build was just being put there, or else build it "
            "again"
        ) from error
    names = {model.name for model in models}
    for model in models:
        absent = sorted(set(model.steps) - names)
        if absent:
            raise RepositoryError(f"the ensemble {model.name!r} in {repository} needs {', '.join(absent)}: not there")
    if has_networks:
        check_packages({"onnxruntime": "onnxruntime"})
    return models
