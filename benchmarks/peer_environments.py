"""A Python environment for each peer of `peers.py`, made once from a pinned file of requirements, and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_IS_MADE = "is-made"
"""The file that is written last: an environment without it is left over from an interrupted run."""


class PeerError(Exception):
    """A peer cannot take part, in one sentence."""


def default_folder() -> Path:
    """Give the place of environments in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "spanqa" / "peers"


def environment_python(requirements: Path, folder: Path, *, quiet: bool) -> Path:
    """Make the environment of a file of requirements, or find the one that was made before.

    The same file and the same Python have the same environment; pip runs with the user's own settings.

    Args:
        requirements: Every package with its exact version.
        folder: Where environments are kept.
        quiet: Whether to say nothing on stderr.

    Returns:
        The environment's Python.

    Raises:
        PeerError: It cannot be made; nothing of it is left.
    """
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = folder / f"{requirements.stem}-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / _IS_MADE).exists():
                if not quiet:
                    print(f"installing {requirements.name} into {place} (once, minutes)", file=sys.stderr)
                _make(place, requirements)
    except OSError as error:
        raise PeerError(f"no environment in {folder}: {error.strerror}; give another --environments") from error
    return place / "bin" / "python"


def _make(place: Path, requirements: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    python = place / "bin" / "python"
    try:
        _run("python -m venv", sys.executable, "-m", "venv", place)
        _run("pip", python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", requirements)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    (place / _IS_MADE).touch()


def _run(what: str, *command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
        raise PeerError(f"{what} failed: {errors[-1]}")
