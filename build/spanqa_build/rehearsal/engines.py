"""Engines as TensorRT for RTX builds them, in a process of their own that needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import IO, Any

from spanqa_build.errors import EngineError, GpuError
from spanqa_build.rehearsal.layers import Layer
from spanqa_build.rehearsal.worker import BINDINGS
from spanqa_build.targets import Target

PACKAGES = {
    "tensorrt-rtx-cu12-bindings": BINDINGS,
    "tensorrt-rtx-cu12-libs": "tensorrt_rtx_libs",
    "polygraphy": "polygraphy",
}
"""What the extra installs, and the module that each brings."""
_START = (
    "import sys; sys.path[:] = [folder for folder in sys.path if folder];"
    " from spanqa_build.rehearsal.worker import main; sys.exit(main())"
)
"""Starts the process without the current folder among those that modules are imported from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A network as TensorRT's parser read it.

    Args:
        layers: Its layers.
        seconds: What reading it took.
        peak_bytes: Most memory of the process until then.
    """

    layers: tuple[Layer, ...]
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedEngine:
    """An engine that TensorRT for RTX built.

    Args:
        length: Tokens of every window.
        size_bytes: Of the engine.
        seconds: What reading the network and building took.
        peak_bytes: Most memory of the process until then.
    """

    length: int
    size_bytes: int
    seconds: float
    peak_bytes: int


def rtx_version() -> str:
    """Give the version of TensorRT for RTX.

    Raises:
        GpuError: It is not installed.
    """
    missing = [package for package, module in PACKAGES.items() if util.find_spec(module) is None]
    if missing:
        raise GpuError(
            f"a rehearsal needs TensorRT for RTX, and {' and '.join(missing)} are not installed: pip install"
            " 'spanqa[rehearsal]'"
        )
    return metadata.version(next(iter(PACKAGES)))


def rehearsed_engines(onnx: Path, target: Target, outputs: Mapping[int, Path]) -> Iterator[Parsed | RehearsedEngine]:
    """Have TensorRT for RTX read a network and build its engines.

    Args:
        onnx: The network, as for `build_engine`.
        target: Gives the profile and the limits.
        outputs: The file of each engine, by its length in tokens; a timing cache may stay beside it.

    Yields:
        The network as it was read, then each engine as it is built.

    Raises:
        EngineError: TensorRT refuses the network or an engine, or its process dies.
    """
    engines = [(length, str(output)) for length, output in outputs.items()]
    request = {"onnx": str(onnx), "target": target.name, "engines": engines, "parent": os.getpid()}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as told, _worker(request, told) as process:
        for line in process.stdout or ():
            said = _parsed(line)
            if "error" in said:
                raise EngineError(said["error"])
            yield _answer(said)
        if process.wait():
            told.seek(0)
            last = (told.read().strip().splitlines() or ["without a word"])[-1]
            raise EngineError(
                f"{onnx}: the process of TensorRT for RTX ended with {process.returncode}: {last}: free memory, or"
                " export the network again"
            )


def worker_environment() -> dict[str, str]:
    """Give the environment in which Polygraphy takes TensorRT for RTX."""
    return {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}


@contextmanager
def _worker(request: Mapping[str, Any], told: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """Start the process and give it its request; it ends with the context, whatever it is at."""
    command = [sys.executable, "-c", _START]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True, env=worker_environment()
    )
    with process:
        try:
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # it has died: its end is told
                    process.stdin.write(json.dumps(request))
                    process.stdin.close()
            yield process
        finally:
            process.kill()


def _parsed(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise EngineError(f"the process of TensorRT for RTX said {line.strip()[:80]!r}: install spanqa again")
    return said


def _answer(said: Mapping[str, Any]) -> Parsed | RehearsedEngine:
    if "layers" not in said:
        return RehearsedEngine(**said)
    layers = (
        Layer(kind=layer["kind"], node=layer["node"], reads=tuple(layer["reads"]), gives=tuple(layer["gives"]))
        for layer in said["layers"]
    )
    return Parsed(layers=tuple(layers), seconds=said["seconds"], peak_bytes=said["peak_bytes"])
