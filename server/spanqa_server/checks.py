"""What can go wrong at start, found before Triton starts: it would hang on some of it, and explain little."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spanqa import contract
from spanqa.cli import unsupported_reason
from spanqa.cores import usable_cores
from spanqa.cpu_network import copies_for
from spanqa_server.environment import Triton, find_triton
from spanqa_server.errors import InstallationError, MemoryShortageError, PortError
from spanqa_server.repository import ModelFolder, models_of
from spanqa_server.settings import ServerSettings
from spanqa_server.shared_memory import SHARED_MEMORY

MB = 1_000_000
TRITON_BYTES = 150 * MB
"""Triton itself with a margin: 40 MB measured with two models."""
PROCESS_BYTES = 60 * MB
"""One Python process: 37 MB measured with numpy alone, more with a tokenizer."""
TORCH_BYTES = 250 * MB
"""What torch adds to one: 225 MB measured without a GPU."""
ARTEFACT_FACTOR = 3
"""A network takes its file's size, once more while it is optimised at loading, and its activations."""
SHARED_BYTES = 2 * MB
"""One Python process's region in /dev/shm: Triton begins with 1 MiB and grows it with the requests."""
SHARED_MARGIN_BYTES = 8 * MB
"""Room for requests: a context of the largest size passes through several regions."""

_MEMORY_FILES = ((".", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Folder, limit and use of control groups: version 2, and the controller `memory` of version 1; cgroups(7)."""


def free_port(host: str) -> int:
    """Return a port of the host on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def with_free_ports(settings: ServerSettings) -> ServerSettings:
    """Return the settings with every port chosen, having checked that each can be listened on.

    Raises:
        PortError: If a port is taken, not allowed, or the host is not an address of this machine.
    """
    chosen: dict[str, int] = {}
    for name, port in settings.ports().items():
        try:
            with socket.socket() as probe:
                # As Triton binds: a port whose last connection has just ended counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((settings.host_of(name), port))
        except OSError as error:
            option = f"--{name.lower()}-port"
            reason = error.strerror or str(error)
            raise PortError(
                f"cannot listen on {settings.host_of(name)}:{port} for {name} ({reason}): end what uses it, "
                f"or choose another port with {option}"
            ) from error
    taken = {port for port in settings.ports().values() if port}
    for name, port in settings.ports().items():
        while not port or port in chosen.values():
            candidate = free_port(settings.host_of(name))
            port = candidate if candidate not in taken else 0
        chosen[name] = port
    return replace(settings, grpc_port=chosen["gRPC"], http_port=chosen["HTTP"], metrics_port=chosen["metrics"])


def _cgroup_free_bytes(folder: Path) -> int | None:
    """Return what a control group leaves its processes, or None where it sets no limit."""
    for place, *names in _MEMORY_FILES:
        limit, used, statistics = (_text(folder / place / name) for name in (*names, "memory.stat"))
        if limit.isdigit() and used.isdigit():  # "max" is no limit
            # Version 1 counts the groups below under "total_".
            cached = re.findall(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
            return int(limit) - int(used) + max(map(int, cached), default=0)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def free_memory_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much memory new processes can have: the machine's, or the container's where that is less."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text("ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limited = _cgroup_free_bytes(cgroup)
    return free if limited is None else min(free, limited)


def free_shared_bytes(folder: Path = SHARED_MEMORY) -> int:
    """Return how much the file system of the shared memory still holds.

    Raises:
        MemoryShortageError: If there is no such file system.
    """
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise MemoryShortageError(f"there is no {folder} ({error}): Triton's Python backend needs it") from error
    return status.f_bavail * status.f_frsize


def check_memory(
    models: Sequence[ModelFolder], *, free_bytes: int | None = None, shared_bytes: int | None = None
) -> None:
    """Check that memory and shared memory suffice to start.

    Args:
        models: The models that will be loaded.
        free_bytes: Free memory; by default as this machine has.
        shared_bytes: Free shared memory; by default as this machine has.

    Raises:
        MemoryShortageError: If either is short. Without shared memory Triton dies of SIGBUS, without a message.
    """
    n_processes = sum(model.n_processes for model in models)
    shared = free_shared_bytes() if shared_bytes is None else shared_bytes
    needed = SHARED_MARGIN_BYTES + SHARED_BYTES * n_processes
    if shared < needed:
        raise MemoryShortageError(
            f"{SHARED_MEMORY} has {shared / MB:.0f} MB free and {n_processes} Python processes need "
            f"{needed / MB:.0f} MB: remove stale files there, or start the container with --shm-size=256m"
        )
    free = free_memory_bytes() if free_bytes is None else free_bytes
    artefacts = sum(model.file_bytes for model in models)
    n_with_torch = sum(model.n_processes for model in models if model.has_torch)
    processes = PROCESS_BYTES * n_processes + TORCH_BYTES * n_with_torch
    needed = TRITON_BYTES + processes + ARTEFACT_FACTOR * artefacts + _copies_bytes(models)
    if free < needed:
        raise MemoryShortageError(
            f"{free / MB:.0f} MB of memory are free and these models need about {needed / MB:.0f} MB: "
            "end other programs, or give the container more memory"
        )


def _copies_bytes(models: Sequence[ModelFolder]) -> int:
    """What a CPU's network takes for cores of their own, in the encoder's process and in the main entry's."""
    networks = (model for model in models if model.name == contract.ENCODER and model.n_processes)
    sizes = (model.file_bytes for model in networks if not model.has_torch)
    return sum(2 * copies_for(size, usable_cores()) * size for size in sizes)


def check_start(settings: ServerSettings) -> tuple[ServerSettings, Triton, tuple[ModelFolder, ...]]:
    """Make every check that can be made before Triton starts.

    Returns:
        The settings with every port chosen, the installed Triton, and the models.

    Raises:
        ServerError: One sentence: what was found, what is needed and what to do.
    """
    reason = unsupported_reason()
    if reason:
        raise InstallationError(reason)
    if settings.tls:
        settings.tls.own_trust()
    triton = find_triton(settings.libpython_folders)
    models = models_of(settings.repository)
    check_memory(models)
    return with_free_ports(settings), triton, models
