"""Finding perf_analyzer, and the libraries that it needs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sysconfig
from pathlib import Path

from spanqa_client.errors import BenchError

# What a bare machine lacks; nvidia-pytriton carries them under names with a hash.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


def perf_analyzer_path() -> str:
    """Find the program: the one of this environment, else the one on PATH.

    It is tritonclient 2.50's: the package perf-analyzer is empty, tritonclient 2.55 to 2.60 bring one that needs glibc
    2.38 where we support 2.35, and later ones bring none.

    Raises:
        BenchError: There is none.
    """
    beside = Path(sysconfig.get_path("scripts"), "perf_analyzer")
    found = str(beside) if beside.is_file() else shutil.which("perf_analyzer")
    if not found:
        raise BenchError(
            "perf_analyzer is not installed: pip install 'spanqa[client]' brings it with tritonclient 2.50 on Linux; "
            "--rates and --soak do without it"
        )
    return found


def environment_with_libraries(folder: Path) -> dict[str, str]:
    """Give the environment in which perf_analyzer finds its libraries.

    Args:
        folder: An empty folder of ours, which gets links to those that nvidia-pytriton carries; the machine's own come
            after them.
    """
    try:
        site = Path(str(importlib.metadata.distribution("nvidia-pytriton").locate_file("nvidia_pytriton.libs")))
    except importlib.metadata.PackageNotFoundError:
        site = folder  # nothing to link; the machine may have them
    folder.mkdir(exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        for library in sorted(site.glob(pattern))[:1]:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(library)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    return {**os.environ, "LD_LIBRARY_PATH": path}


def missing_library(output: str) -> str | None:
    """Give the way out where the loader says that a library or a newer C library is missing; None otherwise.

    Args:
        output: What the program printed.
    """
    for name in _LIBRARIES:
        if name in output and "cannot open shared object" in output:
            return f"perf_analyzer needs {name}: pip install 'spanqa[serve]' brings it, or install it on the machine"
    if "GLIBC" in output and "not found" in output:
        return (
            "perf_analyzer was built for a newer C library than this machine's: the one of tritonclient 2.50 needs "
            "glibc 2.34"
        )
    return None
