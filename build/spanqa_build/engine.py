"""TensorRT engines: built from the ONNX network for one length of window, timed and looked into.

TensorRT and Polygraphy are imported only in the functions that need them. Polygraphy gets keywords only, since its
releases order their parameters differently.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spanqa.contract import ENCODER_INPUTS
from spanqa_build.engine_run import latency_ms, one_line_errors, running_engine
from spanqa_build.errors import EngineError
from spanqa_build.gpu import GpuFacts, check_gpu, tensorrt_version
from spanqa_build.targets import Target
from spanqa_build.timing_cache import kept_timing_cache, timing_cache_path

if TYPE_CHECKING:
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig

OPTIMIZATION_LEVEL = 5
"""The highest: dynamic kernels are compiled too, and compared with the static ones."""
_FUSED_ATTENTION = re.compile(r'"([^"]*(?:_mha|fmha|flash)[^"]*)"', re.IGNORECASE)
"""What TensorRT's fused attention kernels are called (`_gemm_mha_v2` and its relatives)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One of the ways that an engine was built, to choose the fastest.

    Args:
        tactic_sources: TensorRT's tactic sources; empty where it chose them itself.
        latency_ms: Median time of a call of the target's optimal batch.
        build_s: What the build took.
    """

    tactic_sources: tuple[str, ...]
    latency_ms: float
    build_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is worth recording of an engine; all JSON values.

    Args:
        file: The engine's file name.
        sha256: Of the file.
        size_bytes: Of the file.
        length: Tokens of a window: the same in every call.
        largest_batch: Most windows of a call; the fewest is 1.
        optimal_batch: The batch that its kernels were chosen for.
        tensorrt: The version that built it and must load it.
        gpu: The GPU that built it and whose like must load it.
        compute_capability: Of that GPU.
        device_memory_bytes: Activations and scratch memory of one execution context, without the weights.
        n_layers: Layers after fusion.
        fused_attention: Layers and kernels whose names say that they are fused attention; empty where none is.
        latency_ms: Median time of a call by batch, transfers included.
        tactic_sources: Those of the trial that was kept.
        trials: Every way that was tried.
    """

    file: str
    sha256: str
    size_bytes: int
    length: int
    largest_batch: int
    optimal_batch: int
    tensorrt: str
    gpu: str
    compute_capability: str
    device_memory_bytes: int
    n_layers: int
    fused_attention: tuple[str, ...]
    latency_ms: dict[int, float]
    tactic_sources: tuple[str, ...]
    trials: tuple[Trial, ...]


def build_engine(
    onnx: Path, target: Target, length: int, output: Path, *, gpu: GpuFacts, timing_caches: Path
) -> EngineFacts:
    """Build the engine of one length, in every way that the target names, and keep the fastest.

    Args:
        onnx: The network, with its precisions written into it: batch and length dynamic, ids int32.
        target: What to build for.
        length: Tokens of every window of this engine.
        output: The engine's file; an old one is replaced only by a finished one.
        gpu: The GPU that is there.
        timing_caches: Folder of the timing caches.

    Raises:
        GpuError: The GPU, its driver or TensorRT is not what the target needs.
        EngineError: TensorRT cannot build it, or a file cannot be written.
    """
    tensorrt = tensorrt_version()
    check_gpu(target, gpu, tensorrt)
    tried = []
    for sources in target.tactic_sources:
        cache = timing_cache_path(timing_caches, gpu.name, tensorrt, sources)
        tried.append(_trial(onnx, target, length, sources, cache, output))
    best, plan = min(tried, key=lambda trial_and_plan: trial_and_plan[0].latency_ms)
    with running_engine(plan, output) as runner:
        engine: trt.ICudaEngine = runner.engine
        facts = EngineFacts(
            file=output.name,
            sha256=hashlib.sha256(plan).hexdigest(),
            size_bytes=len(plan),
            length=length,
            largest_batch=target.largest_batch,
            optimal_batch=target.optimal_batch,
            tensorrt=tensorrt,
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            device_memory_bytes=engine.device_memory_size_v2,
            n_layers=engine.num_layers,
            fused_attention=_fused_attention(engine),
            latency_ms={n_rows: latency_ms(runner, length, n_rows) for n_rows in _batches(target)},
            tactic_sources=best.tactic_sources,
            trials=tuple(trial for trial, _ in tried),
        )
    _write_atomically(output, plan)
    return facts


def _batches(target: Target) -> tuple[int, int, int]:
    """The fewest, the optimal and the most windows of a call."""
    return 1, target.optimal_batch, target.largest_batch


def _trial(
    onnx: Path, target: Target, length: int, sources: tuple[str, ...], cache: Path, output: Path
) -> tuple[Trial, bytes]:
    started = time.monotonic()
    plan = plan_from_onnx(onnx, target, length, sources, cache)
    build_s = time.monotonic() - started
    with running_engine(plan, output) as runner:
        median_ms = latency_ms(runner, length, target.optimal_batch)
    return Trial(tactic_sources=sources, latency_ms=median_ms, build_s=build_s), plan


def plan_from_onnx(onnx: Path, target: Target, length: int, sources: Sequence[str], cache: Path) -> bytes:
    """Have TensorRT read a network and build the engine of one length.

    Args:
        onnx: The network.
        target: Gives the profile and the limits.
        length: Tokens of every window.
        sources: TensorRT's tactic sources; empty leaves the choice to it.
        cache: The timing cache to read and replace.

    Raises:
        EngineError: TensorRT refuses the network or the engine.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    what = f"{onnx}: TensorRT cannot build the engine for {length} tokens"
    with kept_timing_cache(cache) as copy, one_line_errors(what, "export the network again, or free GPU memory"):
        build = EngineBytesFromNetwork(
            network=NetworkFromOnnxPath(path=str(onnx), strongly_typed=True),
            config=_config(target, length, sources, copy),
            save_timing_cache=str(copy),
        )
        return bytes(build())


def _config(target: Target, length: int, sources: Sequence[str], cache: Path) -> CreateConfig:
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig, Profile

    profile = Profile()
    for tensor in ENCODER_INPUTS:
        fewest, optimal, most = ((n_rows, length) for n_rows in _batches(target))
        profile.add(name=tensor.name, min=fewest, opt=optimal, max=most)
    return CreateConfig(
        profiles=[profile],
        builder_optimization_level=OPTIMIZATION_LEVEL,
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: target.workspace_mib << 20},
        tactic_sources=[getattr(trt.TacticSource, source) for source in sources] or None,
        profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
        load_timing_cache=str(cache),
    )


def _fused_attention(engine: trt.ICudaEngine) -> tuple[str, ...]:
    import tensorrt as trt

    inspector: trt.EngineInspector = engine.create_engine_inspector()
    layers = inspector.get_engine_information(format=trt.LayerInformationFormat.JSON)
    return tuple(sorted(set(_FUSED_ATTENTION.findall(layers))))


def _write_atomically(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            beside = Path(scratch) / path.name
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
    except OSError as error:
        raise EngineError(f"{path}: the engine cannot be written: {error.strerror}: make room") from error
