"""From a model to a repository for a GPU: one explicit float16 network, an engine a bucket, each held against torch."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch

from spanqa.manifest import TORCH, Engine, Gpu, Manifest
from spanqa.packing import Bucket, Packing
from spanqa.windows import WindowMaker
from spanqa_build.activation_scan import ActivationScan
from spanqa_build.comparison import FLOAT16, FLOAT16_ROUNDED, Comparison, Stage, table_from_stages
from spanqa_build.configs import ONNXRUNTIME, TENSORRT
from spanqa_build.cpu_speed import sampled_batches
from spanqa_build.engine import EngineFacts, build_engine
from spanqa_build.engine_run import network_from_engines
from spanqa_build.errors import BuildError
from spanqa_build.float16_export import NetworkFacts, float16_network_from_windows
from spanqa_build.gpu import GpuFacts, check_gpu, gpu_facts, tensorrt_version
from spanqa_build.network_file import write_network
from spanqa_build.onnx_gpu import check_cuda_provider, cuda_network, fused_float16_from_model
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_build.plan import plan_from
from spanqa_build.precision import rounded_twin
from spanqa_build.questions import DEFAULT_DATA, questions_to_check
from spanqa_build.repository import GpuNetworks, check_output, manifest_from_checkpoint, write_repository
from spanqa_build.targets import Target
from spanqa_build.torch_engine import check_same_gpu, torch_engine
from spanqa_build.warmup import warmup_from_examples
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.cuda_graphs import check_device
from spanqa_training.model import SpanModel

_Built = tuple[Engine, dict[int, Path], dict[str, Any]]
"""How Triton runs the networks, the file of each length, and what was measured."""
_SCANNED_WINDOWS = 120
TIMING_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spanqa" / "timing"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBuild:
    """A build for a GPU.

    Args:
        checkpoint: The model.
        model: Its weights.
        name: Its name, for people.
        target: The GPU.
        engine: One of plan.ENGINES.
        device: "cuda"; or "cpu", where torch builds and serves the same without a GPU.
        data: Dataset that the networks are checked on.
        timing_caches: Where TensorRT's timings are kept, by GPU and version.
        quiet: Whether to hide progress.

    Raises:
        BuildError: The engine is only for a GPU, and the device is none.
    """

    checkpoint: Checkpoint
    model: SpanModel
    name: str
    target: Target
    engine: str = "tensorrt"
    device: str = "cuda"
    data: Path = DEFAULT_DATA
    timing_caches: Path = TIMING_CACHES
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.device != "cuda" and self.engine != TORCH:
            raise BuildError(f"the engine {self.engine} runs on a GPU alone, not on {self.device}: give {TORCH}")

    def write(self, output: str | Path) -> Manifest:
        """Build and write a new version; an existing one goes on serving until all checks pass.

        Raises:
            BuildError: GPU or versions are not the target's, a check failed, or the repository cannot be written.
            TrainingError: Torch cannot run the network on the GPU.
        """
        check_output(output)
        gpu = self._checked_gpu() if self.device == "cuda" else None
        examples = questions_to_check(self.data)
        buckets = self.buckets()
        maker = WindowMaker(self.checkpoint.tokenizer(), self.checkpoint.windows)
        warmup = warmup_from_examples(maker, examples, buckets)
        self._say("asking torch")
        comparison = Comparison(self.checkpoint, examples, partial(run_torch, self.model.eval()), quiet=self.quiet)
        with tempfile.TemporaryDirectory() as scratch:
            lengths = [bucket.length for bucket in buckets]
            if gpu is None or self.engine == TORCH:
                engine, paths, facts = self._torch(Path(scratch), gpu, lengths, comparison)
            else:
                build = self._tensorrt if self.engine == "tensorrt" else self._onnxruntime
                engine, paths, facts = build(Path(scratch), gpu, lengths, comparison)
            networks = GpuNetworks(
                target=self.target.name,
                engine=engine,
                packing=self.packing(buckets),
                paths={bucket.model: paths[bucket.length] for bucket in buckets},
                warmup=warmup,
                precision=engine.dtype,
                facts=facts,
            )
            manifest = manifest_from_checkpoint(self.checkpoint, networks, name=self.name)
            write_repository(output, manifest, self.checkpoint, networks)
        return manifest

    def exported_float16(self, path: Path, comparison: Comparison) -> tuple[NetworkFacts, ActivationScan]:
        """Export the float16 network, float32 kept wherever windows of the comparison come near float16's range.

        Raises:
            BuildError: It cannot be held in float16, or TensorRT 10.4 would not read it.
        """
        self._say("exporting float16, scanning activations")
        batches = sampled_batches(comparison.windows, n_windows=_SCANNED_WINDOWS)
        return float16_network_from_windows(self.model, path, batches, layer_norm=self.target.layer_norm)

    def compared_float16(self, path: Path, comparison: Comparison) -> list[Stage]:
        """Hold the float16 network, and what a GPU makes of it, against torch.

        A CPU computes float16 networks in float32, so that what overflows there is not seen: a twin in float32 whose
        every float16 result is rounded is held against torch as well.

        Raises:
            ParityError: One differs too much.
        """
        twin = path.with_name("twin.onnx")
        write_network(rounded_twin(onnx.load(path)), twin)
        stages = []
        for name, file, limits in (
            ("ONNX float16", path, FLOAT16),
            ("ONNX float16, rounded", twin, FLOAT16_ROUNDED),
        ):
            self._say(f"comparing {name} with torch")
            stages.append(comparison.of(name, partial(run_onnx, session_from_onnx(file)), limits=limits))
        return stages

    def _checked_gpu(self) -> GpuFacts:
        """Give the GPU that is there, once it and its libraries are known to be what the build needs."""
        tensorrt = tensorrt_version() if self.engine == "tensorrt" else None
        if self.engine == "onnxruntime":
            check_cuda_provider()
        gpu = gpu_facts()
        plan = plan_from(self.checkpoint, self.target, engine=self.engine)
        software = self.target.torch if self.engine == TORCH else None
        check_gpu(self.target, gpu, tensorrt, needed_bytes=plan.build_bytes, software=software)
        if self.engine == TORCH:
            check_device(torch.device("cuda", 0))
            check_same_gpu(gpu)
        return gpu

    def buckets(self) -> tuple[Bucket, ...]:
        """Give one bucket for each length of window that the target has an engine for."""
        longest, max_positions = self.checkpoint.windows.max_seq_length, self.checkpoint.encoder.max_positions
        return tuple(
            Bucket(length=length, model=f"encoder_{length}", max_rows=self.target.largest_batch)
            for length in self.target.lengths_up_to(longest, max_positions=max_positions)
        )

    def packing(self, buckets: tuple[Bucket, ...]) -> Packing:
        """Give how windows are grouped into calls of these buckets' encoders."""
        return Packing(
            rows_per_call=self.target.largest_batch,
            tokens_per_call=self.target.largest_batch * buckets[-1].length,
            calls_in_flight=len(buckets) * self.target.instances,
            buckets=buckets,
        )

    def _tensorrt(self, scratch: Path, gpu: GpuFacts, lengths: Sequence[int], comparison: Comparison) -> _Built:
        onnx = scratch / "network.onnx"
        float16, scan = self.exported_float16(onnx, comparison)
        stages = self.compared_float16(onnx, comparison)
        engines: dict[int, EngineFacts] = {}
        paths = {length: scratch / f"{length}.plan" for length in lengths}
        for length, output in paths.items():
            self._say(f"building the engine for {length} tokens")
            engines[length] = build_engine(onnx, self.target, length, output, gpu=gpu, timing_caches=self.timing_caches)
        self._say("comparing the engines with torch")
        with network_from_engines(paths, largest_batch=self.target.largest_batch) as network:
            served = comparison.of("engine", network, limits=FLOAT16_ROUNDED, rows_per_batch=self.target.largest_batch)
        facts = {
            **self._report([comparison.reference, *stages, served]),
            **facts_of_float16(float16, scan),
            "engines": [asdict(one) for one in engines.values()],
        }
        engine = Engine(
            platform=TENSORRT,
            graph_rows=self.target.graph_batches,
            instances=self.target.instances,
            gpu=Gpu(name=gpu.name, compute_capability=gpu.compute_capability),
            tensorrt=next(iter(engines.values())).tensorrt,
        )
        return engine, paths, facts

    def _onnxruntime(self, scratch: Path, gpu: GpuFacts, lengths: Sequence[int], comparison: Comparison) -> _Built:
        onnx = scratch / "model.onnx"
        self._say("exporting, fusing and converting to float16")
        batches = sampled_batches(comparison.windows, n_windows=_SCANNED_WINDOWS)
        fused_float16_from_model(self.model, onnx, batches)
        stage = comparison.of("ONNX Runtime, CUDA", cuda_network(onnx), limits=FLOAT16_ROUNDED)
        measured_on = {key: getattr(gpu, key) for key in ("name", "compute_capability", "driver")}
        facts = {**self._report([comparison.reference, stage]), "measured_on": measured_on}
        # Bound to no GPU: the network is compiled when it is loaded.
        engine = Engine(platform=ONNXRUNTIME, instances=self.target.instances)
        return engine, dict.fromkeys(lengths, onnx), facts

    def _torch(self, scratch: Path, gpu: GpuFacts | None, lengths: Sequence[int], comparison: Comparison) -> _Built:
        self._say("writing the network, and comparing it with torch in float32")
        batches = sampled_batches(comparison.windows, n_windows=_SCANNED_WINDOWS)
        engine, path, stage, facts = torch_engine(
            self.model, scratch, self.target, lengths, comparison, batches, gpu=gpu
        )
        facts |= self._report([comparison.reference, stage])
        return engine, dict.fromkeys(lengths, path), facts

    def _report(self, stages: Sequence[Stage]) -> dict[str, Any]:
        if not self.quiet:
            print(table_from_stages(stages), file=sys.stderr)
        return {"checked_on": self.data.name, "stages": [asdict(stage) for stage in stages]}

    def _say(self, what: str) -> None:
        if not self.quiet:
            print(f"{what} ...", file=sys.stderr)


def facts_of_float16(network: NetworkFacts, scan: ActivationScan) -> dict[str, Any]:
    """Give what a manifest says of a float16 network and of its scan; all JSON values."""
    return {
        "layer_norm": network.layer_norm,
        "float32_tensors": list(network.float32_tensors),
        "largest_activation": max(scan.largest.values()),
        "n_scanned_windows": scan.n_windows,
    }
