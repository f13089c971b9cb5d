"""The files of a collection: what is found where, under which name, and what its content comes to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from spanqa_retrieval.document import printable
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.settings import is_index

Kind = Literal["text", "markdown", "html", "pdf", "json lines", "parquet", "json"]
KINDS: Mapping[str, Kind] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".jsonl": "json lines",
    ".parquet": "parquet",
    ".json": "json",
}
"""What is read, by suffix."""
PACKED: tuple[Kind, ...] = ("json lines", "parquet", "json")
"""What may be gzipped, with `.gz` behind its suffix."""
READER_VERSIONS: Mapping[Kind, int] = dict.fromkeys(KINDS.values(), 1)
"""Raised where a reader makes other documents of the same file: then all files of its kind are read again."""
_ALLOWED = f"{', '.join(KINDS)}; {', '.join(suffix for suffix, kind in KINDS.items() if kind in PACKED)} also with .gz"
_CHUNK_BYTES = 1 << 20

OnSkip = Callable[[str], None]
"""Is told in one line what is left out, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that is to be read.

    Args:
        name: Its name in the index. That of a file in a folder begins with the folder's own name, wherever that lies:
            `docs/guide/intro.md`; that of a file that was named itself is its own.
        path: Where it is.
        kind: As what it is read.
    """

    name: str
    path: Path
    kind: Kind


def find_sources(
    named: Iterable[Path], on_skip: OnSkip, on_unread: Callable[[str], None] = lambda _: None
) -> list[Source]:
    """Find the files that are read among those that are named, and in folders that are.

    Hidden files and folders are passed over, and so are indexes. A link is followed only where it leads to a place in
    the same folder. A file that is found on several ways is taken once, under the longest of its names.

    Args:
        named: Files and folders.
        on_skip: Is told what in a folder is not read, files of other types by their type.
        on_unread: Is told the names of folders that cannot be looked into.

    Returns:
        The files, by name.

    Raises:
        SourceError: What is named is not there or cannot be read, or two files have the same name.
    """
    found: dict[Path, Source] = {}
    for path in dict.fromkeys(named):
        for real, source in (_Folder(path, on_skip, on_unread).walk() if os.path.isdir(path) else _file(path)).items():
            known = found.get(real, source)
            found[real] = max(known, source, key=lambda one: (len(one.name), one.name))
    by_name: dict[str, Source] = {}
    for source in found.values():
        other = by_name.setdefault(source.name, source)
        if other is not source:
            raise SourceError(
                f"{printable(source.path)}: its name in the index, {printable(source.name)}, is also that of "
                f"{printable(other.path)}: rename one, or name a folder that holds both"
            )
    return sorted(by_name.values(), key=lambda source: source.name)


def fingerprint(path: Path, kind: Kind) -> str:
    """Give what a file's content and its way of being read come to.

    Raises:
        SourceError: It cannot be read.
    """
    digest = hashlib.sha256(f"{kind} {READER_VERSIONS[kind]}\n".encode())
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise SourceError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _kind_of(name: str) -> Kind | None:
    lowered = PurePosixPath(name.lower())
    if lowered.suffix != ".gz":
        return KINDS.get(lowered.suffix)
    kind = KINDS.get(lowered.with_suffix("").suffix)
    return kind if kind in PACKED else None


def _type_of(name: str) -> str:
    """Name the type of a file that is not read."""
    suffixes = PurePosixPath(name.lower()).suffixes
    return printable("".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])) or "without a suffix"


def _file(path: Path) -> dict[Path, Source]:
    """Give a file that is named itself, by where it really is."""
    if not os.path.exists(path):
        raise SourceError(f"{printable(path)}: no such file or folder: name what is to be indexed")
    if not path.is_file():
        raise SourceError(f"{printable(path)}: neither a file nor a folder: name one of these")
    kind = _kind_of(path.name)
    if kind is None:
        raise SourceError(f"{printable(path)}: files {_of_type(path.name)} are not read: give {_ALLOWED}")
    if not _is_utf8(path.name):
        raise SourceError(f"{printable(path)}: its name is not UTF-8: rename it")
    return {path.resolve(): Source(name=path.name, path=path, kind=kind)}


def _of_type(name: str) -> str:
    kind = _type_of(name)
    return kind if kind.startswith("without") else f"of type {kind}"


def _is_utf8(name: str) -> bool:
    # Bytes that are none come as halves of surrogate pairs, which no index holds.
    return not any("\ud800" <= char <= "\udfff" for char in name)


class _Folder:
    """Walks a folder.

    Args:
        path: The folder.
        on_skip: Is told what is left out.
        on_unread: Is told the names of folders that cannot be looked into.
    """

    def __init__(self, path: Path, on_skip: OnSkip, on_unread: Callable[[str], None]) -> None:
        self._path, self._on_skip, self._on_unread = path, on_skip, on_unread
        self._root = path.resolve()
        self._found: dict[Path, Source] = {}
        self._entered: set[Path] = set()
        self._links: list[tuple[str, Path]] = []
        self._unread: dict[str, list[str]] = {}

    def walk(self) -> dict[Path, Source]:
        """Give all files below it that are read, by where they really are."""
        own_name = self._root.name if self._path.name in ("", "..") else self._path.name
        self._enter(own_name, self._path, self._root)
        # A file that is there itself goes before a link to it; what links lead to may hold more of them.
        while self._links:
            links, self._links = sorted(self._links), []
            for name, path in links:
                self._follow(name, path)
        for names in dict(sorted(self._unread.items())).values():
            first = printable(min(names))
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            self._on_skip(f"{first}{more}: files {_of_type(first)} are not read")
        return self._found

    def _enter(self, name: str, path: Path, real: Path) -> None:
        """Take in a folder and those below it, no link followed."""
        pending = [(name, path, real)]
        while pending:
            name, path, real = pending.pop()
            if real in self._entered:
                continue
            self._entered.add(real)
            if is_index(real):
                self._on_skip(f"{printable(path)}: an index, not documents")
                continue
            try:
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            except OSError as error:
                self._on_skip(f"{printable(path)}: the folder cannot be read: {error.strerror}")
                self._on_unread(name)
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                at = (f"{name}/{entry.name}".lstrip("/"), path / entry.name, real / entry.name)
                if entry.is_symlink():
                    self._links.append(at[:2])
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(at)
                else:
                    self._add(*at, is_file=entry.is_file(follow_symlinks=False))

    def _follow(self, name: str, path: Path) -> None:
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):  # the latter is how Python before 3.13 tells a loop
            self._on_skip(f"{printable(path)}: a link that leads nowhere")
            return
        if not real.is_relative_to(self._root):
            self._on_skip(f"{printable(path)}: a link out of {printable(self._path)}, which is not followed")
        elif real.is_dir():
            self._enter(name, real, real)
        elif real not in self._found:
            self._add(name, real, real, is_file=real.is_file())

    def _add(self, name: str, path: Path, real: Path, *, is_file: bool) -> None:
        kind = _kind_of(name)
        if not is_file:
            self._on_skip(f"{printable(path)}: no regular file")
        elif kind is None:
            self._unread.setdefault(_type_of(name), []).append(name)
        elif not _is_utf8(name):
            self._on_skip(f"{printable(path)}: its name is not UTF-8: rename it")
        else:
            self._found[real] = Source(name=name, path=path, kind=kind)
