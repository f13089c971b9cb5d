"""A model repository as Triton will read it: its models, and what is wrong with it before Triton says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanqa import contract
from spanqa.startup import versions_in
from spanqa_server.environment import check_packages
from spanqa_server.errors import RepositoryError

REPOSITORY_NAME = "model_repository"
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
        version: Its newest version, which Triton serves.
        file_bytes: Size of everything in that version's folder.
        steps: The models that it names, where it is an ensemble.
    """

    name: str
    n_processes: int
    version: int
    file_bytes: int
    steps: tuple[str, ...]


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


def config_of(folder: Path) -> Any:
    """Read a model's configuration.

    Raises:
        RepositoryError: If it is none, or another model's.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = folder / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise RepositoryError(f"{path} is not a Triton model configuration: {error}") from error
    if config.name and config.name != folder.name:
        raise RepositoryError(f"{path} calls its model {config.name!r}: it must be {folder.name!r}, as its folder is")
    return config


def _check_code(folder: Path) -> None:
    codes = sorted(folder.glob("[0-9]*/model.py"))
    if not codes:
        raise RepositoryError(f"{folder} has no 1/model.py: its configuration asks for the Python backend")
    for code in codes:
        try:
            compile(code.read_bytes(), str(code), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise RepositoryError(f"the model {folder.name!r} is not valid Python: {code}{where}: {error}") from error


def _model_of(folder: Path) -> ModelFolder:
    config = config_of(folder)
    steps = tuple(step.model_name for step in config.ensemble_scheduling.step)
    is_python = config.backend == "python"
    if is_python:
        _check_code(folder)
    elif not steps:
        raise RepositoryError(
            f"the model {folder.name!r} asks for the backend {config.backend or config.platform!r}: the embedded "
            "Triton has the Python backend alone; serve this repository with a Triton image that has that backend"
        )
    version = max(versions_in(folder), default=1)
    sizes = (path.stat().st_size for path in (folder / str(version)).rglob("*") if path.is_file())
    n_processes = sum(max(1, group.count) for group in config.instance_group) or 1
    return ModelFolder(
        name=folder.name,
        n_processes=n_processes if is_python else 0,
        version=version,
        file_bytes=sum(sizes),
        steps=steps,
    )


def _is_left_over(folder: Path) -> bool:
    """Say whether an encoder is only there for the build before the newest: that build alone has its bucket."""
    if not folder.name.startswith(f"{contract.ENCODER}_"):
        return False
    newest = versions_in(folder.with_name(contract.QUESTION_ANSWERING))[-1:]
    return bool(newest) and newest[0] not in versions_in(folder)


def models_of(repository: Path) -> tuple[ModelFolder, ...]:
    """Read every model of a repository.

    Args:
        repository: The repository's folder.

    Returns:
        The models, sorted by name.

    Raises:
        RepositoryError: If the folder is missing, holds no `question_answering`, or one of its models cannot be right.
        InstallationError: If a model needs a package that is not installed.
    """
    if not repository.is_dir():
        raise RepositoryError(f"there is no folder {repository}: name a model repository, or make one: `spanqa build`")
    folders = sorted(path.parent for path in repository.glob("*/config.pbtxt"))
    folders = [folder for folder in folders if not _is_left_over(folder)]
    names = {folder.name for folder in folders}
    if contract.QUESTION_ANSWERING not in names:
        holds = f"it holds {', '.join(sorted(names))}" if names else "it holds no model"
        raise RepositoryError(
            f"{repository} has no model {contract.QUESTION_ANSWERING!r}, {holds}: name a repository that "
            "`spanqa build` made"
        )
    models = tuple(map(_model_of, folders))
    for model in models:
        absent = sorted(set(model.steps) - names)
        if absent:
            raise RepositoryError(f"the ensemble {model.name!r} in {repository} needs {', '.join(absent)}: not there")
    if any(repository.glob("*/*/*.onnx")):
        check_packages({"onnxruntime": "onnxruntime"})
    return models
