"""The folder of a batch: whose it is, what was asked of it, its failures and its summary."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spanqa.errors import DataError, InputError
from spanqa.files import write_atomically
from spanqa.startup import sha256_of
from spanqa_client.batch.parts import UNFINISHED, writing, written_whole
from spanqa_client.batch.rows import Settled

RUN_FILE = "run.json"
FAILURES_FILE = "failures.jsonl"
SUMMARY_FILE = "summary.json"
FORMAT = "spanqa-batch"
FORMAT_VERSION = 1
_LOCK_FILE = ".lock"

Fingerprint = Mapping[str, Mapping[str, Any]]
"""What must be the same in a run that goes on: `inputs` by name, `model` and `options`."""


def input_fingerprint(files: list[Path]) -> dict[str, Any]:
    """Say what the inputs hold, in their order, whatever they are called.

    Args:
        files: The files.

    Raises:
        DataError: One is not there, or is no file that can be read more than once.
    """
    found = {}
    for number, file in enumerate(files):
        if not file.is_file():
            problem = "is no regular file, and a batch reads its input twice" if file.exists() else "no such file"
            raise DataError(f"{file}: {problem}: name files in SQuAD JSON, JSON Lines or Parquet")
        try:
            found[str(number)] = {"size_bytes": file.stat().st_size, "sha256": sha256_of(file)}
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    return found


@contextmanager
def open_folder(folder: Path, fingerprint: Fingerprint, *, resume: bool) -> Iterator[None]:
    """Have a folder to oneself, new or with what an interrupted run has left.

    Args:
        folder: The folder.
        fingerprint: What is asked, of what, of whom.
        resume: Whether to go on with what is there.

    Raises:
        InputError: It is not empty, or was begun with something else, or another batch writes into it.
        DataError: It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_FILE).open("w")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to: {error.strerror}: give another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: another batch is writing into it: wait for it, or give another folder"
            ) from error
        is_empty = all(path.name.startswith(".") for path in folder.iterdir())
        if not is_empty and not resume:
            raise InputError(f"{folder}: not empty: give a new folder, or go on with what is there by --resume")
        if is_empty:
            document = {"format": FORMAT, "format_version": FORMAT_VERSION, **fingerprint}
            with written_whole(folder / RUN_FILE) as file:
                file.write(json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
        else:
            _check_same(folder, fingerprint)
        for unfinished in folder.glob(f".*{UNFINISHED}"):
            unfinished.unlink()
        yield


@contextmanager
def open_failures(folder: Path) -> Iterator[Callable[[Settled], None]]:
    """Write down what failed; the file takes the place of the last run's at the end.

    Args:
        folder: The folder.
    """
    path = folder / FAILURES_FILE
    with written_whole(path) as file:

        def write(row: Settled) -> None:
            line = json.dumps({"row": row.number, "id": row.id, "reason": row.reason}, ensure_ascii=False)
            with writing(path):
                file.write(line.encode(errors="backslashreplace") + b"\n")

        yield write


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary.

    Args:
        folder: The folder.
        summary: Its JSON values.
    """
    write_atomically(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")


def _check_same(folder: Path, fingerprint: Fingerprint) -> None:
    path = folder / RUN_FILE
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        if (begun["format"], begun["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError("of another version")
        parts = {name: dict(begun[name]) for name in fingerprint}
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no folder of a batch ({RUN_FILE} is missing): give a new folder") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): give a new folder") from error
    for name, now in fingerprint.items():
        if parts[name] != json.loads(json.dumps(now)):
            raise InputError(
                f"{folder}: begun with {_difference(name, parts[name], now)}: go on with the same, or give a new folder"
            )


def _difference(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name == "inputs":
        return "another input" if len(then) == len(now) else f"{len(then)} inputs, not {len(now)}"
    changed = next(key for key in (*now, *then) if then.get(key) != now.get(key))
    if name == "options":
        return f"{changed} {then.get(changed)}, not {now.get(changed)}"
    return f"another model ({changed} {_short(then.get(changed))}, not {_short(now.get(changed))})"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12]
