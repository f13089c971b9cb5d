"""The commands of a plan: what to run, in order, from a clone of the project, and what its containers see."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spanqa.manifest import TORCH
from spanqa_build.targets import Target

_VARIABLE, _FILE = "env:", "@"
"""How -k names a variable and a file."""
SERVE = ("spanqa", "serve", "--host", "0.0.0.0")  # noqa: S104 (inside a container)
"""How a repository for a GPU is served: supervised and locked, by the image's own Triton."""
_KEY_VARIABLE = "MODEL_KEY"
"""Where a key that was given as itself is to be put: a plan is printed, and a key must not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user gave, for the commands.

    Args:
        model: Where the checkpoint is.
        output: Where the model repository goes.
        data: The dataset to check on; None for the bundled one.
        key: The key as it was given (-k); None without one.
        precision: Of a CPU's network; None for the default.
        engine: What computes it on a CPU; None for whatever is best.
        prefer: What is best, on a CPU; None for the default.
    """

    model: str = "CHECKPOINT"
    output: str = "REPOSITORY"
    data: str | None = None
    key: str | None = None
    precision: str | None = None
    engine: str | None = None
    prefer: str | None = None


def cpu_commands(target: Target, wanted: Wanted) -> tuple[str, ...]:
    """Give the commands that build and serve without a container."""
    data = ["--data", wanted.data] if wanted.data else []
    chosen = {"--engine": wanted.engine, "--precision": wanted.precision, "--prefer": wanted.prefer}
    choice = [part for name, value in chosen.items() if value for part in (name, value)]
    options = ["-m", wanted.model, "--target", target.name, *choice, *_key_options(wanted.key), *data]
    return (
        shlex.join(["spanqa", "build", *options, "-o", wanted.output]),
        shlex.join(["spanqa", "serve", "--repository", wanted.output]),
    )


def torch_commands(target: Target, wanted: Wanted, *, on_gpu: bool) -> tuple[str, ...]:
    """Give the commands that build and serve with torch, on the GPU or to try it without one: no container."""
    install = ["make setup", ". .venv/bin/activate"]
    if on_gpu and target.torch_index:
        # Named in full: the torch of PyPI, which has the same version but for this, would do for pip.
        torch = f"{target.torch}+{target.torch_index}"
        install.append(f"{shlex.join(['pip', 'install', torch])}  # of PyTorch's own index, {target.torch_index}")
    data = ["--data", wanted.data] if wanted.data else []
    engine = ["--engine", TORCH, *([] if on_gpu else ["--device", "cpu"])]
    options = ["-m", wanted.model, "--target", target.name, *engine, *_key_options(wanted.key), *data]
    return (
        *install,
        shlex.join(["spanqa", "build", *options, "-o", wanted.output]),
        shlex.join(["spanqa", "serve", "--repository", wanted.output]),
    )


def gpu_commands(target: Target, wanted: Wanted, engine: str) -> tuple[str, ...]:
    """Give the commands that make the image, build in it and serve from it.

    The current folder is mounted as it is; what lies elsewhere, below /mnt.
    """
    image = f"spanqa-{target.name}"
    mounts: list[str] = []
    model = _mounted_input(wanted.model, "model", mounts)
    data = ["--data", _mounted_input(wanted.data, "data", mounts)] if wanted.data else []
    key = _key_options(wanted.key)
    if key and key[1].startswith(_FILE):
        key = ["-k", _FILE + _mounted_input(key[1].removeprefix(_FILE), "key", mounts)]
    elif key:
        mounts += ["-e", key[1].removeprefix(_VARIABLE)]
    output_mounts: list[str] = []
    output = _mounted_output(wanted.output, output_mounts)
    options = ["-m", model, "--target", target.name, "--engine", engine, *key, *data, "-o", output]
    arguments = {
        "IMAGE": target.container,
        "TENSORRT_BINDINGS": target.tensorrt_bindings,
        "ONNXRUNTIME": target.onnxruntime,
    }
    pairs = [text for name, value in arguments.items() for text in ("--build-arg", f"{name}={value}")]
    return (
        shlex.join(["docker", "build", "-f", "build/Dockerfile", *pairs, "-t", image, "."]),
        _docker([*mounts, *output_mounts], image, ["spanqa", "build", *options]),
        _docker(["-p", "8000-8002:8000-8002", *output_mounts], image, [*SERVE, "--repository", output]),
    )


def _docker(options: Sequence[str], image: str, command: Sequence[str]) -> str:
    # As the user who runs it: the image's own may not write into the user's folder, nor leave files to them.
    given = f"{shlex.join(options)} " if options else ""
    user = '--user "$(id -u):$(id -g)" -v "$PWD:/work" -w /work --shm-size 1g'
    return f"docker run --rm --gpus all {given}{user} {image} {shlex.join(command)}"


def _key_options(key: str | None) -> list[str]:
    if key is None:
        return []
    named = key.startswith((_VARIABLE, _FILE))
    return ["-k", key if named else f"{_VARIABLE}{_KEY_VARIABLE}"]


def _mounted_input(path: str, place: str, mounts: list[str]) -> str:
    """Give what a container calls a file or folder, and mount it for reading if it is outside the current folder."""
    full, here = Path(path).resolve(), Path.cwd().resolve()
    if full.is_relative_to(here):
        return str(full.relative_to(here))
    inside = f"/mnt/{place}/{full.name}"
    mounts += ["-v", f"{full}:{inside}:ro"]
    return inside


def _mounted_output(path: str, mounts: list[str]) -> str:
    full, here = Path(path).resolve(), Path.cwd().resolve()
    if full.is_relative_to(here):
        return str(full.relative_to(here))
    # Its parent, as the repository need not exist yet: Docker would make it, and root's.
    mounts += ["-v", f"{full.parent}:/mnt/output"]
    return f"/mnt/output/{full.name}"
