"""Targets: what a build is for and what it needs there, read from targets.toml."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from spanqa_build.errors import TargetError

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser, as it was before it joined the standard library
    import tomli as tomllib

if TYPE_CHECKING:
    from spanqa_build.gpu import GpuFacts

TARGETS_FILE = Path(__file__).with_name("targets.toml")
CPU = "cpu"
AUTO = "auto"
LAYER_NORMS = ("operator", "primitives")
_GPU_KEYS = (
    *("tensorrt", "tensorrt_package", "tensorrt_bindings", "onnxruntime", "driver"),
    *("buckets", "workspace_mib", "tactic_sources"),
)
"""What every target with a GPU says."""
_TENSOR_CORE_LENGTH = 8
"""fp16 matrix products fill the tensor cores in multiples of 8 (NVIDIA, Deep Learning Performance: Matrix Multiply)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a build is for. Only the CPU's has no compute capability, and none of what belongs to TensorRT.

    Args:
        name: Its name on the command line.
        description: The hardware, in words.
        container: The Triton image that serves there.
        python: The Python of that image.
        torch: The torch to train with on that hardware, as a requirement.
        torch_index: PyTorch's own package index for that hardware, as "cu126"; PyPI where empty.
        largest_batch: Most windows of a call.
        instances: Instances of each encoder on a GPU.
        compute_capabilities: Of the GPUs it is for, as "7.0"; empty for the CPU.
        tensorrt: TensorRT versions that an engine may be built with, as a version specifier.
        tensorrt_package: What pip installs for it.
        tensorrt_bindings: The Python bindings of the TensorRT in the image, as an exact requirement.
        onnxruntime: The onnxruntime-gpu for the image's CUDA, an exact version.
        driver: Versions of NVIDIA's driver that the image runs on, as a version specifier.
        buckets: Lengths of window, in tokens, with an engine each; ascending.
        optimal_batch: The batch for which TensorRT chooses its kernels.
        graph_batches: Batches that Triton captures as CUDA graphs; ascending.
        workspace_mib: Most scratch memory of a kernel that TensorRT may choose.
        tactic_sources: Sets of TensorRT's tactic sources to try; an empty set leaves the choice to TensorRT.
        layer_norm: "operator" (one ONNX LayerNormalization) or "primitives" (the sums and products it is made of).

    Raises:
        TargetError: The values contradict each other.
    """

    name: str
    description: str
    container: str
    python: str
    torch: str
    torch_index: str
    largest_batch: int
    instances: int
    compute_capabilities: tuple[str, ...] = ()
    tensorrt: str = ""
    tensorrt_package: str = ""
    tensorrt_bindings: str = ""
    onnxruntime: str = ""
    driver: str = ""
    buckets: tuple[int, ...] = ()
    optimal_batch: int = 1
    graph_batches: tuple[int, ...] = ()
    workspace_mib: int = 0
    tactic_sources: tuple[tuple[str, ...], ...] = ()
    layer_norm: str = "operator"

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_value(self.name, field.name, str(field.type), getattr(self, field.name))
        if not 1 <= self.optimal_batch <= self.largest_batch:
            raise _wrong(self.name, "optimal_batch", self.optimal_batch, f"1 to largest_batch ({self.largest_batch})")
        if self.graph_batches and self.graph_batches[-1] > self.largest_batch:
            raise _wrong(
                self.name, "graph_batches", self.graph_batches, f"none above largest_batch {self.largest_batch}"
            )
        if self.layer_norm not in LAYER_NORMS:
            raise _wrong(self.name, "layer_norm", self.layer_norm, " or ".join(LAYER_NORMS))
        if self.is_gpu:
            self._check_gpu()

    def _check_gpu(self) -> None:
        for key in _GPU_KEYS:
            if not getattr(self, key):
                raise _wrong(self.name, key, getattr(self, key), "a value, as every target with a GPU has")
        if self.largest_batch < 2:
            raise _wrong(self.name, "largest_batch", self.largest_batch, "at least 2: Triton batches no fixed batch")
        for key in ("tensorrt", "driver"):
            try:
                SpecifierSet(getattr(self, key))
            except InvalidSpecifier as error:
                wanted = 'a version specifier like ">=10.4,<12"'
                raise _wrong(self.name, key, getattr(self, key), wanted) from error

    @property
    def is_gpu(self) -> bool:
        """Whether it is served by TensorRT on a GPU."""
        return bool(self.compute_capabilities)

    def lengths_up_to(self, longest: int, *, max_positions: int) -> tuple[int, ...]:
        """Give the buckets of a model; the last holds its longest window.

        A last bucket of an odd length is rounded up to what fills the tensor cores, as far as the model has positions.

        Args:
            longest: Tokens of the model's longest window.
            max_positions: Most tokens that the model can take.
        """
        last = min(-(-longest // _TENSOR_CORE_LENGTH) * _TENSOR_CORE_LENGTH, max_positions)
        return (*(length for length in self.buckets if length < last), last)


def target_from_name(name: str, gpu_facts: Callable[[], GpuFacts] | None = None) -> Target:
    """Give a target by its name; "auto" is the one for the GPU that is there.

    Args:
        name: A name of targets.toml, or "auto".
        gpu_facts: Says what GPU there is; by default `spanqa_build.gpu.gpu_facts`.

    Raises:
        TargetError: There is none of that name, or none for that GPU.
        GpuError: There is no GPU to choose by.
    """
    targets = all_targets()
    if name == AUTO:
        return _target_of_gpu(targets, gpu_facts)
    if name not in targets:
        raise TargetError(f"target is {name!r}: give one of {', '.join((*targets, AUTO))}")
    return targets[name]


@cache
def all_targets() -> Mapping[str, Target]:
    """Give the shipped targets by name, in the order of targets.toml."""
    return targets_from_toml(TARGETS_FILE)


def targets_from_toml(path: Path) -> dict[str, Target]:
    """Read targets.

    Raises:
        TargetError: The file cannot be read, or says what a target does not have.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"{path}: cannot be read: {error}: restore it, or install spanqa again") from error
    try:
        return {name: _target_from_table(name, table) for name, table in document.items()}
    except TargetError as error:
        raise TargetError(f"{path}: {error}") from error


