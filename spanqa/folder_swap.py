"""Replacing a folder as a whole: an interruption leaves the old one or the new one, never a mixture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path


def replace_folder(folder: Path, write: Callable[[Path], None], *, own_files: Collection[str]) -> None:
    """Write a folder beside the target and swap it in.

    Args:
        folder: The target: absolute; missing or a folder. One process at a time may replace it.
        write: Fills the empty folder it is given; what it raises is passed on.
        own_files: Names that `write` is responsible for. Anything else in the target is kept.

    Raises:
        OSError: The disk is full, or something is not permitted; the target is as it was.
    """
    new, old = _beside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    new.mkdir()
    try:
        write(new)
        if folder.exists():
            _copy_others(folder, new, own_files)
        for path in (*new.iterdir(), new):
            _flush(path)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def readable_folder(folder: Path) -> Path:
    """The folder itself, or its predecessor where a replacement was interrupted between its two renames."""
    _, old = _beside(folder)
    return old if old.exists() and not folder.exists() else folder


def _beside(folder: Path) -> tuple[Path, Path]:
    """The new folder until it is swapped in, and the old one until it is deleted."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _clear_leftovers(folder: Path) -> None:
    new, old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        if leftover.exists():
            shutil.rmtree(leftover)


def _copy_others(source: Path, target: Path, own_files: Collection[str]) -> None:
    for path in source.iterdir():
        if path.name in own_files:
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=True)
        else:
            shutil.copy2(path, target / path.name, follow_symlinks=False)


def _flush(path: Path) -> None:
    """Force a file's content or a folder's entries to the disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
