"""Checks before serving: are the files those of the build, and is this the machine that they were compiled for."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from spanqa import contract
from spanqa.cuda_gpus import cuda_capabilities_here, cuda_gpus_here
from spanqa.errors import SpanqaError
from spanqa.limits import CONFIG_FILE, NAMES, config_artefact
from spanqa.manifest import Artefact, Engine, Gpu, Manifest
from spanqa.openvino_network import check_openvino

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader")
NVIDIA_SMI_TIMEOUT_S = 20.0
BLOCK_BYTES = 1 << 20
FIRST_WITH_BFLOAT16 = (8, 0)
"""The compute capability from which on GPUs compute in bfloat16."""


def versions_in(model: Path) -> list[int]:
    """Give the version folders of a model, oldest first, as Triton counts them."""
    folders = [path for path in model.iterdir() if path.is_dir()] if model.is_dir() else []
    return sorted(int(path.name) for path in folders if path.name.isascii() and path.name.isdigit())


def artefact_path(repository: Path, name: str, version: int) -> Path:
    """Give the place of an artefact named MODEL/FILE in one version of a repository."""
    model, _, file = name.partition("/")
    return repository / model / str(version) / file


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, artefact: Artefact, *, whole: bool) -> None:
    """Check that a file is the one of the build.

    Args:
        path: The file.
        artefact: What it must be.
        whole: Whether to read all of it; else its size alone is looked at.

    Raises:
        SpanqaError: It is not.
    """
    try:
        size_bytes = path.stat().st_size
        problem = f"has {size_bytes:,} bytes, the build wrote {artefact.size_bytes:,}"
        if size_bytes == artefact.size_bytes:
            digest = sha256_of(path) if whole else artefact.sha256
            problem = f"was altered (SHA-256 {digest[:12]}, the build wrote {artefact.sha256[:12]})"
            if digest == artefact.sha256:
                return
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise SpanqaError(f"{path}: {problem}: build the repository again")


def check_files(repository: Path, version: int, manifest: Manifest, *, whole: Collection[str]) -> None:
    """Check every file of one version of a repository.

    The configurations are those of the newest version: an older one that is still loaded does not own them.

    Args:
        repository: The repository's folder.
        version: The version.
        manifest: Its manifest.
        whole: Names of the artefacts that are read as a whole; of the others the size is looked at.

    Raises:
        SpanqaError: One is missing, or not the one of the build.
    """
    for name, artefact in manifest.artefacts.items():
        check_file(artefact_path(repository, name, version), artefact, whole=name in whole)
    if version == versions_in(repository / contract.QUESTION_ANSWERING)[-1]:
        for name, artefact in manifest.configs.items():
            _check_config(repository / name, artefact)


def _check_config(path: Path, artefact: Artefact) -> None:
    """Check a configuration or a file of its warm-up; the values of the limits are the operator's."""
    if path.name != CONFIG_FILE:
        check_file(path, artefact, whole=True)
        return
    try:
        found = config_artefact(path)
    except OSError as error:
        raise SpanqaError(f"{path}: cannot be read: {error.strerror}: build the repository again") from error
    if found != artefact:
        raise SpanqaError(
            f"{path}: was altered, in more than the values of its limits ({', '.join(NAMES)}): build the repository "
            "again"
        )


def check_served(repository: Path, version: int, manifest: Manifest) -> None:
    """Check, as the main entry starts, what it will serve.

    Networks that Triton runs by itself are read as a whole, since nobody else would; those of a model.py by that one.

    Args:
        repository: The repository's folder.
        version: The version that starts.
        manifest: Its manifest.

    Raises:
        SpanqaError: A file is not the one of the build, or this machine not the one that they were compiled for.
    """
    check_machine(manifest)
    of_triton = manifest.packing.encoders if manifest.engine and not manifest.engine.is_torch else ()
    whole = {name for name in manifest.artefacts if name.partition("/")[0] in of_triton}
    check_files(repository, version, manifest, whole=whole)


def gpus_here() -> list[Gpu]:
    """Ask the driver which GPUs there are; none where it does not say."""
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.rpartition(",") for line in done.stdout.splitlines())
    return [Gpu(name=name.strip(), compute_capability=capability.strip()) for name, _, capability in rows if name]


