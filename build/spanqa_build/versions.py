"""The versions of a model repository on disk: the next one is added beside the last, older ones go."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from google.protobuf import text_format

from spanqa import contract
from spanqa.errors import SpanqaError
from spanqa.folder_swap import sole_writer, swap_folder
from spanqa.limits import CONFIG_FILE, Limits, config_artefact
from spanqa.manifest import MANIFEST_FILE, Artefact, Manifest, load_manifest, manifest_json
from spanqa.startup import artefact_path, sha256_of, versions_in
from spanqa_build.configs import config_texts, limits_from_text
from spanqa_build.errors import RepositoryError
from spanqa_build.gpu_config_check import check_gpu_configs
from spanqa_build.warmup import WARMUP_FOLDER

OUR_MODELS = re.compile("|".join((*contract.MODELS, rf"{contract.ENCODER}_\d+")))


def add_version(
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    warmup: Mapping[str, bytes],
    *,
    n_kept: int = 1,
) -> int:
    """Write a version beside the last ones and swap the repository in; older versions are left out.

    Args:
        folder: The repository: absolute; missing, empty or one of ours.
        manifest: The version's settings; what its files are is filled in here.
        files: What its version folders hold, by MODEL/FILE: content, or a file to take it from.
        warmup: Content of its warm-up files, by their path in the repository.
        n_kept: How many older versions are kept.

    Returns:
        The version written.

    Raises:
        RepositoryError: If the folder cannot be written; it is as it was.
    """
    try:
        with sole_writer(folder):
            return _swap_version_in(folder, manifest, files, warmup, n_kept)
    except OSError as error:
        raise RepositoryError(f"{folder}: cannot be written: {error}: the old repository is as it was") from error


def _swap_version_in(
    folder: Path, manifest: Manifest, files: Mapping[str, Path | bytes], warmup: Mapping[str, bytes], n_kept: int
) -> int:
    older = versions_in(folder / contract.QUESTION_ANSWERING)[-n_kept:]
    version = max(older, default=0) + 1

    limits = _kept_limits(folder)

    def write(new: Path) -> None:
        for model in manifest.models:
            (new / model / str(version)).mkdir(parents=True)
        (new / contract.ENSEMBLE / str(version) / ".gitkeep").touch()  # Triton wants the folder, git keeps no empty one
        _put_files(new, version, files, linkable=folder)
        for name, content in warmup.items():
            _put(new / name, content)
        seal_version(new, version, manifest, limits)
        for kept in reversed(older):
            _keep_version(folder, new, kept)
        for model in own:
            _keep_others(folder / model, new / model)

    own = {path.name for path in folder.iterdir() if OUR_MODELS.fullmatch(path.name)} if folder.exists() else set()
    swap_folder(folder, write, own_files=own)
    return version


def seal_version(folder: Path, version: int, manifest: Manifest, limits: Limits | None = None) -> None:
    """Write the configurations and the manifest of a version whose files are in place.

    It is also what a source tree's repository needs after a change of its model.py files.

    Args:
        folder: The repository.
        version: The version; its configurations become the repository's.
        manifest: Its settings; what its files are is filled in here.
        limits: What its entries take on; the defaults where none are given.

    Raises:
        RepositoryError: If Triton could not serve the configurations on a GPU.
    """
    for model, text in config_texts(manifest, limits, version=version).items():
        _put(folder / model / CONFIG_FILE, text.encode())
    check_gpu_configs(folder, manifest)
    artefacts, configs = {}, {}
    for model in manifest.models:
        for path in sorted((folder / model / str(version)).glob("[!._]*")):
            if path.name != MANIFEST_FILE:
                artefacts[f"{model}/{path.name}"] = _artefact(path)
        for path in (folder / model / CONFIG_FILE, *sorted((folder / model / WARMUP_FOLDER).glob("*"))):
            configs[str(path.relative_to(folder))] = (
                config_artefact(path) if path.name == CONFIG_FILE else _artefact(path)
            )
    sealed = replace(manifest, artefacts=artefacts, configs=configs, max_context_bytes=None)
    path = artefact_path(folder, f"{contract.QUESTION_ANSWERING}/{MANIFEST_FILE}", version)
    _put(path, manifest_json(sealed).encode())


def _kept_limits(folder: Path) -> Limits | None:
    """The limits as people set them beside the newest version: they are the server's, not the build's."""
    entry = folder / contract.QUESTION_ANSWERING
    older = versions_in(entry)
    if not older:
        return None
    try:
        manifest = load_manifest(entry / str(older[-1]))
        return limits_from_text((entry / CONFIG_FILE).read_text(encoding="utf-8"), manifest)
    except (OSError, text_format.ParseError, SpanqaError) as error:
        # A damaged version, which a build mends; but whoever had set limits has to set them again.
        said = " ".join(str(error).split())
        print(
            f"spanqa: warning: {entry / CONFIG_FILE}: its limits cannot be kept ({said}): they are set anew",
            file=sys.stderr,
        )
        return None


def _put_files(new: Path, version: int, files: Mapping[str, Path | bytes], *, linkable: Path) -> None:
    """Place the files of a version; the content that several share, or that the old repository holds, once."""
    placed: dict[Path, Path] = {}
    for name, source in files.items():
        path = artefact_path(new, name, version)
        if isinstance(source, bytes):
            _put(path, source)
        elif source in placed or linkable in source.parents:
            _link(placed.get(source, source), path)
        else:
            shutil.copyfile(source, path)
            _flush(path)
            placed[source] = path


def _keep_version(old: Path, new: Path, version: int) -> None:
    """Link one version of the old repository into the new one, with the configurations of models that are gone."""
    for model in old.iterdir() if old.exists() else ():
        kept = model / str(version)
        if not OUR_MODELS.fullmatch(model.name) or not kept.is_dir():
            continue
        is_gone = not (new / model.name).exists()
        shutil.copytree(kept, new / model.name / kept.name, copy_function=_link)
        if is_gone:  # else the configuration is the new version's
            for path in (model / CONFIG_FILE, *(model / WARMUP_FOLDER).glob("*")):
                _put(new / path.relative_to(old), path.read_bytes())


def _keep_others(old: Path, new: Path) -> None:
    """Copy what no build wrote: a note, somebody's data."""
    for path in old.iterdir():
        if path.name in (CONFIG_FILE, WARMUP_FOLDER) or path.name.isdigit():
            continue
        new.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    _flush(path)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file that nobody changes in place; a copy where the file system knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _artefact(path: Path) -> Artefact:
    return Artefact(sha256=sha256_of(path), size_bytes=path.stat().st_size)
