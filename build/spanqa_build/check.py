"""`spanqa build --check`: is a repository on disk still what was built, file by file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spanqa import contract
from spanqa.errors import SettingsError, SpanqaError
from spanqa.limits import CONFIG_FILE
from spanqa.manifest import MANIFEST_FILE, Artefact, Manifest, load_served_tokenizer
from spanqa.startup import check_bfloat16, check_files, check_machine, gpus_here, versions_in
from spanqa_build.configs import limits_from_text
from spanqa_build.errors import RepositoryError
from spanqa_build.gpu_config_check import check_gpu_configs


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A sound repository.

    Args:
        versions: Its versions, oldest first; the last is served.
        manifest: The manifest of the last.
        lines: What was checked, one line for each file of each version.
    """

    versions: tuple[int, ...]
    manifest: Manifest
    lines: tuple[str, ...]


def check_repository(folder: str | Path) -> Checked:
    """Read every file of every version and hold it against its manifest, and the engines against this machine's GPU.

    The newest version's configurations are held against what Triton does with them on a GPU, as it serves no other.

    Raises:
        RepositoryError: The first thing that is wrong.
    """
    folder = Path(folder)
    lines: list[str] = []
    try:
        versions = versions_in(folder / contract.QUESTION_ANSWERING)
        if not versions:
            raise RepositoryError(
                f"{folder}: holds no version of {contract.QUESTION_ANSWERING}: name a model repository"
            )
        for version in versions:
            manifest = checked_version(folder, version)
            lines += _lines(manifest, version, is_newest=version == versions[-1])
        _check_newest(folder, manifest, versions[-1])
        check_gpu_configs(folder, manifest)
        lines += _lines_of_others(folder, versions[-1], manifest)
        lines.append(_machine_line(manifest))
    except RepositoryError:
        raise
    except OSError as error:
        raise RepositoryError(
            f"{error.filename or folder}: cannot be read: {error.strerror}: let this user read all of {folder}"
        ) from error
    except SpanqaError as error:
        raise RepositoryError(str(error)) from error
    return Checked(versions=tuple(versions), manifest=manifest, lines=tuple(lines))


def checked_version(folder: Path, version: int) -> Manifest:
    """Read every file of one version and hold it against its manifest.

    Raises:
        SpanqaError: The first thing that is wrong.
    """
    manifest, _ = load_served_tokenizer(folder / contract.QUESTION_ANSWERING / str(version))
    for model in manifest.models:
        if not (folder / model / str(version)).is_dir():
            raise RepositoryError(f"{folder / model / str(version)}: missing: build the repository again")
    check_files(folder, version, manifest, whole=manifest.artefacts)
    return manifest


def _check_newest(folder: Path, manifest: Manifest, newest: int) -> None:
    """Check that each model's newest version, which is what Triton loads, is of the newest build, and its limits."""
    for model in manifest.models:
        found = versions_in(folder / model)[-1]
        if found != newest:
            raise RepositoryError(
                f"{folder / model / str(found)}: is of no build, whose newest version is {newest}: delete that folder"
            )
    for model in (contract.PREPROCESS, contract.QUESTION_ANSWERING):
        path = folder / model / CONFIG_FILE
        if f"{model}/{CONFIG_FILE}" in manifest.configs:  # what the hashes leave out
            try:
                limits_from_text(path.read_text(encoding="utf-8"), manifest)
            except SettingsError as error:
                raise RepositoryError(f"{path.parent}: {error}") from error


def _lines(manifest: Manifest, version: int, *, is_newest: bool) -> list[str]:
    if not manifest.artefacts:
        return [f"{version}  its manifest, of an older format, names the tokenizer alone: that is sound"]
    files = manifest.artefacts | (manifest.configs if is_newest else {})
    return [_line(version, name, artefact) for name, artefact in files.items()]


def _lines_of_others(folder: Path, newest: int, manifest: Manifest) -> list[str]:
    """Tell of what would be served, or could be run, and is of no build: nobody has held it against anything."""
    models = [path.parent for path in sorted(folder.glob(f"*/{CONFIG_FILE}"))]
    # An encoder may be there for the build before alone.
    ours = (*contract.MODELS, *(one.name for one in models if one.name.startswith(f"{contract.ENCODER}_")))
    others = [one for one in models if one.name not in ours]
    known = {MANIFEST_FILE, *(name.rpartition("/")[2] for name in manifest.artefacts)}
    for model in manifest.models if manifest.artefacts else ():
        files = sorted((folder / model / str(newest)).glob("[!._]*"))
        others += [path for path in files if path.name not in known]
    return [f"not of this build, and not checked: {path.relative_to(folder)}" for path in others]


def _line(version: int, name: str, artefact: Artefact) -> str:
    return f"{version}  {name:<44} {artefact.size_bytes:>13,} bytes  {artefact.sha256[:12]}"


def _machine_line(manifest: Manifest) -> str:
    engine = manifest.engine
    if engine is not None and engine.rehearsed:
        return f"target {manifest.target}: rehearsed with {engine.rehearsed}, not to be served"
    if engine is not None and engine.is_torch:
        check_bfloat16(engine)
        of_gpu = "any GPU of compute capability 8.0 or later" if engine.dtype == "bfloat16" else "any GPU"
        where = of_gpu if engine.device == "cuda" else "a CPU"
        return f"target {manifest.target}: torch in {engine.dtype} on {where}"
    if engine is None or engine.gpu is None:
        return f"target {manifest.target}: bound to no GPU"
    built_for = f"target {manifest.target}: for {engine.gpu.name} ({engine.gpu.compute_capability})"
    if not gpus_here():
        return f"{built_for}; this machine shows no GPU to hold that against"
    check_machine(manifest)
    return f"{built_for}, as this machine has"
