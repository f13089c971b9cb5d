"""From a model to a repository for CPUs: export, hold every candidate against torch, time them, serve the fastest."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spanqa.manifest import Manifest
from spanqa.squad import Example
from spanqa_build.comparison import FLOAT32, Comparison
from spanqa_build.cpu import cpu_networks_from_model
from spanqa_build.cpu_candidates import AUTO, Candidate, candidates_from_networks, check_wanted, versions_of
from spanqa_build.cpu_choice import FASTEST, Judge, preferred
from spanqa_build.cpu_speed import sampled_batches, windows_per_s
from spanqa_build.parity import Parity, compare, run_onnx, run_torch, session_from_onnx
from spanqa_build.questions import DEFAULT_DATA, questions_to_check
from spanqa_build.repository import Network, check_output, manifest_from_checkpoint, write_repository
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import SpanModel

MAX_LOGIT_DIFFERENCE = FLOAT32.max_difference
PARITY_QUESTIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuBuild:
    """A build for CPUs.

    Args:
        checkpoint: The model.
        model: Its weights.
        name: Its name, for people.
        data: Dataset that the networks are checked on.
        engine: What runs the network: onnxruntime, openvino, or auto for both, OpenVINO where it is installed.
        precision: One of cpu_candidates.PRECISIONS; auto for all of them.
        prefer: Of those that pass, speed serves the fastest, accuracy the most faithful of about the same speed.
        quiet: Whether to hide progress.
    """

    checkpoint: Checkpoint
    model: SpanModel
    name: str
    data: Path = DEFAULT_DATA
    engine: str = AUTO
    precision: str = AUTO
    prefer: str = FASTEST
    quiet: bool = False

    def write(self, output: str | Path) -> Manifest:
        """Build and write; an existing repository is replaced only when all checks pass.

        Raises:
            BuildError: A check failed, or the repository cannot be written.
        """
        check_output(output)
        check_wanted(self.engine, self.precision)
        examples = questions_to_check(self.data)
        with tempfile.TemporaryDirectory() as scratch:
            self._say("exporting")
            networks = cpu_networks_from_model(self.model, scratch)
            candidates = candidates_from_networks(networks, Path(scratch), engine=self.engine, precision=self.precision)
            network = self._chosen(candidates, examples)
            manifest = manifest_from_checkpoint(self.checkpoint, network, name=self.name)
            write_repository(output, manifest, self.checkpoint, network)
        return manifest

    def _say(self, what: str) -> None:
        if not self.quiet:
            print(f"{what} ...", file=sys.stderr)

    def _chosen(self, candidates: Sequence[Candidate], examples: Sequence[Example]) -> Network:
        """The network to serve, with what speaks for it."""
        self._say(f"asking torch {len(examples):,} questions")
        reference = partial(run_torch, self.model.eval())
        comparison = Comparison(self.checkpoint, examples, reference, quiet=self.quiet)
        judge = Judge(self.checkpoint, reference, comparison, is_bundled=self.data == DEFAULT_DATA, say=self._say)
        judged = {candidate.name: judge.judge(candidate) for candidate in candidates}
        passing = {candidate.name: candidate for candidate in candidates if judged[candidate.name].passes}
        self._say("timing what passed")
        speeds = windows_per_s(passing, sampled_batches(comparison.windows))
        errors = {name: judged[name].logit_error for name in passing}
        chosen = passing[preferred(speeds, errors, self.prefer)]
        stages = [comparison.reference, *(one.stage for one in judged.values() if one.passes and one.stage)]
        facts: dict[str, Any] = {
            **versions_of(candidates),
            "engine": chosen.engine,
            "checked_on": self.data.name,
            "stages": [asdict(stage) for stage in stages],
            "verdicts": {name: one.reason for name, one in judged.items() if one.reason},
            "windows_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
            "prefer": self.prefer,
            "variant": chosen.name,
        }
        return Network(path=chosen.path, precision=chosen.precision, facts=facts)


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
