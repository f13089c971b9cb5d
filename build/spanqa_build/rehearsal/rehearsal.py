"""The rehearsal of a GPU build: every step as the build does it, and TensorRT's with TensorRT for RTX."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from spanqa.manifest import Engine, Gpu
from spanqa.packing import Bucket
from spanqa.windows import WindowMaker
from spanqa_build.comparison import Comparison, Stage
from spanqa_build.configs import TENSORRT
from spanqa_build.float16_export import NetworkFacts
from spanqa_build.gpu_build import GpuBuild, facts_of_float16
from spanqa_build.network_file import skeleton_of
from spanqa_build.parity import run_torch
from spanqa_build.questions import questions_to_check
from spanqa_build.rehearsal.engines import Parsed, RehearsedEngine, rehearsed_engines, rtx_version
from spanqa_build.rehearsal.layers import CAST, FLOAT16, PRODUCT, check_precisions, count_layers
from spanqa_build.repository import GpuNetworks, check_output, manifest_from_checkpoint, write_repository
from spanqa_build.trt_operators import check_operators
from spanqa_build.warmup import warmup_from_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a rehearsal that went well.

    Args:
        name: What was done.
        seconds: What it took.
        size_bytes: Of what it made; None where it made nothing.
        found: What it showed.
    """

    name: str
    seconds: float
    size_bytes: int | None
    found: str


@dataclass(slots=True, kw_only=True)
class Rehearsed:
    """What a rehearsal showed.

    Args:
        target: The target's name.
        builder: What stood in for TensorRT, with its version.
        steps: What was done, in order.
        stages: The networks held against torch.
        layers: Layers of the network that TensorRT read, by role and precision.
        engines: What was built, a bucket each.
        peak_bytes: Most memory of the process that parsed and built.
    """

    target: str
    builder: str
    steps: list[Step] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    layers: dict[str, dict[str, int]] = field(default_factory=dict)
    engines: list[RehearsedEngine] = field(default_factory=list)
    peak_bytes: int = 0


