"""Authenticated encryption of a file: AES-256-GCM over its chunks, so that no part can be altered, moved or cut off.

The chunks are chained as in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015,
https://eprint.iacr.org/2015/189): a nonce is the file's prefix, the chunk's number and whether it is the last. Each
file has keys of its own, derived (HKDF, RFC 5869) from a random number and from what scrypt (RFC 7914) makes of the
user's key, so that a process which writes many files pays for scrypt once.

Layout: the header (`_FIELDS`, its MAC by the key, its SHA-256), then chunks, each preceded by its size as `<I`, whose
highest bit marks the last one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import IO, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import EncryptionError

MAGIC = b"\x89SPANQA\x1a"
VERSION = 1
CHUNK_BYTES = 4 << 20
SCRYPT_LOG2_N, SCRYPT_R, SCRYPT_P = 17, 8, 1
"""128 MiB and some 0.4 s for each guess of a key: OWASP's password storage cheat sheet."""

_FIELDS = struct.Struct("<8sBBBBI16s16s")
"""Magic, version, log2 n, r and p of scrypt, bytes of plain text in a chunk, salt, the file's random number."""
_HEADER_BYTES = _FIELDS.size + 2 * hashlib.sha256().digest_size
_CHUNK_SIZE = struct.Struct("<I")
_LAST = 1 << 31
_TAG_BYTES = 16
_MOST_SCRYPT_BYTES = 512 << 20
_MOST_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The head of a file, before its MAC and checksum."""

    log2_n: int
    r: int
    p: int
    chunk_bytes: int
    salt: bytes
    file_id: bytes

    def packed(self) -> bytes:
        numbers = (VERSION, self.log2_n, self.r, self.p, self.chunk_bytes)
        return _FIELDS.pack(MAGIC, *numbers, self.salt, self.file_id)

    def is_plausible(self) -> bool:
        """Whether reading the file takes no more memory and time than any file of ours would."""
        # scrypt takes 128 * n * r bytes (RFC 7914), p times after one another.
        scrypt_bytes = 128 * (1 << self.log2_n) * self.r * self.p
        return (
            self.log2_n >= 1
            and self.r >= 8
            and self.p >= 1
            and scrypt_bytes <= _MOST_SCRYPT_BYTES
            and 1 <= self.chunk_bytes <= _MOST_CHUNK_BYTES
        )

    def keys(self, key: Key) -> _Keys:
        """What the file is encrypted with."""
        secret = _derived(key.secret, self.salt, self.log2_n, self.r, self.p)
        made = HKDF(algorithm=SHA256(), length=71, salt=self.file_id, info=b"spanqa sealed file").derive(secret)
        return _Keys(cipher=AESGCM(made[:32]), mac=made[32:64], nonce_prefix=made[64:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """The cipher of a file, the key of its header's MAC, and the prefix of its nonces."""

    cipher: AESGCM
    mac: bytes
    nonce_prefix: bytes

    def nonce(self, number: int, last: bool) -> bytes:
        return self.nonce_prefix + number.to_bytes(4, "big") + bytes([last])


@lru_cache(maxsize=4)
def _derived(secret: bytes, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=64, n=1 << log2_n, r=r, p=p).derive(secret)


@lru_cache(maxsize=4)
def _salt_of_process(_secret: bytes) -> bytes:
    """The salt of all files that this process writes with a key."""
    return os.urandom(16)


class _Sealer:
    """Cuts what is written to it into chunks and writes them encrypted."""

    def __init__(self, file: IO[bytes], key: Key, chunk_bytes: int) -> None:
        header = _Header(
            log2_n=SCRYPT_LOG2_N,
            r=SCRYPT_R,
            p=SCRYPT_P,
            chunk_bytes=chunk_bytes,
            salt=_salt_of_process(key.secret),
            file_id=os.urandom(16),
        )
        self._file, self._header, self._keys = file, header, header.keys(key)
        self._head = _with_checks(header.packed(), self._keys.mac)
        self._chunk = bytearray()
        self._n_chunks = 0
        file.write(self._head)

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        while view:
            # A full chunk waits for what follows it: it may be the last.
            if len(self._chunk) == self._header.chunk_bytes:
                self._write_chunk(last=False)
            room = self._header.chunk_bytes - len(self._chunk)
            self._chunk += view[:room]
            view = view[room:]
        return len(data)

    def flush(self) -> None:
        """Do nothing: torch asks every file for it, and a chunk is written when it is full."""

    def finish(self) -> None:
        self._write_chunk(last=True)

    def _write_chunk(self, *, last: bool) -> None:
        nonce = self._keys.nonce(self._n_chunks, last)
        self._file.write(_CHUNK_SIZE.pack(len(self._chunk) + last * _LAST))
        self._file.write(self._keys.cipher.encrypt(nonce, self._chunk, self._head))
        self._chunk.clear()
        self._n_chunks += 1


