"""What GPU, driver and TensorRT are there, and whether they are what a target needs."""

from __future__ import annotations

import importlib
import os
import subprocess
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from spanqa_build.errors import GpuError
from spanqa_build.targets import Target

_QUERY = ("name", "compute_cap", "driver_version", "memory.free", "memory.total")
_QUERY_TIMEOUT_S = 60.0
"""Waking a GPU whose driver is not kept loaded takes up to half a minute."""
_MIB = 1 << 20
_LAST_FOR_VOLTA = Version("10.4.0")
"""TensorRT's release notes of 10.5.0: Volta support removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU, as its driver describes it.

    Args:
        name: As "Tesla V100-SXM2-32GB".
        compute_capability: As "7.0".
        driver: The driver's version.
        free_bytes: Memory that nobody uses now.
        total_bytes: All of its memory.
    """

    name: str
    compute_capability: str
    driver: str
    free_bytes: int
    total_bytes: int


def gpu_facts() -> GpuFacts:
    """Ask nvidia-smi about the first GPU that CUDA_VISIBLE_DEVICES lets through.

    Raises:
        GpuError: There is no GPU, no driver, or nvidia-smi says something else than asked.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible in ("", "-1"):
        raise GpuError("CUDA_VISIBLE_DEVICES hides every GPU: unset it, or name one; or give --target cpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits", f"--id={visible}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise GpuError(
            "no GPU found, as nvidia-smi is not installed: run where NVIDIA's driver is (docker run --gpus all), or"
            " give --target cpu"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuError(f"nvidia-smi cannot be asked about GPU {visible}: {error}: check the driver") from error
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise GpuError(f"nvidia-smi reports no GPU {visible}: {said}: check the driver and CUDA_VISIBLE_DEVICES")
    return _facts_from_csv(done.stdout)


def tensorrt_version() -> str:
    """Give the version of TensorRT's Python package.

    Raises:
        GpuError: It is not installed, or its libraries are missing.
    """
    try:
        return str(importlib.import_module("tensorrt").__version__)
    except (ImportError, OSError, AttributeError) as error:  # OSError: a library that it loads itself
        raise GpuError(
            f'TensorRT cannot be imported ({_one_line(error)}): build in the Triton image of the target ("spanqa build'
            ' --plan" names it), or install what the plan names'
        ) from error


def mismatches(
    target: Target, gpu: GpuFacts, tensorrt: str | None, *, needed_bytes: int = 0, software: str | None = None
) -> list[str]:
    """Compare what is there with what a target needs.

    Args:
        target: What to build for; one with a GPU.
        gpu: The GPU that is there.
        tensorrt: The version of TensorRT that is there; None where it has no part in the build.
        needed_bytes: GPU memory that the build or the server needs free.
        software: What needs the driver, for messages; by default the target's container.

    Returns:
        One sentence for each mismatch: what was got, what is needed, what to do.
    """
    found = []
    if gpu.compute_capability not in target.compute_capabilities:
        found.append(
            f"the GPU is a {gpu.name} of compute capability {gpu.compute_capability}, and target {target.name} needs"
            f" {' or '.join(target.compute_capabilities)}: use such a GPU, or the target of this one (--target auto)"
        )
    if tensorrt is not None and not _fits(tensorrt, target.tensorrt):
        found.append(_tensorrt_mismatch(target, tensorrt))
    if not _fits(gpu.driver, target.driver):
        found.append(
            f"NVIDIA's driver is {gpu.driver}, and {software or target.container} needs {target.driver}: install such a"
            " driver"
        )
    if gpu.free_bytes < needed_bytes:
        found.append(
            f"{gpu.free_bytes // _MIB:,} MiB of the GPU's {gpu.total_bytes // _MIB:,} MiB are free, and"
            f" {-(-needed_bytes // _MIB):,} MiB are needed: stop what else uses it, or take a GPU with more"
        )
    return found


def check_gpu(
    target: Target, gpu: GpuFacts, tensorrt: str | None, *, needed_bytes: int = 0, software: str | None = None
) -> None:
    """Refuse to build where `mismatches` finds something; arguments as there.

    Raises:
        GpuError: With every mismatch, in one line.
    """
    found = mismatches(target, gpu, tensorrt, needed_bytes=needed_bytes, software=software)
    if found:
        raise GpuError("; and ".join(found))


def _tensorrt_mismatch(target: Target, tensorrt: str) -> str:
    remedy = f"use {target.tensorrt_package}, as in {target.container}"
    if target.compute_capabilities == ("7.0",) and _is_after(tensorrt, _LAST_FOR_VOLTA):
        return f"TensorRT is {tensorrt}, and TensorRT 10.5 and later do not support sm_70: {remedy}"
    return f"TensorRT is {tensorrt}, and target {target.name} needs {target.tensorrt}: {remedy}"


def _fits(version: str, specifier: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _is_after(version: str, last: Version) -> bool:
    try:
        return Version(version).release[:3] > last.release
    except InvalidVersion:
        return False


def _facts_from_csv(text: str) -> GpuFacts:
    values = [value.strip() for value in text.strip().splitlines()[0].split(",")] if text.strip() else []
    try:
        name, capability, driver, free_mib, total_mib = values
        return GpuFacts(
            name=name,
            compute_capability=str(float(capability)),
            driver=driver,
            free_bytes=int(free_mib) * _MIB,
            total_bytes=int(total_mib) * _MIB,
        )
    except ValueError as error:
        raise GpuError(
            f"nvidia-smi says {_one_line(text)!r} to {', '.join(_QUERY)}: install a newer driver, which can tell"
        ) from error


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
