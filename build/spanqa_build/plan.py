"""What a build for a target would make, need and run, told without a GPU and without TensorRT."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from spanqa_build.plan_commands import Wanted, cpu_commands, gpu_commands
from spanqa_build.targets import Target
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import EncoderConfig

ENGINES = ("tensorrt", "onnxruntime")
"""What can run the network on a GPU."""
_MIB = 1 << 20
_FP16_BYTES = 2
_FLOAT32_BYTES = 4
_CONTEXT_BYTES = 600 * _MIB
"""Assumed for one process with CUDA, cuBLAS and TensorRT loaded."""
_KERNELS_PER_LAYER = 20
"""Assumed for an unfused layer: 8 matrix products, and what lies between them."""
_GRAPH_BYTES_PER_KERNEL = 64 << 10
"""Assumed of what a CUDA graph keeps of one kernel launch."""
_GRAPH_COPIES = 3
"""Triton's TensorRT captures a graph once for each of its sets of events."""
_POOL_BYTES = 64 * _MIB
"""What Triton sets aside on each GPU for tensors between models."""


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
class GpuMemory:
    """GPU memory of a server with every engine loaded, estimated rather too high than too low.

    Args:
        weights_bytes: Each bucket's engine has its own, and so has each of its instances, as Triton shares no engine
            whose batch is dynamic.
        activations_bytes: Of the largest batch, in each bucket and instance.
        graphs_bytes: CUDA graphs, for each bucket, instance and batch.
        context_bytes: CUDA itself, the libraries, and Triton's pool.
    """

    weights_bytes: int
    activations_bytes: int
    graphs_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return self.weights_bytes + self.activations_bytes + self.graphs_bytes + self.context_bytes


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
    checkpoint: Checkpoint, target: Target, *, engine: str = ENGINES[0], wanted: Wanted | None = None
) -> BuildPlan:
    """Plan a build.

    Args:
        checkpoint: The model; its weights are not read.
        target: What to build for.
        engine: What runs the network on a GPU; one of ENGINES.
        wanted: What the user gave, for the commands.
    """
    wanted = wanted or Wanted()
    encoder, longest = checkpoint.encoder, checkpoint.windows.max_seq_length
    lengths = target.lengths_up_to(longest, max_positions=encoder.max_positions) if target.is_gpu else (longest,)
    memory = _gpu_memory(encoder, target, lengths) if target.is_gpu else None
    return BuildPlan(
        target=target.name,
        description=target.description,
        n_parameters=n_parameters(encoder),
        lengths=lengths,
        largest_batch=target.largest_batch,
        artefacts=_artefacts(encoder, target, lengths, engine),
        gpu_memory=memory,
        build_bytes=_build_bytes(encoder, target, lengths, engine) if target.is_gpu else 0,
        versions=_versions(target),
        commands=gpu_commands(target, wanted, engine) if target.is_gpu else cpu_commands(target, wanted),
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


def n_parameters(encoder: EncoderConfig) -> int:
    """Count the parameters of a model from its architecture."""
    size, wide = encoder.hidden_size, encoder.intermediate_size
    embeddings = (encoder.vocab_size + encoder.max_positions + encoder.type_vocab_size) * size
    attention = 4 * (size * size + size)
    feed_forward = 2 * size * wide + size + wide
    norms = 2 * size
    # Each family has one norm outside its layers: on the embeddings (post-LN) or after the last layer (pre-LN).
    return embeddings + encoder.num_layers * (attention + feed_forward + 2 * norms) + norms + 2 * size + 2


def activation_bytes(encoder: EncoderConfig, n_rows: int, length: int) -> int:
    """Estimate the activations of one call from above: attention unfused, nothing else recomputed.

    Args:
        encoder: The architecture.
        n_rows: Windows of the call.
        length: Tokens of a window.

    Returns:
        Bytes that live at once: the residual stream in float32, and the larger of attention (query, key, value and
        result, with scores in float32 and probabilities in fp16) and feed-forward (before and after its activation).
    """
    size = encoder.hidden_size
    residual = (_FLOAT32_BYTES + _FP16_BYTES) * size
    attention = 4 * _FP16_BYTES * size + (_FLOAT32_BYTES + _FP16_BYTES) * encoder.num_heads * length
    feed_forward = 2 * _FP16_BYTES * encoder.intermediate_size
    return n_rows * length * (residual + max(attention, feed_forward))


def _gpu_memory(encoder: EncoderConfig, target: Target, lengths: tuple[int, ...]) -> GpuMemory:
    graph_bytes = _GRAPH_COPIES * encoder.num_layers * _KERNELS_PER_LAYER * _GRAPH_BYTES_PER_KERNEL
    activations = sum(activation_bytes(encoder, target.largest_batch, length) for length in lengths)
    return GpuMemory(
        weights_bytes=len(lengths) * target.instances * _FP16_BYTES * n_parameters(encoder),
        activations_bytes=target.instances * activations,
        graphs_bytes=len(lengths) * target.instances * len(target.graph_batches) * graph_bytes,
        context_bytes=_CONTEXT_BYTES + _POOL_BYTES,
    )


def _build_bytes(encoder: EncoderConfig, target: Target, lengths: tuple[int, ...], engine: str) -> int:
    weights = _FP16_BYTES * n_parameters(encoder)
    needed = weights + activation_bytes(encoder, target.largest_batch, max(lengths)) + _CONTEXT_BYTES
    # TensorRT holds the weights twice while it lays them out for the kernels that it times.
    return needed + weights + (target.workspace_mib << 20) if engine == "tensorrt" else needed


def _artefacts(encoder: EncoderConfig, target: Target, lengths: tuple[int, ...], engine: str) -> tuple[Artefact, ...]:
    n = n_parameters(encoder)
    if not target.is_gpu:
        return (
            Artefact(file="network.onnx, float32 (a quarter of it if int8 is chosen)", size_bytes=_FLOAT32_BYTES * n),
        )
    if engine != "tensorrt":
        return tuple(
            Artefact(file=f"model.onnx for {n} tokens, fp16", size_bytes=_FP16_BYTES * n_parameters(encoder))
            for n in lengths
        )
    engines = [
        Artefact(file=f"model.plan for {length} tokens, built on the GPU", size_bytes=_FP16_BYTES * n)
        for length in lengths
    ]
    return (Artefact(file="network.onnx, fp16, left behind", size_bytes=_FP16_BYTES * n), *engines)


def _versions(target: Target) -> dict[str, str]:
    versions = {"Triton": target.container, "Python there": target.python}
    if target.is_gpu:
        versions |= {
            "GPU of compute capability": " or ".join(target.compute_capabilities),
            "driver": target.driver,
            "TensorRT": f"{target.tensorrt} ({target.tensorrt_package})",
            "its bindings": target.tensorrt_bindings,
            "ONNX Runtime": f"onnxruntime-gpu=={target.onnxruntime}",
        }
    where = f" from PyTorch's index {target.torch_index}" if target.torch_index else ""
    return {**versions, "to train there": f"{target.torch}{where}"}


def _size(n_bytes: int) -> str:
    return f"{n_bytes / _MIB:>9,.1f} MiB"
