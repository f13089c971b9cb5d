"""From a model to a repository for CPUs: export, hold against torch, choose the precision, write."""

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
from spanqa.squad import Example, read_squad
from spanqa_build.accuracy import MAX_F1_LOSS, Accuracy, accuracy_of, network_from_onnx
from spanqa_build.cpu import CpuNetworks, cpu_networks_from_model
from spanqa_build.errors import BuildError, ParityError
from spanqa_build.parity import Parity, compare, run_onnx, run_torch, session_from_onnx
from spanqa_build.repository import Network, manifest_from_checkpoint, write_repository
from spanqa_training.checkpoint import Checkpoint
from spanqa_training.model import SpanModel

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "data" / "heldout200.json"
MAX_LOGIT_DIFFERENCE = 1e-3
"""Largest difference of a float32 network's logits from torch's: rounding, not another network."""
PARITY_QUESTIONS = 200
PRECISIONS = ("auto", "float32", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuBuild:
    """A build for CPUs.

    Args:
        checkpoint: The model.
        model: Its weights.
        name: Its name, for people.
        data: SQuAD file that the network is checked on.
        precision: One of PRECISIONS; auto takes int8 where F1 falls by at most MAX_F1_LOSS points.
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
        examples = examples_to_check(self.data)
        with tempfile.TemporaryDirectory() as scratch:
            self._say("exporting")
            networks = cpu_networks_from_model(self.model, scratch)
            self._say("comparing float32 with torch")
            parity = checked_parity(
                self.checkpoint, self.model, networks.float32, examples[:PARITY_QUESTIONS], quiet=self.quiet
            )
            network = self._chosen(networks, examples, parity)
            manifest = manifest_from_checkpoint(self.checkpoint, network, name=self.name)
            write_repository(output, manifest, self.checkpoint, network)
        return manifest

    def _say(self, what: str) -> None:
        if not self.quiet:
            print(f"{what} ...", file=sys.stderr)

    def _chosen(self, networks: CpuNetworks, examples: Sequence[Example], parity: Parity) -> Network:
        """The network to serve, with the scores that speak for it."""
        facts: dict[str, Any] = {
            "onnxruntime": onnxruntime.__version__,
            "checked_on": self.data.name,
            "float32_parity": asdict(parity),
        }
        if self.precision == "float32":
            return Network(path=networks.float32, precision="float32", facts=facts)
        scores: dict[str, Accuracy] = {}
        for precision, path in (("float32", networks.float32), ("int8", networks.int8)):
            self._say(f"scoring {precision} on {len(examples):,} questions")
            scores[precision] = accuracy_of(network_from_onnx(path), self.checkpoint, examples, quiet=self.quiet)
        facts["accuracy"] = {precision: asdict(accuracy) for precision, accuracy in scores.items()}
        loss = scores["float32"].f1 - scores["int8"].f1
        if loss <= MAX_F1_LOSS:
            return Network(path=networks.int8, precision="int8", facts=facts)
        problem = f"int8 loses {loss:.2f} F1 points on {self.data.name}, at most {MAX_F1_LOSS} are allowed"
        if self.precision == "int8":
            raise ParityError(f"{problem}: use --precision float32, or more questions with --data")
        print(f"{problem}: float32 is taken", file=sys.stderr)
        return Network(path=networks.float32, precision="float32", facts=facts)


def examples_to_check(data: Path) -> list[Example]:
    """Read the questions that a network is checked on.

    Raises:
        BuildError: There are none.
    """
    if not data.is_file():
        raise BuildError(f"{data}: no questions to check the network on: give a SQuAD file with --data")
    return read_squad(data)


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
