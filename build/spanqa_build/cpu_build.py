"""From a model to a repository for CPUs: export, hold every variant against torch, time them, serve the fastest."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from spanqa.manifest import Manifest
from spanqa.squad import Example
from spanqa_build.comparison import FLOAT32, INT8, Comparison, Limits, Stage
from spanqa_build.cpu import CpuNetworks, cpu_networks_from_model
from spanqa_build.cpu_speed import sampled_batches, windows_per_s
from spanqa_build.errors import ParityError
from spanqa_build.parity import Parity, compare, run_onnx, run_torch, session_from_onnx
from spanqa_build.questions import DEFAULT_DATA, questions_to_check
from spanqa_build.repository import Network, check_output, manifest_from_checkpoint, write_repository
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import SpanModel

MAX_LOGIT_DIFFERENCE = FLOAT32.max_difference
PARITY_QUESTIONS = 200
PRECISIONS = ("auto", "float32", "int8")
_LIMITS: dict[str, Limits] = {"plain": FLOAT32, "float32": FLOAT32, "int8": INT8}
"""How far each variant may be from torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuBuild:
    """A build for CPUs.

    Args:
        checkpoint: The model.
        model: Its weights.
        name: Its name, for people.
        data: Dataset that the networks are checked on.
        precision: One of PRECISIONS; auto serves the fastest variant that passes its checks.
        quiet: Whether to hide progress.
    """

    checkpoint: Checkpoint
    model: SpanModel
    name: str
    data: Path = DEFAULT_DATA
    precision: str = "auto"
    quiet: bool = False

    def write(self, output: str | Path) -> Manifest:
        """Build and write; an existing repository is replaced only when all checks pass.

        Raises:
            BuildError: A check failed, or the repository cannot be written.
        """
        check_output(output)
        examples = questions_to_check(self.data)
        with tempfile.TemporaryDirectory() as scratch:
            self._say("exporting")
            networks = cpu_networks_from_model(self.model, scratch)
            network = self._chosen(networks, examples)
            manifest = manifest_from_checkpoint(self.checkpoint, network, name=self.name)
            write_repository(output, manifest, self.checkpoint, network)
        return manifest

    def _say(self, what: str) -> None:
        if not self.quiet:
            print(f"{what} ...", file=sys.stderr)

    def _chosen(self, networks: CpuNetworks, examples: Sequence[Example]) -> Network:
        """The network to serve, with what speaks for it."""
        self._say(f"asking torch {len(examples):,} questions")
        comparison = Comparison(self.checkpoint, examples, partial(run_torch, self.model.eval()), quiet=self.quiet)
        paths = {"plain": networks.plain, "float32": networks.float32, "int8": networks.int8}
        if self.precision != "auto":
            paths = {self.precision: paths[self.precision]}
        stages = self._passing(paths, comparison)
        self._say("timing what passed")
        passing = {name: paths[name] for name in stages}
        speeds = windows_per_s(passing, sampled_batches(comparison.windows))
        fastest = max(speeds, key=lambda name: speeds[name])
        facts: dict[str, Any] = {
            "onnxruntime": onnxruntime.__version__,
            "checked_on": self.data.name,
            "stages": [asdict(stage) for stage in (comparison.reference, *stages.values())],
            "windows_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
            "variant": fastest,
        }
        return Network(path=paths[fastest], precision="int8" if fastest == "int8" else "float32", facts=facts)

    def _passing(self, paths: dict[str, Path], comparison: Comparison) -> dict[str, Stage]:
        """The variants that pass; float32 must, int8 only where it is asked for by name."""
        stages = {}
        for name, path in paths.items():
            self._say(f"comparing {name} with torch")
            stage = comparison.of(name, partial(run_onnx, session_from_onnx(path)), rows_per_batch=1)
            if name != "int8" or self.precision == "int8":
                comparison.check(stage, _LIMITS[name])
            else:
                try:
                    comparison.check(stage, _LIMITS[name], remedy="float32 is taken")
                except ParityError as error:
                    print(error, file=sys.stderr)
                    continue
            stages[name] = stage
        return stages


def checked_parity(
    checkpoint: Checkpoint, model: SpanModel, network: Path, examples: Sequence[Example], *, quiet: bool
) -> Parity:
    """Hold a float32 ONNX against torch.

    Raises:
        ParityError: Its logits or answers are others.
    """
    parity = compare(
        partial(run_torch, model.eval()),
        partial(run_onnx, session_from_onnx(network)),
        checkpoint,
        [(example.question, example.context) for example in examples],
        quiet=quiet,
    )
    parity.require(max_difference=MAX_LOGIT_DIFFERENCE)
    return parity