class Rehearsal:
    """One rehearsal.

    Args:
        build: The build that is rehearsed.
        on_step: Told of each step as it is done.
    """

    def __init__(self, build: GpuBuild, on_step: Callable[[Step], None] = lambda _step: None) -> None:
        self._build, self._on_step = build, on_step
        self._report = Rehearsed(target=build.target.name, builder=f"TensorRT for RTX {rtx_version()}")
        self._since = time.monotonic()

    def run(self, output: str | Path | None = None) -> Rehearsed:
        """Rehearse the build.

        Args:
            output: Where the repository goes, marked as rehearsed; None leaves nothing behind.

        Raises:
            BuildError: A step fails; nothing is written.
        """
        build = self._build
        if output is not None:
            check_output(output, rehearsed=True)
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            examples = questions_to_check(build.data)
            buckets = build.buckets()
            warmup = warmup_from_examples(
                WindowMaker(build.checkpoint.tokenizer(), build.checkpoint.windows), examples, buckets
            )
            comparison = Comparison(build.checkpoint, examples, partial(run_torch, build.model.eval()), quiet=True)
            self._done("torch", f"answers {len(examples):,} questions, the reference")
            network = scratch / "network.onnx"
            float16, scan = build.exported_float16(network, comparison)
            self._done("export", _export_found(float16, max(scan.largest.values()), scan.n_windows), float16.n_bytes)
            self._parity(network, comparison)
            check_operators(skeleton_of(onnx.load(network)))
            self._done("operators", f"all {float16.n_nodes:,} nodes are in the table of TensorRT 10.4's parser")
            paths = self._engines(network, float16, buckets, scratch)
            networks = GpuNetworks(
                target=build.target.name,
                engine=self._engine(),
                packing=build.packing(buckets),
                paths=paths,
                warmup=warmup,
                precision="float16",
                facts={
                    "checked_on": build.data.name,
                    "stages": [asdict(stage) for stage in self._report.stages],
                    **facts_of_float16(float16, scan),
                    "layers": self._report.layers,
                    "engines": [self._engine_facts(engine) for engine in self._report.engines],
                },
            )
            self._repository(networks, Path(output) if output is not None else scratch / "repository", output is None)
        return self._report

    def _parity(self, network: Path, comparison: Comparison) -> None:
        stages = self._build.compared_float16(network, comparison)
        self._report.stages = [comparison.reference, *stages]
        told = []
        for stage in stages:
            if stage.parity:
                changed, n = stage.parity.answers_changed, stage.parity.n_questions
                told.append(
                    f"{stage.name}: {changed} of {n:,} answers changed, logits within {stage.parity.max_difference:.2g}"
                )
        self._done("parity", "; ".join(told))

    def _engines(
        self, network: Path, float16: NetworkFacts, buckets: tuple[Bucket, ...], scratch: Path
    ) -> dict[str, Path]:
        """Have the network parsed and an engine built a bucket; give their files by the encoder's name."""
        models = {bucket.length: bucket.model for bucket in buckets}
        outputs = {length: scratch / f"{model}.plan" for length, model in models.items()}
        for said in rehearsed_engines(network, self._build.target, outputs):
            self._report.peak_bytes = said.peak_bytes
            if isinstance(said, Parsed):
                check_precisions(said.layers, float16.meant)
                self._report.layers = count_layers(said.layers)
                self._done("parse", _parse_found(self._report.layers, len(said.layers)))
            else:
                self._report.engines.append(said)
                self._done(models[said.length], self._engine_found(said), said.size_bytes)
        return {models[length]: path for length, path in outputs.items()}

    def _engine_facts(self, engine: RehearsedEngine) -> dict[str, Any]:
        """What a manifest says of an engine, as far as it is known without running it."""
        target = self._build.target
        return {**asdict(engine), "largest_batch": target.largest_batch, "optimal_batch": target.optimal_batch}

    def _engine_found(self, engine: RehearsedEngine) -> str:
        target = self._build.target
        return (
            f"engine for 1 to {target.largest_batch} windows of {engine.length} tokens,"
            f" best at {target.optimal_batch}; peak memory {engine.peak_bytes / (1 << 30):.1f} GiB"
        )

    def _engine(self) -> Engine:
        """How Triton would run the engines; the mark keeps it from running these."""
        target = self._build.target
        return Engine(
            platform=TENSORRT,
            graph_rows=target.graph_batches,
            instances=target.instances,
            gpu=Gpu(name=target.description, compute_capability=target.compute_capabilities[0]),
            rehearsed=self._report.builder,
        )

    def _repository(self, networks: GpuNetworks, folder: Path, is_scratch: bool) -> None:
        build = self._build
        manifest = manifest_from_checkpoint(build.checkpoint, networks, name=build.name)
        version = write_repository(folder, manifest, build.checkpoint, networks)
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        where = "complete; give -o to keep it" if is_scratch else f"version {version} of {folder}"
        self._done("repository", f"{where}, marked as rehearsed", n_bytes)

    def _done(self, name: str, found: str, size_bytes: int | None = None) -> None:
        now = time.monotonic()
        step = Step(name=name, seconds=now - self._since, size_bytes=size_bytes, found=found)
        self._since = now
        self._report.steps.append(step)
        self._on_step(step)


def _export_found(float16: NetworkFacts, largest: float, n_windows: int) -> str:
    kept = f"{len(float16.float32_tensors)} activations kept in float32" if float16.float32_tensors else "all fit"
    norms = "layer norms from primitives" if float16.layer_norm == "primitives" else "LayerNormalization"
    return f"float16, {norms}; activations up to {largest:,.0f} in {n_windows} windows, {kept}"


def _parse_found(layers: dict[str, dict[str, int]], n_layers: int) -> str:
    products = layers.get(PRODUCT, {})
    casts = sum(layers.get(CAST, {}).values())
    return (
        f"{n_layers:,} layers; {products.get(FLOAT16, 0)} of {sum(products.values())} products in float16,"
        f" every norm and softmax in float32, {casts} casts"
    )
