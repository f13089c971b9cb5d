"""A packed file: an uncompressed ZIP, written as a whole or not at all, and read without unpacking it to disk."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from spanqa_training.errors import CheckpointError

Create = Callable[[str], AbstractContextManager[IO[bytes]]]
"""Opens the named file of a model for writing."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP can hold: the same content gives the same bytes."""
_PERMISSIONS = 0o644 << 16
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_END_RECORD_BYTES = 22
_HARMLESS_FLAGS = 0x808
"""A name in UTF-8, and sizes that follow the content, as other programs may write them."""
_LEGACY_TORCH = b"\x80\x02\x8a\x0a"
"""How pickles begin that torch.save wrote before it took to ZIP: protocol 2 and a long integer."""
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_GZIP = b"\x1f\x8b"
_IMPORT = "take it over with spanqa import"


def write_archive(target: Path, write: Callable[[Create], None]) -> None:
    """Write a packed file beside the target and move it in.

    Args:
        target: The target: absolute; missing or a file. One process at a time may replace it.
        write: Is given the function that opens members, one at a time; what it raises is passed on.

    Raises:
        OSError: The disk is full, or something is not permitted; the target is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.new")
    try:
        with open(beside, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                write(partial(_create, archive))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def open_archive(path: Path, members: Collection[str]) -> Iterator[zipfile.Path]:
    """Open a packed file for reading.

    Args:
        path: The file.
        members: Names that it may hold.

    Yields:
        Its top level, to be used as a folder's path.

    Raises:
        CheckpointError: It is something else, damaged, or holds anything that we do not write; also while it is read.
    """
    head = _head(path)
    if not head.startswith(_LOCAL_HEADER):
        raise CheckpointError(f"{path}: {_what(head)}")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds for damaged files
        raise _damaged(path, error) from error
    with archive:
        _check_members(archive, path, members)
        try:
            yield zipfile.Path(archive)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise _damaged(path, error) from error


def first_member(path: Path) -> str:
    """Name of the first member of a ZIP, even of one that is cut off; empty where there is none."""
    head = _head(path)
    if not head.startswith(_LOCAL_HEADER):
        return ""
    n_name = int.from_bytes(head[26:28], "little")
    return head[_LOCAL_HEADER_BYTES : _LOCAL_HEADER_BYTES + n_name].decode("utf-8", "replace")


def _create(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = _PERMISSIONS
    # The size is not known beforehand, and may pass 2 GiB.
    return archive.open(info, "w", force_zip64=True)


def _check_members(archive: zipfile.ZipFile, path: Path, members: Collection[str]) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path}: is a torch file: {_IMPORT}")
    if len(infos) != _announced_members(archive, path):
        # zipfile passes over entries that a damaged length hides.
        raise CheckpointError(f"{path}: is damaged or cut off (its table of contents has gaps): copy it again")
    problem = _problem(infos, members, path.stat().st_size)
    if problem:
        raise CheckpointError(f"{path}: {problem}: give a file that spanqa wrote")
    try:
        for info in infos:
            archive.open(info).close()
    except Exception as error:  # zipfile raises many kinds for damaged members
        raise _damaged(path, error) from error


def _announced_members(archive: zipfile.ZipFile, path: Path) -> int:
    """How many members the end of the file says that there are."""
    with path.open("rb") as file:
        file.seek(-(_END_RECORD_BYTES + len(archive.comment)), os.SEEK_END)
        return int.from_bytes(file.read(_END_RECORD_BYTES)[10:12], "little")


def _problem(infos: Sequence[zipfile.ZipInfo], members: Collection[str], size_bytes: int) -> str | None:
    """What a file of ours never holds, or None."""
    for index, info in enumerate(infos):
        if info.filename not in members:
            return f"holds {info.filename!r}, which spanqa does not write"
        if any(info.filename == other.filename for other in infos[:index]):
            return f"holds {info.filename} twice"
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ~_HARMLESS_FLAGS:
            return f"{info.filename} is compressed or has a ZIP password"
    # Stored members take their own sizes: what is claimed beyond the file's would be read several times.
    if sum(info.file_size for info in infos) > size_bytes:
        return "claims more content than it has"
    return None


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: is damaged or cut off ({error}): copy it again")


def _what(head: bytes) -> str:
    """What a file is that is no ZIP."""
    if head.startswith(_LEGACY_TORCH):
        return f"is a torch file: {_IMPORT}"
    if head.startswith(_GZIP) or head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return f"is a tar archive, as .nemo files are: {_IMPORT}"
    return f"is no file that spanqa wrote: give a checkpoint; other weights: {_IMPORT}"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
