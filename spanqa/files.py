"""Writing result files so that a reader never meets half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spanqa.errors import DataError


def write_atomically(path: str | Path, text: str, *, make_folder: bool = False) -> None:
    """Write a text file in UTF-8 through a temporary file beside it.

    Args:
        path: The file.
        text: Its content.
        make_folder: Whether to make its folder where there is none.

    Raises:
        DataError: The place cannot be written to.
    """
    with open_atomically(path, make_folder=make_folder) as file:
        file.write(text)


@contextmanager
def open_atomically(path: str | Path, *, make_folder: bool = False) -> Iterator[IO[str]]:
    """Open a text file in UTF-8 to write; it takes its place when it is closed, and none after an error.

    Args:
        path: The file.
        make_folder: Whether to make its folder where there is none.

    Raises:
        DataError: The place cannot be written to.
    """
    path = Path(path)
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                yield file
            # mkstemp makes files for the owner only; what users get follows their umask.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def check_apart(read: str | Path | None, written: Mapping[str, str | None]) -> None:
    """Refuse to write a file over the one that is read, or over another that is written.

    Args:
        read: The file that is read, if any is.
        written: Those that are written, by the option that names each; None where it names none.

    Raises:
        DataError: Two are one file.
    """
    names = {} if read is None else {os.path.realpath(read): "what is read"}
    for option, path in written.items():
        if path is None:
            continue
        other = names.setdefault(os.path.realpath(path), option)
        if other != option:
            raise DataError(f"{option} {path}: is also {other}: give another file")
