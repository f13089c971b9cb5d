"""What a build for a target would make, need and run, told without a GPU and without TensorRT."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from spanqa.manifest import TORCH
from spanqa_build.gpu_memory import (
    FLOAT32_BYTES,
    FP16_BYTES,
    MIB,
    GpuMemory,
    building_bytes,
    n_parameters,
    serving_memory,
)
from spanqa_build.plan_commands import Wanted, cpu_commands, gpu_commands, torch_commands
from spanqa_build.targets import Target
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import EncoderConfig

ENGINES = ("tensorrt", "onnxruntime", TORCH)
"""What can run the network on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file that the build makes.

    Args:
        file: Its path in the model repository, or what it is where it stays behind.
        size_bytes: About how large it is.
    """

    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What a build would do and need.

    Args:
        target: The target's name.
        description: Its hardware.
        n_parameters: Parameters of the model.
        lengths: Tokens of the windows of each engine; one, the longest, on a CPU.
        largest_batch: Most windows of a call.
        artefacts: Files that it makes.
        gpu_memory: What a server with them needs; None on a CPU.
        build_bytes: GPU memory that must be free to build: the largest engine, its scratch memory and CUDA.
        versions: What it needs, and in which version.
        commands: What to run, in order, from a clone of the project.
    """

    target: str
    description: str
    n_parameters: int
    lengths: tuple[int, ...]
    largest_batch: int
    artefacts: tuple[Artefact, ...]
    gpu_memory: GpuMemory | None
    build_bytes: int
    versions: dict[str, str]
    commands: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Give the plan as JSON values."""
        plan = asdict(self)
        if self.gpu_memory:
            plan["gpu_memory"]["total_bytes"] = self.gpu_memory.total_bytes
        return plan


def plan_from(
    checkpoint: Checkpoint,
    target: Target,
    *,
    engine: str = ENGINES[0],
    device: str = "cuda",
    wanted: Wanted | None = None,
) -> BuildPlan:
    """Plan a build.

    Args:
        checkpoint: The model; its weights are not read.
        target: What to build for.
        engine: What runs the network on a GPU; one of ENGINES.
        device: "cpu" for what the engine torch makes without a GPU.
        wanted: What the user gave, for the commands.
    """
    wanted = wanted or Wanted()
    encoder, longest = checkpoint.encoder, checkpoint.windows.max_seq_length
    lengths = target.lengths_up_to(longest, max_positions=encoder.max_positions) if target.is_gpu else (longest,)
    on_gpu = target.is_gpu and device == "cuda"
    return BuildPlan(
        target=target.name,
        description=target.description,
        n_parameters=n_parameters(encoder),
        lengths=lengths,
        largest_batch=target.largest_batch,
        artefacts=_artefacts(encoder, target, lengths, engine, on_gpu=on_gpu),
        gpu_memory=serving_memory(encoder, target, lengths, engine) if on_gpu else None,
        build_bytes=building_bytes(encoder, target, lengths, engine) if on_gpu else 0,
        versions=_versions(target, engine, on_gpu=on_gpu),
        commands=_commands(target, wanted, engine, on_gpu=on_gpu),
    )


def table_from_plan(plan: BuildPlan) -> str:
    """Give a plan to read."""
    lines = [
        f"target       {plan.target}: {plan.description}",
        f"model        {plan.n_parameters:,} parameters",
        f"windows      up to {', '.join(map(str, plan.lengths))} tokens, {plan.largest_batch} in a call",
    ]
    lines += [f"{'makes' * (not i):<12} {_size(a.size_bytes)}  {a.file}" for i, a in enumerate(plan.artefacts)]
    if plan.gpu_memory:
        memory = plan.gpu_memory
        lines += [
            f"to build     {_size(plan.build_bytes)}  of GPU memory free",
            f"to serve     {_size(memory.total_bytes)}  of GPU memory:",
            f"             {_size(memory.weights_bytes)}  weights",
            f"             {_size(memory.activations_bytes)}  activations",
            f"             {_size(memory.graphs_bytes)}  CUDA graphs",
            f"             {_size(memory.context_bytes)}  CUDA, libraries and Triton's pool",
        ]
    lines += [f"{'needs' * (not i):<12} {what} {version}" for i, (what, version) in enumerate(plan.versions.items())]
    lines += [f"{'run' * (not i):<12} {command}" for i, command in enumerate(plan.commands)]
    return "\n".join(lines)


def _artefacts(
    encoder: EncoderConfig, target: Target, lengths: tuple[int, ...], engine: str, *, on_gpu: bool
) -> tuple[Artefact, ...]:
    n = n_parameters(encoder)
    if not target.is_gpu:
        return (
            Artefact(file="network.onnx, float32 (a quarter of it if int8 is chosen)", size_bytes=FLOAT32_BYTES * n),
        )
    if engine == TORCH:
        dtype, n_bytes = ("fp16", FP16_BYTES) if on_gpu else ("float32", FLOAT32_BYTES)
        return (Artefact(file=f"model.safetensors, {dtype}, one for all lengths", size_bytes=n_bytes * n),)
    if engine != "tensorrt":
        return tuple(
            Artefact(file=f"model.onnx for {n} tokens, fp16", size_bytes=FP16_BYTES * n_parameters(encoder))
            for n in lengths
        )
    engines = [
        Artefact(file=f"model.plan for {length} tokens, built on the GPU", size_bytes=FP16_BYTES * n)
        for length in lengths
    ]
    return (Artefact(file="network.onnx, fp16, left behind", size_bytes=FP16_BYTES * n), *engines)


def _commands(target: Target, wanted: Wanted, engine: str, *, on_gpu: bool) -> tuple[str, ...]:
    if not target.is_gpu:
        return cpu_commands(target, wanted)
    return torch_commands(target, wanted, on_gpu=on_gpu) if engine == TORCH else gpu_commands(target, wanted, engine)


def _versions(target: Target, engine: str, *, on_gpu: bool) -> dict[str, str]:
    where = f" from PyTorch's index {target.torch_index}" if target.torch_index else ""
    if target.is_gpu and engine == TORCH:
        versions = {"Triton": "nvidia-pytriton, which needs no container", "Python": "3.10 to 3.12"}
        gpu = {"GPU of compute capability": " or ".join(target.compute_capabilities), "driver": target.driver}
        return {**versions, **(gpu if on_gpu else {}), "torch": f"{target.torch}{where if on_gpu else ''}"}
    versions = {"Triton": target.container, "Python there": target.python}
    if target.is_gpu:
        versions |= {
            "GPU of compute capability": " or ".join(target.compute_capabilities),
            "driver": target.driver,
            "TensorRT": f"{target.tensorrt} ({target.tensorrt_package})",
            "its bindings": target.tensorrt_bindings,
            "ONNX Runtime": f"onnxruntime-gpu=={target.onnxruntime}",
        }
    return {**versions, "to train there": f"{target.torch}{where}"}


def _size(n_bytes: int) -> str:
    return f"{n_bytes / MIB:>9,.1f} MiB"
