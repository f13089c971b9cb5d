"""The state that an interrupted training run resumes from: all that decides what comes next."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spanqa_training.checkpoints.encryption import MAGIC, is_sealed, read_sealed, sealing
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import EncryptionError, RunError
from spanqa_training.spec.files import is_same_spec

STATE_FILE = "state.pt"
_LOCK_FILE = ".lock"
_OR_DELETE = "or delete it to start again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run after some batches.

    Args:
        spec: The resolved spec as YAML; a run resumes only under the same.
        origin: SHA-256 of what it started from, by name ("training data", "base model"); it resumes only on the same.
        world_size: Processes of the run.
        epoch: Current epoch, from 0.
        batch: Batches of it that are done.
        loss_sum: Sum of the losses of this epoch's batches.
        log: What each validation gave; JSON values.
        model: The model's tensors.
        optimizer: The optimiser's state.
        scaler: The loss scaler's state; empty without one.
        rng: Of each process: state of torch's CPU generator, then of its GPU's.
    """

    spec: str
    origin: dict[str, str]
    world_size: int
    epoch: int
    batch: int
    loss_sum: float
    log: list[dict[str, Any]]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    rng: list[list[torch.Tensor]]


def rng_state() -> list[torch.Tensor]:
    """State of every random generator that training draws from in this process: the CPU's, and its own GPU's."""
    return [torch.get_rng_state(), *((torch.cuda.get_rng_state(),) if torch.cuda.is_available() else ())]


def restore_rng(state: list[torch.Tensor]) -> None:
    """Set this process's generators back to a saved state."""
    torch.set_rng_state(state[0])
    if len(state) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[1])


def save_state(state: RunState, folder: Path, key: Key | None = None) -> None:
    """Write a state atomically: an interruption leaves the old one or the new one.

    Args:
        state: The state.
        folder: Where it goes.
        key: Encrypts it; the weights in it then never lie on the disk as they are.

    Raises:
        RunError: It cannot be written.
    """
    path, temporary = folder / STATE_FILE, folder / f".{STATE_FILE}.new"
    fields = {name: getattr(state, name) for name in RunState.__slots__}
    # As text: a number of numpy's among the values would make the state one that torch refuses to load.
    fields["log"] = json.dumps(state.log)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            with sealing(file, key) as content:
                torch.save(fields, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        # At a full disk torch raises an error of its own over the system's.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise RunError(f"{path}: cannot be written: {cause}: free some space, or give another -r") from error


def load_state(
    folder: Path, spec: str, *, origin: Mapping[str, str] = {}, world_size: int = 1, key: Key | None = None
) -> RunState | None:
    """Read the state of an interrupted run; None where there is none.

    Args:
        folder: Where it lies.
        spec: The resolved spec of the run that would go on.
        origin: What it starts from, as in `RunState`.
        world_size: Its processes.
        key: Decrypts the state; not used for one that is not encrypted.

    Raises:
        RunError: It is damaged, or of a run with another spec, origin or number of processes.
        EncryptionError: The key is missing or another, or the encrypted file was altered.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    state = _read(path, key)
    if not is_same_spec(state.spec, spec):
        raise RunError(f"{path}: is of a run with another spec: use another results folder, {_OR_DELETE}")
    for name, sha256 in origin.items():
        if state.origin.get(name) != sha256:
            raise RunError(f"{path}: is of a run with another {name}: use another results folder, {_OR_DELETE}")
    if state.world_size != world_size:
        raise RunError(
            f"{path}: is of a run with {state.world_size} processes, not {world_size}: give -g {state.world_size}, "
            f"{_OR_DELETE}"
        )
    return state


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Keep other runs from the folder of the state; the lock of one that dies is free.

    Raises:
        RunError: Another run is at work there, or the folder cannot be made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK_FILE).open("w")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error}: give another -r") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder}: another run is at work there: wait for its end, or give another -r") from error
        except OSError as error:
            raise RunError(f"{folder}: cannot be locked: {error}: give another -r, on a local disk") from error
        yield


def _read(path: Path, key: Key | None) -> RunState:
    try:
        with open(path, "rb") as file:
            sealed = is_sealed(file.read(len(MAGIC)))
            file.seek(0)
            content = io.BytesIO(read_sealed(file, key, path)) if sealed else file
            fields = torch.load(content, map_location="cpu", weights_only=True)
        return RunState(**{**fields, "log": json.loads(fields["log"])})
    except EncryptionError as error:
        raise EncryptionError(f"{error}, {_OR_DELETE}") from error
    except Exception as error:  # torch raises many kinds for damaged files
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(f"{path}: cannot be read ({reason}): delete it to start again") from error
