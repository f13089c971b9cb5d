"""The key of encrypted weights, and the three forms in which a user gives it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from spanqa_training.errors import EncryptionError

VARIABLE_PREFIX = "env:"
FILE_PREFIX = "@"
_MOST_KEY_BYTES = 4096
"""Longest first line of a key file: a longer one is no key, but a model given by mistake."""
_OTHERS_MAY_READ = 0o044


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Key:
    """What weights are encrypted with. It can be pickled, to reach a child process through a pipe, but not printed.

    Args:
        secret: The bytes that encryption keys are derived from, at least one.

    Raises:
        EncryptionError: There are none.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secret:
            raise EncryptionError("the key is empty: give env:NAME, @FILE or the key itself")


def key_from_argument(text: str, *, warn: Callable[[str], None]) -> Key:
    """Read a key.

    Args:
        text: `env:NAME` for the variable NAME, `@FILE` for the first line of FILE, anything else for itself.
        warn: Told, in one sentence, how others may come to read it.

    Raises:
        EncryptionError: The variable or the file is missing, or holds no key.
    """
    if text.startswith(VARIABLE_PREFIX):
        return _key_from_variable(text.removeprefix(VARIABLE_PREFIX))
    if text.startswith(FILE_PREFIX):
        # A shell leaves the tilde of @~/key alone.
        return _key_from_file(os.path.expanduser(text.removeprefix(FILE_PREFIX)), warn)
    key = Key(secret=os.fsencode(text))
    warn("the key is given as it is, where the process list or a spec shows it: give env:NAME or @FILE instead")
    return key


def _key_from_variable(name: str) -> Key:
    value = os.environ.get(name)
    if not value:
        state = "not set" if value is None else "empty"
        raise EncryptionError(f"{VARIABLE_PREFIX}{name}: the variable is {state}: export it with the key in it")
    return Key(secret=os.fsencode(value))


def _key_from_file(path: str, warn: Callable[[str], None]) -> Key:
    place = f"{FILE_PREFIX}{path}"
    try:
        with open(path, "rb") as file:
            others_may_read = os.fstat(file.fileno()).st_mode & _OTHERS_MAY_READ
            line = file.readline(_MOST_KEY_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise EncryptionError(f"{place}: the key file cannot be read ({reason}): give one with the key") from error
    if len(line) > _MOST_KEY_BYTES:
        raise EncryptionError(
            f"{place}: the first line is longer than {_MOST_KEY_BYTES:,} bytes: give a file that begins with the key"
        )
    try:
        secret = line.decode("utf-8-sig").removesuffix("\n").removesuffix("\r").encode()
    except UnicodeDecodeError:
        # The original error would print the bytes.
        raise EncryptionError(f"{place}: the first line is not UTF-8: give a file that begins with the key") from None
    if not secret:
        raise EncryptionError(f"{place}: the first line is empty: write the key into it")
    if others_may_read:
        warn(f"the key file {path} can be read by other users: chmod 600 {path}")
    return Key(secret=secret)
