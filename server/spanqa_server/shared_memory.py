"""The regions that Triton's Python backend keeps in /dev/shm: named after their server, and swept when it is gone."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (POSIX shared memory lives there)
PREFIX = "spanqa_"
LOCK = "lock"
RUN_FOLDER_PREFIX = "spanqa-"


class RegionPrefix:
    """A prefix of region names that belongs to one server for as long as its processes live.

    A locked file marks it. Triton and its Python processes inherit the lock, so it falls when the last of them is
    gone, however they ended and in whatever container they ran; process ids would not tell.

    Args:
        run_folder: The server's folder of temporary files, which whoever finds the lock fallen removes too.
        folder: Where the regions lie.
    """

    def __init__(self, run_folder: Path, folder: Path = SHARED_MEMORY) -> None:
        self._folder = folder
        for number in itertools.count():
            self.text = f"{PREFIX}{os.getpid()}_{number}_"
            self._lock = folder / f"{self.text}{LOCK}"
            with contextlib.suppress(FileExistsError):
                self.descriptor = os.open(self._lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                break
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        os.write(self.descriptor, os.fsencode(run_folder))

    def remove_regions(self) -> None:
        """Remove every region of a Triton that has ended; the prefix stays ours."""
        for region in self._folder.glob(f"{self.text}*"):
            if region != self._lock:
                region.unlink(missing_ok=True)

    def release(self) -> None:
        """Remove every region and the mark itself."""
        self.remove_regions()
        self._lock.unlink(missing_ok=True)
        os.close(self.descriptor)


def _dead_marks(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the marks of servers that are gone, each locked by us until it has been dealt with."""
    for mark in folder.glob(f"{PREFIX}*_{LOCK}"):
        try:
            descriptor = os.open(mark, os.O_RDWR)
        except OSError:
            continue  # another user's, or just removed
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A server that is just starting has made its mark but not yet written it.
            if os.fstat(descriptor).st_size and os.fstat(descriptor).st_nlink:
                yield mark, descriptor
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def sweep(folder: Path = SHARED_MEMORY) -> int:
    """Remove what servers left that were killed.

    Args:
        folder: Where the regions lie.

    Returns:
        How many files went.
    """
    n_removed = 0
    for mark, descriptor in _dead_marks(folder):
        run_folder = Path(os.fsdecode(os.read(descriptor, 4096)))
        temporary = Path(tempfile.gettempdir())
        if run_folder.parent == temporary and run_folder.name.startswith(RUN_FOLDER_PREFIX):
            shutil.rmtree(run_folder, ignore_errors=True)
        for region in folder.glob(f"{mark.name.removesuffix(LOCK)}*"):
            region.unlink(missing_ok=True)
            n_removed += 1
    return n_removed