@contextmanager
def sealing(file: IO[bytes], key: Key | None, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[IO[bytes]]:
    """Encrypt what is written to a file; without a key it is written as it is.

    Args:
        file: Open for writing. What was written before an error reads as cut off.
        key: The key; each file gets keys of its own from it.
        chunk_bytes: Bytes of plain text in a chunk.

    Yields:
        What to write to: it has `write` and `flush`.
    """
    if key is None:
        yield file
        return
    sealer = _Sealer(file, key, chunk_bytes)
    yield cast(IO[bytes], sealer)
    sealer.finish()


def is_sealed(head: bytes) -> bool:
    """Whether a file that begins so, with at least its first 8 bytes, was written by `sealing`."""
    return head.startswith(MAGIC)


def read_sealed(file: IO[bytes], key: Key | None, where: object) -> bytes:
    """Decrypt a file; takes twice its size in memory.

    Args:
        file: Open for reading, at its beginning.
        key: The key that it was encrypted with; None is an error that asks for it.
        where: The file's name in errors.

    Raises:
        EncryptionError: The key is missing or another, or the file was damaged, altered, cut off or appended to.
    """
    if key is None:
        raise EncryptionError(f"{where}: is encrypted: give its key with -k")
    return b"".join(_chunks(file, key, where))


def _chunks(file: IO[bytes], key: Key, where: object) -> Iterator[bytes]:
    head = file.read(_HEADER_BYTES)
    header = _checked_header(head, where)
    keys = header.keys(key)
    if not hmac.compare_digest(head, _with_checks(header.packed(), keys.mac)):
        raise EncryptionError(f"{where}: was encrypted with another key: give that one with -k")
    position = 0
    for number in count():
        last, size = divmod(int.from_bytes(_read(file, _CHUNK_SIZE.size, position, where), "little"), _LAST)
        if size > header.chunk_bytes:
            raise _altered(where, position)
        sealed = _read(file, size + _TAG_BYTES, position, where)
        try:
            yield keys.cipher.decrypt(keys.nonce(number, bool(last)), sealed, head)
        except InvalidTag as error:
            raise _altered(where, position) from error
        position += size
        if last:
            break
    if file.read(1):
        raise EncryptionError(f"{where}: something was appended to the encrypted file: restore it from a copy")


def _read(file: IO[bytes], size: int, position: int, where: object) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EncryptionError(f"{where}: is cut off after {position:,} bytes of content: restore it from a copy")
    return data


def _altered(where: object, position: int) -> EncryptionError:
    return EncryptionError(f"{where}: was altered behind {position:,} bytes of content: restore it from a copy")


def _checked_header(head: bytes, where: object) -> _Header:
    if not is_sealed(head):
        raise EncryptionError(f"{where}: is no file that spanqa encrypted: restore it from a copy")
    if len(head) < _HEADER_BYTES:
        raise EncryptionError(f"{where}: is cut off within its header: restore it from a copy")
    body, checksum = head[:-32], head[-32:]
    _, version, log2_n, r, p, chunk_bytes, salt, file_id = _FIELDS.unpack_from(head)
    if hashlib.sha256(body).digest() != checksum:
        raise EncryptionError(f"{where}: the header of the encrypted file is damaged: restore it from a copy")
    if version != VERSION:
        raise EncryptionError(
            f"{where}: is encrypted as of version {version} and this spanqa reads {VERSION}: use the one that wrote it"
        )
    header = _Header(log2_n=log2_n, r=r, p=p, chunk_bytes=chunk_bytes, salt=salt, file_id=file_id)
    if not header.is_plausible():
        raise EncryptionError(
            f"{where}: has settings in its header that spanqa never writes: do not trust it, restore a copy"
        )
    return header


def _with_checks(packed: bytes, mac_key: bytes) -> bytes:
    """A header with its MAC, which tells a wrong key, and its checksum, which tells damage."""
    body = packed + hmac.digest(mac_key, packed, "sha256")
    return body + hashlib.sha256(body).digest()
