"""Replacing a folder as a whole: an interruption leaves the old one or the new one, never a mixture."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Of Linux's fcntl.h and fs.h: paths are relative to the current folder; two names change places in one step."""


def replace_folder(folder: Path, write: Callable[[Path], None], *, own_files: Collection[str]) -> None:
    """Write a folder beside the target and swap it in, while no other process does so.

    Args:
        folder: The target: absolute; missing or a folder.
        write: Fills the empty folder it is given; what it raises is passed on.
        own_files: Names that `write` is responsible for. Anything else in the target is kept.

    Raises:
        OSError: The disk is full, or something is not permitted; the target is as it was.
    """
    with sole_writer(folder):
        swap_folder(folder, write, own_files=own_files)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process replaces a folder, keep others waiting, and mend what an interrupted one left.

    Args:
        folder: The folder: absolute; it need not exist.

    Raises:
        OSError: Its parent cannot be made, or what was left not be mended.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)  # the parent: the folder itself changes, and a file would stay
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        _clear_leftovers(folder)
        yield
    finally:
        os.close(descriptor)


def swap_folder(folder: Path, write: Callable[[Path], None], *, own_files: Collection[str]) -> None:
    """Do what `replace_folder` does, for a caller that is the sole writer.

    Raises:
        OSError: As there.
    """
    new, old = _beside(folder)
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
    if not (folder.exists() and _exchange(new, folder)):
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    _flush(folder.parent)
    for replaced in (new, old):
        shutil.rmtree(replaced, ignore_errors=True)


def readable_folder(folder: Path) -> Path:
    """The folder itself, or its predecessor where a replacement was interrupted between its two renames."""
    _, old = _beside(folder)
    return old if old.exists() and not folder.exists() else folder


def _beside(folder: Path) -> tuple[Path, Path]:
    """The new folder until it is swapped in, and the old one until it is deleted."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the C library or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2 and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


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
