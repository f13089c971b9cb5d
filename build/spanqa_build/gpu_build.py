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

from spanqa.manifest import Engine, Gpu, Manifest
from spanqa.packing import Bucket, Packing
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_build.comparison import FLOAT16, FLOAT16_ROUNDED, Comparison, Stage, table_from_stages
from spanqa_build.configs import ONNXRUNTIME, TENSORRT
from spanqa_build.cpu_speed import sampled_batches
from spanqa_build.engine import EngineFacts, build_engine
from spanqa_build.engine_run import network_from_engines
from spanqa_build.float16_export import float16_network_from_windows
from spanqa_build.gpu import GpuFacts, check_gpu, gpu_facts, tensorrt_version
from spanqa_build.network_file import write_network
from spanqa_build.onnx_gpu import cuda_network, fused_float16_from_model
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_build.plan import plan_from
from spanqa_build.precision import rounded_twin
from spanqa_build.questions import DEFAULT_DATA, questions_to_check
from spanqa_build.repository import GpuNetworks, manifest_from_checkpoint, write_repository
from spanqa_build.targets import Target
from spanqa_build.warmup import warmup_from_examples
from spanqa_training.checkpoint import Checkpoint
from spanqa_training.model import SpanModel

ENGINES = ("tensorrt", "onnxruntime")
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
        engine: One of ENGINES.
        data: SQuAD file that the networks are checked on.
        timing_caches: Where TensorRT's timings are kept, by GPU and version.
        quiet: Whether to hide progress.
    """

    checkpoint: Checkpoint
    model: SpanModel
    name: str
    target: Target
    engine: str = "tensorrt"
    data: Path = DEFAULT_DATA
    timing_caches: Path = TIMING_CACHES
    quiet: bool = False

    def write(self, output: str | Path) -> Manifest:
        """Build and write a new version; an existing one goes on serving until all checks pass.

        Raises:
            BuildError: GPU or versions are not the target's, a check failed, or the repository cannot be written.
        """
        gpu = gpu_facts()
        plan = plan_from(self.checkpoint, self.target)
        if self.engine == "tensorrt":
            check_gpu(self.target, gpu, tensorrt_version(), needed_bytes=plan.build_bytes)
        examples = questions_to_check(self.data)
        self._say("asking torch")
        comparison = Comparison(self.checkpoint, examples, partial(run_torch, self.model.eval()), quiet=self.quiet)
        with tempfile.TemporaryDirectory() as scratch:
            build = self._tensorrt if self.engine == "tensorrt" else self._onnxruntime
            networks = build(Path(scratch), gpu, examples, comparison)
            manifest = manifest_from_checkpoint(self.checkpoint, networks, name=self.name)
            write_repository(output, manifest, self.checkpoint, networks)
        return manifest

    def float16_network(self, path: Path, comparison: Comparison) -> tuple[list[Stage], dict[str, Any]]:
        """Export the float16 network, scan it, and hold it against torch and TensorRT's operators; needs no GPU.

        A CPU computes float16 networks in float32, so that what overflows there is not seen: a twin in float32 whose
        every float16 result is rounded is held against torch as well.

        Raises:
            BuildError: It cannot be held in float16, or differs too much.
        """
        self._say("exporting float16, scanning activations")
        batches = sampled_batches(comparison.windows, n_windows=_SCANNED_WINDOWS)
        network, scan = float16_network_from_windows(self.model, path, batches, layer_norm=self.target.layer_norm)
        twin = path.with_name("twin.onnx")
        write_network(rounded_twin(onnx.load(path)), twin)
        stages = []
        for name, file, limits in (
            ("ONNX float16", path, FLOAT16),
            ("ONNX float16, rounded", twin, FLOAT16_ROUNDED),
        ):
            self._say(f"comparing {name} with torch")
            stages.append(comparison.of(name, partial(run_onnx, session_from_onnx(file)), limits=limits))
        facts = {
            "layer_norm": network.layer_norm,
            "float32_tensors": list(network.float32_tensors),
            "largest_activation": max(scan.largest.values()),
            "n_scanned_windows": scan.n_windows,
        }
        return stages, facts

    def _tensorrt(
        self, scratch: Path, gpu: GpuFacts, examples: Sequence[Example], comparison: Comparison
    ) -> GpuNetworks:
        onnx = scratch / "network.onnx"
        stages, scanned = self.float16_network(onnx, comparison)
        lengths = self.target.lengths_up_to(self.checkpoint.windows.max_seq_length)
        engines: dict[int, EngineFacts] = {}
        for length in lengths:
            self._say(f"building the engine for {length} tokens")
            output = scratch / f"{length}.plan"
            engines[length] = build_engine(onnx, self.target, length, output, gpu=gpu, timing_caches=self.timing_caches)
        paths = {length: scratch / f"{length}.plan" for length in lengths}
        self._say("comparing the engines with torch")
        with network_from_engines(paths, largest_batch=self.target.largest_batch) as network:
            served = comparison.of("engine", network, limits=FLOAT16_ROUNDED, rows_per_batch=self.target.largest_batch)
        facts = {
            **self._report([comparison.reference, *stages, served]),
            **scanned,
            "engines": [asdict(one) for one in engines.values()],
        }
        tensorrt = next(iter(engines.values())).tensorrt
        return self._networks(TENSORRT, lengths, paths, examples, facts, gpu=gpu, tensorrt=tensorrt)

    def _onnxruntime(
        self, scratch: Path, gpu: GpuFacts, examples: Sequence[Example], comparison: Comparison
    ) -> GpuNetworks:
        onnx = scratch / "model.onnx"
        self._say("exporting, fusing and converting to float16")
        batches = sampled_batches(comparison.windows, n_windows=_SCANNED_WINDOWS)
        fused_float16_from_model(self.model, onnx, batches)
        stage = comparison.of("ONNX Runtime, CUDA", cuda_network(onnx), limits=FLOAT16_ROUNDED)
        lengths = self.target.lengths_up_to(self.checkpoint.windows.max_seq_length)
        paths = dict.fromkeys(lengths, onnx)
        facts = {**self._report([comparison.reference, stage]), "measured_on": gpu.name}
        return self._networks(ONNXRUNTIME, lengths, paths, examples, facts)

    def _networks(
        self,
        platform: str,
        lengths: Sequence[int],
        paths: dict[int, Path],
        examples: Sequence[Example],
        facts: dict[str, Any],
        *,
        gpu: GpuFacts | None = None,
        tensorrt: str | None = None,
    ) -> GpuNetworks:
        target = self.target
        buckets = tuple(
            Bucket(length=length, model=f"encoder_{length}", max_rows=target.largest_batch) for length in lengths
        )
        maker = WindowMaker(self.checkpoint.tokenizer(), self.checkpoint.windows)
        return GpuNetworks(
            target=target.name,
            engine=Engine(
                platform=platform,
                graph_rows=target.graph_batches if platform == TENSORRT else (),
                instances=target.instances,
                gpu=Gpu(name=gpu.name, compute_capability=gpu.compute_capability) if gpu else None,
                tensorrt=tensorrt,
            ),
            packing=Packing(
                rows_per_call=target.largest_batch,
                tokens_per_call=target.largest_batch * lengths[-1],
                calls_in_flight=len(lengths) * target.instances,
                buckets=buckets,
            ),
            paths={bucket.model: paths[bucket.length] for bucket in buckets},
            warmup=warmup_from_examples(maker, examples, buckets),
            precision="float16",
            facts=facts,
        )

    def _report(self, stages: Sequence[Stage]) -> dict[str, Any]:
        if not self.quiet:
            print(table_from_stages(stages), file=sys.stderr)
        return {"checked_on": self.data.name, "stages": [asdict(stage) for stage in stages]}

    def _say(self, what: str) -> None:
        if not self.quiet:
            print(f"{what} ...", file=sys.stderr)
