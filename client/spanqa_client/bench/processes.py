"""The memory of a server on this machine: its processes are found by who listens on its port."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"
SHARED = "/dev/shm"  # noqa: S108 - looked for, not written to
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the processes of a server hold.

    Args:
        resident_bytes: Resident memory of all; pages that several share count for each.
        shared_bytes: Files in /dev/shm that they have mapped, each once.
        n_processes: The listener and everything that it started.
    """

    resident_bytes: int
    shared_bytes: int
    n_processes: int


def is_local(host: str) -> bool:
    """Whether a name or address is this machine's: only its own can be bound."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.bind(address)
            return True
        except OSError:
            continue
    return False


def listener(port: int) -> int | None:
    """Give the process that listens on a TCP port of this machine; None where there is none, or it cannot be seen.

    Args:
        port: The port.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in _processes() if sockets else ():
        if any(target in sockets for target in _open_files(process)):
            return int(process.name)
    return None


def _open_files(process: Path) -> Iterator[str]:
    """What a process has open; nothing of one that has ended meanwhile, or is somebody else's."""
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        return
    for descriptor in descriptors:
        # One that is closed between the two looks hides no other; the list of our own holds the one that it is read by.
        with suppress(OSError):
            yield os.readlink(process / "fd" / descriptor)


def memory(root: int) -> Memory | None:
    """Look at a process and all its descendants.

    Args:
        root: The process's number.

    Returns:
        None where it has ended.
    """
    resident, shared, n_processes = 0, {}, 0
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in _with_descendants(root):
        try:
            resident += int((_PROC / str(pid) / "statm").read_text().split()[1]) * page
            shared.update(_shared_files(pid))
        except (OSError, IndexError):
            if pid == root:
                return None
            continue
        n_processes += 1
    return Memory(resident_bytes=resident, shared_bytes=sum(shared.values()), n_processes=n_processes)


def _listening_inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _processes() -> Iterator[Path]:
    return (entry for entry in _PROC.iterdir() if entry.name.isdigit())


def _with_descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in _processes():
        try:
            # The name before the last parenthesis may hold blanks and parentheses.
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(process.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _shared_files(pid: int) -> dict[str, int]:
    """Bytes that each mapped file of /dev/shm takes up, by inode; deleted ones are still there while mapped."""
    found = {}
    for line in (_PROC / str(pid) / "maps").read_text(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(f"{SHARED}/"):
            try:
                found[fields[4]] = (_PROC / str(pid) / "map_files" / fields[0]).stat().st_blocks * _BLOCK_BYTES
            except OSError:
                found[fields[4]] = _blocks_of(fields[5])
    return found


def _blocks_of(path: str) -> int:
    try:
        return os.stat(path).st_blocks * _BLOCK_BYTES
    except OSError:
        return 0