def _target_from_table(name: str, table: Any) -> Target:
    if not isinstance(table, dict):
        raise TargetError(f"{name} is {table!r}: write a table, [{name}], with the keys of a target")
    allowed = {field.name: field for field in fields(Target) if field.name != "name"}
    missing = [key for key, field in allowed.items() if field.default is MISSING and key not in table]
    unknown = [key for key in table if key not in allowed]
    if missing or unknown:
        what = f"has no {missing[0]}" if missing else f"has the unknown key {unknown[0]}"
        raise TargetError(f"target {name} {what}: the keys are {', '.join(allowed)}")
    return Target(name=name, **{key: _frozen(value) for key, value in table.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _check_value(target: str, key: str, kind: str, value: Any) -> None:
    item = kind.removeprefix("tuple[").removesuffix(", ...]")
    values = (value,) if item == kind else value
    if not isinstance(values, tuple):
        raise _wrong(target, key, value, "a list")
    if item.startswith("tuple["):
        for inner in values:
            _check_value(target, key, item, inner)
    elif item == "str":
        if not all(isinstance(one, str) for one in values):
            raise _wrong(target, key, value, "text in quotes")
    elif not all(type(one) is int and one >= 0 for one in values) or list(values) != sorted(set(values)):
        raise _wrong(target, key, value, "whole numbers of at least 0, each above the one before")


def _wrong(target: str, key: str, value: Any, allowed: str) -> TargetError:
    return TargetError(f"{key} of target {target} is {value!r}: give {allowed}")


def _target_of_gpu(targets: Mapping[str, Target], gpu_facts: Callable[[], GpuFacts] | None) -> Target:
    if gpu_facts is None:
        from spanqa_build.gpu import gpu_facts as gpu_facts_of_driver

        gpu_facts = gpu_facts_of_driver
    gpu = gpu_facts()
    for target in targets.values():
        if gpu.compute_capability in target.compute_capabilities:
            return target
    known = ", ".join(
        f"{target.name} ({', '.join(target.compute_capabilities)})" for target in targets.values() if target.is_gpu
    )
    raise TargetError(
        f"the GPU is a {gpu.name} of compute capability {gpu.compute_capability}, and the targets are for {known}:"
        " use another GPU, or give --target cpu"
    )
