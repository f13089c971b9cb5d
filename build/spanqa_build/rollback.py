"""Going back to the version before, with what serving has installed: whoever needs it has no time to install more."""

from __future__ import annotations

from pathlib import Path

from spanqa import contract
from spanqa.errors import SpanqaError
from spanqa.manifest import MANIFEST_FILE
from spanqa.startup import versions_in
from spanqa_build.check import checked_version
from spanqa_build.errors import RepositoryError
from spanqa_build.versions import add_version
from spanqa_build.warmup import WARMUP_FOLDER


def rollback_repository(folder: str | Path) -> int:
    """Make the version before the newest the newest again, as a version of its own: servers only ever go forward.

    Args:
        folder: The repository.

    Returns:
        The version written.

    Raises:
        RepositoryError: If there is no version before, or the folder cannot be written.
    """
    folder = Path(folder).resolve()
    versions = versions_in(folder / contract.QUESTION_ANSWERING)
    if len(versions) < 2:
        raise RepositoryError(f"{folder}: holds versions {versions}: going back needs two; build another first")
    try:
        manifest = checked_version(folder, versions[-2])  # else its damage would be sealed anew
    except RepositoryError:
        raise
    except SpanqaError as error:
        raise RepositoryError(str(error)) from error
    files: dict[str, Path | bytes] = {
        f"{model}/{path.name}": path
        for model in manifest.models
        for path in (folder / model / str(versions[-2])).glob("[!._]*")
        if path.name != MANIFEST_FILE
    }
    warmup = {
        f"{model}/{WARMUP_FOLDER}/{path.name}": path.read_bytes()
        for model in manifest.packing.encoders
        for path in (folder / model / WARMUP_FOLDER).glob("*")
    }
    # A server may still be with either: with the newest, or, where that one cannot be loaded, with the one before.
    return add_version(folder, manifest, files, warmup, n_kept=2)