def tensorrt_here(major: int) -> str | None:
    """Give the version of the TensorRT library of a major version; None where there is none.

    The number is coded as NV_TENSORRT_VERSION in NvInferVersion.h: major, and two digits each of minor and patch.
    """
    try:
        number = int(ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion())
    except (OSError, AttributeError):
        return None
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def check_bfloat16(
    engine: Engine, *, capabilities: Callable[[], Sequence[tuple[int, int]]] = cuda_capabilities_here
) -> None:
    """Refuse a network in bfloat16 where a GPU shows that has none: Triton puts instances on each that it sees.

    Args:
        engine: How the network runs.
        capabilities: Gives the compute capabilities of the GPUs that CUDA shows; asked where it matters.

    Raises:
        SpanqaError: It computes in bfloat16, and a GPU here is of a compute capability below 8.0.
    """
    if not engine.is_torch or (engine.device, engine.dtype) != ("cuda", "bfloat16"):
        return
    without = [capability for capability in capabilities() if capability < FIRST_WITH_BFLOAT16]
    if without:
        major, minor = without[0]
        raise SpanqaError(
            f"the encoders compute in bfloat16, which GPUs have from compute capability 8.0 on, and one here is of"
            f" {major}.{minor}: hide it by CUDA_VISIBLE_DEVICES, or build the repository for it with --engine tensorrt"
        )


def torch_fault(device: str, *, n_gpus: Callable[[], int] = cuda_gpus_here) -> str | None:
    """Say why torch cannot serve here, as far as it shows without importing torch; None where nothing does.

    Args:
        device: "cuda" or "cpu".
        n_gpus: Counts the GPUs that CUDA shows.
    """
    try:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "safetensors")}
    except importlib.metadata.PackageNotFoundError as error:
        return f"{error.name} is not installed: pip install 'spanqa[serve,training]'"
    if device != "cuda":
        return None
    if versions["torch"].endswith("+cpu"):
        return f"torch {versions['torch']} is made for CPUs alone: install one made for CUDA (`spanqa build --plan`)"
    if not n_gpus():
        return "CUDA shows no GPU: check NVIDIA's driver and CUDA_VISIBLE_DEVICES, or build with --device cpu"
    return None


def check_not_rehearsed(manifest: Manifest) -> None:
    """Refuse to serve what a rehearsal wrote: its engines show that a build succeeds, and run nowhere.

    Raises:
        SpanqaError: It is a rehearsal's.
    """
    if manifest.engine and manifest.engine.rehearsed:
        raise SpanqaError(
            f"the engines are a rehearsal's, by {manifest.engine.rehearsed}, and not to be served: build the repository"
            f" with `spanqa build --target {manifest.target}` where its GPU is"
        )


def check_machine(
    manifest: Manifest,
    *,
    gpus: Callable[[], Sequence[Gpu]] = gpus_here,
    tensorrt: Callable[[int], str | None] = tensorrt_here,
    torch: Callable[[str], str | None] = torch_fault,
    capabilities: Callable[[], Sequence[tuple[int, int]]] = cuda_capabilities_here,
) -> None:
    """Check that engines can run here: they hold for one kind of GPU and one TensorRT, or need torch or OpenVINO.

    Where the driver does not say what GPUs there are, TensorRT itself decides when it loads them.

    Args:
        manifest: What they were compiled for.
        gpus: Gives the machine's GPUs.
        tensorrt: Gives the version of the machine's TensorRT library of a major version.
        torch: Says why torch cannot run on a device; None where it may.
        capabilities: Gives the compute capabilities of the GPUs that CUDA shows.

    Raises:
        SpanqaError: They cannot.
    """
    engine = manifest.engine
    if engine is None:
        check_openvino(manifest)
        return
    check_not_rehearsed(manifest)
    built_for = engine.gpu
    here = gpus() if built_for else []
    if built_for and here and all(gpu.compute_capability != built_for.compute_capability for gpu in here):
        names = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in here)
        raise SpanqaError(
            f"the engines were built for {built_for.name} (compute capability {built_for.compute_capability}), this "
            f"machine has {names}: build the repository for its GPU with `spanqa build --target`"
        )
    if engine.tensorrt:
        wanted = ".".join(engine.tensorrt.split(".")[:3])
        found = tensorrt(int(wanted.partition(".")[0]))
        if found != wanted:
            raise SpanqaError(
                f"the engines were built by TensorRT {wanted}, this machine has {found or 'another or none'}: serve in "
                f"the Triton image that has {wanted}, or build the repository again"
            )
    fault = torch(engine.device) if engine.is_torch else None
    if fault:
        where = "a GPU" if engine.device == "cuda" else "a CPU"
        raise SpanqaError(f"the encoders run with torch on {where}, and here {fault}")
    check_bfloat16(engine, capabilities=capabilities)
