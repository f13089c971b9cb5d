"""The engine that needs no container: the checkpoint's own network in torch, for Triton's Python backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from spanqa.manifest import TORCH, Engine
from spanqa.windows import Batch
from spanqa_build.activation_scan import ActivationScan
from spanqa_build.comparison import FLOAT16_ROUNDED, FLOAT32, Comparison, Limits, Stage
from spanqa_build.errors import GpuError, PrecisionError
from spanqa_build.gpu import GpuFacts
from spanqa_build.precision import MAX_FLOAT16
from spanqa_build.targets import Target
from spanqa_build.torch_scan import scan_modules
from spanqa_training.inference.fixed_length import (
    WEIGHTS_FILE,
    NetworkOfLengths,
    batch_sizes,
    network_from_file,
)
from spanqa_training.model import SpanModel, architecture_of

DEVICES = ("cuda", "cpu")
BFLOAT16 = Limits(max_difference=2.0, answers_changed=0.02, f1_loss=0.5)
"""bfloat16 keeps 8 bits, and is taken only where float16 cannot hold the network."""
LIMITS = {"float32": FLOAT32, "float16": FLOAT16_ROUNDED, "bfloat16": BFLOAT16}
"""How far the network may be from torch in float32, by what it computes in."""
_FIRST_WITH_BFLOAT16 = 8.0
_HEAD = "head."
"""How names of the head's weights begin, which stay in float32."""


def check_same_gpu(gpu: GpuFacts) -> None:
    """Check that torch's first GPU is of the kind that nvidia-smi described, as far as torch sees one.

    Args:
        gpu: What nvidia-smi says of the first; it counts by PCI bus, CUDA with the fastest first unless told otherwise.

    Raises:
        GpuError: It is of another compute capability.
    """
    if not torch.cuda.is_available():
        return
    found = "{}.{}".format(*torch.cuda.get_device_capability(0))
    if found != gpu.compute_capability:
        raise GpuError(
            f"nvidia-smi's first GPU is {gpu.name} of compute capability {gpu.compute_capability}, and torch's is of"
            f" {found}, as CUDA counts otherwise: set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )


def choose_dtype(model: SpanModel, batches: Sequence[Batch], gpu: GpuFacts | None) -> tuple[str, ActivationScan | None]:
    """Choose what the network computes in: float16, bfloat16 where float16 cannot hold it, float32 on a CPU.

    Args:
        model: The model; it is left as it is.
        batches: Real windows.
        gpu: The GPU; None for a CPU.

    Returns:
        The name of a dtype, and what the windows' activations were; None on a CPU, where float32 holds them.

    Raises:
        PrecisionError: Float16 cannot hold the network, and the GPU has no bfloat16.
    """
    if gpu is None:
        return "float32", None
    scan = scan_modules(model, batches)
    too_large = [
        name
        for name, weight in model.state_dict().items()
        if not name.startswith(_HEAD) and not float(weight.abs().max()) <= MAX_FLOAT16
    ]
    too_large += scan.float32_tensors
    if not too_large:
        return "float16", scan
    if float(gpu.compute_capability) >= _FIRST_WITH_BFLOAT16:
        return "bfloat16", scan
    raise PrecisionError(
        f"{len(too_large)} tensors, first {too_large[0]}, come near float16's range, and {gpu.name} computes in nothing"
        " else that is fast: use --engine tensorrt, which keeps them in float32"
    )


def write_weights(model: SpanModel, path: Path, dtype: str) -> None:
    """Write a model's weights as safetensors: float16 where that is computed in, but for the head; else float32."""
    stored = torch.float16 if dtype == "float16" else torch.float32
    weights = {
        name: weight.detach().to("cpu", torch.float32 if name.startswith(_HEAD) else stored).contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(weights, path)


def torch_engine(
    model: SpanModel,
    scratch: Path,
    target: Target,
    lengths: Sequence[int],
    comparison: Comparison,
    batches: Sequence[Batch],
    *,
    gpu: GpuFacts | None,
) -> tuple[Engine, Path, Stage, dict[str, Any]]:
    """Write the network, load it as Triton will, and hold it against torch in float32.

    Args:
        model: The model; it is left as it is.
        scratch: A folder for the file.
        target: The GPU.
        lengths: Tokens of the windows of each encoder.
        comparison: The questions.
        batches: Real windows, to see whether float16 holds every activation.
        gpu: The GPU that is there; None to build for a CPU.

    Returns:
        How it runs, its file, how it compares, and what a manifest says of it; JSON values.

    Raises:
        BuildError: It cannot be held in the GPU's precision, or answers otherwise.
        TrainingError: It cannot be loaded there.
    """
    dtype, scan = choose_dtype(model, batches, gpu)
    path = scratch / WEIGHTS_FILE
    write_weights(model, path, dtype)
    architecture = architecture_of(model.config)
    engine = Engine(
        platform=TORCH,
        graph_rows=batch_sizes(target.graph_batches, target.largest_batch),
        # On a CPU another instance is no other processor: all of them would share its cores.
        instances=target.instances if gpu else 1,
        device="cuda" if gpu else "cpu",
        dtype=dtype,
    )
    network = NetworkOfLengths(
        network_from_file(path, architecture, device=engine.device, dtype=dtype, length=length, sizes=engine.graph_rows)
        for length in lengths
    )
    stage = comparison.of(
        f"torch {dtype}, {engine.device}", network, limits=LIMITS[dtype], rows_per_batch=target.largest_batch
    )
    facts: dict[str, Any] = {"architecture": architecture, "torch": torch.__version__}
    if scan:
        facts |= {"largest_activation": max(scan.largest.values()), "n_scanned_windows": scan.n_windows}
    if gpu:
        facts["measured_on"] = {key: getattr(gpu, key) for key in ("name", "compute_capability", "driver")}
    return engine, path, stage, facts
