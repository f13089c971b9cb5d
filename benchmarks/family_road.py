"""A small trained model's way to a served answer, for `family_stages.py`: every stage is asked the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spanqa import contract
from spanqa.cpu_network import load_network
from spanqa.spans import Decoded, decode
from spanqa.squad import Example
from spanqa.windows import Batch
from spanqa_build.comparison import FLOAT16, FLOAT16_ROUNDED, FLOAT32, Comparison, Limits, Stage
from spanqa_build.cpu import CpuNetworks, cpu_networks_from_model
from spanqa_build.cpu_gate import verdict_of
from spanqa_build.cpu_speed import sampled_batches
from spanqa_build.errors import ParityError
from spanqa_build.float16_export import float16_network_from_windows
from spanqa_build.network_file import write_network
from spanqa_build.parity import Logits, Network, run_torch
from spanqa_build.precision import rounded_twin
from spanqa_build.repository import Network as ServedNetwork
from spanqa_build.repository import manifest_from_checkpoint, write_repository
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.evaluation import window_logits
from spanqa_training.model import SpanModel

ENTRIES = (contract.QUESTION_ANSWERING, contract.ENSEMBLE)
N_BEST = 64
"""Spans among which another answer is looked for."""
N_SCANNED = 120
"""Windows of the activation scan, as in a build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A stage, and what is said of it.

    Args:
        stage: What was measured.
        against: What it was held against.
        passes: Whether it is within its limits.
        verdict: What speaks for or against it.
        leads: Of each answer that changed, by how many logits torch prefers its own; not for servers.
    """

    stage: Stage
    against: str
    passes: bool
    verdict: str
    leads: Sequence[float] = ()

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        stage, parity = self.stage, self.stage.parity
        return {
            "stage": stage.name,
            "against": self.against,
            "answers_changed": parity.answers_changed if parity else 0,
            "spans_changed": parity.spans_changed if parity else 0,
            "logits": parity.max_difference if parity else 0.0,
            "logit_error": parity.logit_error if parity else 0.0,
            "f1": stage.f1,
            "passes": self.passes,
            "verdict": self.verdict,
            "leads": sorted(self.leads),
        }


def held_to(comparison: Comparison, stage: Stage, limits: Limits, *, against: str = "torch float32") -> Held:
    """Hold a stage to limits."""
    try:
        comparison.check(stage, limits, remedy="it fails")
    except ParityError as error:
        return Held(stage=stage, against=against, passes=False, verdict=str(error))
    return Held(stage=stage, against=against, passes=True, verdict="within its limits")


def held_to_gate(comparison: Comparison, stage: Stage) -> Held:
    """Hold a stage that rounds to the gate of a build."""
    verdict = verdict_of(comparison.paired(stage))
    return Held(stage=stage, against="torch float32", passes=verdict.passes, verdict=verdict.reason)


class Road:
    """One trained model, and every stage of its way to a served answer.

    Args:
        checkpoint: The model.
        model: Its weights.
        examples: The questions.
        folder: For what is built.
        quiet: Whether to hide progress.
    """

    def __init__(
        self, checkpoint: Checkpoint, model: SpanModel, examples: Sequence[Example], folder: Path, *, quiet: bool
    ) -> None:
        self.checkpoint, self.model, self.examples = checkpoint, model.eval(), examples
        self._folder, self._quiet = folder, quiet
        self._comparison = self._comparison_with(partial(run_torch, self.model))
        self.reference = self._comparison.reference

    def stages(self) -> Iterator[Held]:
        """Build and ask one stage after the other."""
        networks = cpu_networks_from_model(self.model, self._folder / "networks")
        float32, int8 = (load_network(path, n_threads=1).run for path in (networks.float32, networks.int8))
        yield self._held("ONNX float32, fused", float32, FLOAT32)
        held = held_to_gate(self._comparison, self._comparison.of("ONNX int8", int8, rows_per_batch=1))
        yield replace(held, leads=self._leads(held.stage, int8))
        yield from self._float16()
        yield from self._served_float32(networks)
        yield from self._served_int8(networks, int8)

    def said(self) -> dict[str, int]:
        """Count what torch says: questions that it answers, and distinct texts of best spans."""
        answered = [one for one in self._right if one.has_answer(self.checkpoint.no_answer_threshold)]
        return {"answered": len(answered), "texts": len({one.spans[0].text for one in self._right})}

    @cached_property
    def _right(self) -> list[Decoded]:
        return self._decoded(partial(run_torch, self.model), n_best=N_BEST)

    def _decoded(self, network: Network, *, n_best: int = 1) -> list[Decoded]:
        windows = self._comparison.windows
        logits = window_logits(network, windows, rows_per_batch=1)
        settings = {name: getattr(self.checkpoint, name) for name in ("max_answer_tokens", "word_boundaries")}
        rows = zip(windows, self.examples, logits, strict=True)
        return [decode(one, example.context, *pair, n_best=n_best, **settings) for one, example, pair in rows]

    def _leads(self, stage: Stage, network: Network) -> list[float]:
        """By how much torch prefers its own answers, where a network gives others."""
        if not stage.parity or not stage.parity.answers_changed:
            return []
        threshold = self.checkpoint.no_answer_threshold
        pairs = zip(self._right, self._decoded(network), strict=True)
        return [lead for right, other in pairs if (lead := lead_of(right, other, threshold)) is not None]

    def _comparison_with(self, reference: Network) -> Comparison:
        return Comparison(self.checkpoint, self.examples, reference, quiet=self._quiet)

    def _held(self, name: str, network: Network, limits: Limits) -> Held:
        held = held_to(self._comparison, self._comparison.of(name, network, rows_per_batch=1), limits)
        return replace(held, leads=self._leads(held.stage, network))

    def _float16(self) -> Iterator[Held]:
        path, twin = self._folder / "float16.onnx", self._folder / "float16-rounded.onnx"
        batches = sampled_batches(self._comparison.windows, n_windows=N_SCANNED)
        float16_network_from_windows(self.model, path, batches)
        write_network(rounded_twin(onnx.load(path)), twin)
        for name, file, limits in (
            ("ONNX float16", path, FLOAT16),
            ("ONNX float16, rounded", twin, FLOAT16_ROUNDED),
        ):
            yield self._held(name, load_network(file, n_threads=1).run, limits)

    def _served_float32(self, networks: CpuNetworks) -> Iterator[Held]:
        with Server(self._repository(networks.float32, "float32")) as server:
            for entry in ENTRIES:
                stage = self._comparison.of_server(f"served float32, {entry}", server.url, model_name=entry)
                yield held_to(self._comparison, stage, FLOAT32)

    def _served_int8(self, networks: CpuNetworks, int8: Network) -> Iterator[Held]:
        """Held to int8's gate against torch, and to float32's limits against the very network that is served."""
        own = Comparison(self.checkpoint, self.examples, row_by_row(int8), quiet=self._quiet)
        with Server(self._repository(networks.int8, "int8")) as server:
            for entry in ENTRIES:
                name = f"served int8, {entry}"
                yield held_to_gate(self._comparison, self._comparison.of_server(name, server.url, model_name=entry))
                stage = own.of_server(name, server.url, model_name=entry)
                yield held_to(own, stage, FLOAT32, against="ONNX int8")

    def _repository(self, path: Path, precision: str) -> Path:
        network = ServedNetwork(path=path, precision=precision, facts={})
        folder = self._folder / f"repository-{precision}"
        manifest = manifest_from_checkpoint(self.checkpoint, network, name=self.checkpoint.encoder.family)
        write_repository(folder, manifest, self.checkpoint, network)
        return folder


def row_by_row(network: Network) -> Network:
    """Run each row alone and without its padding, as a server does."""

    def run(batch: Batch) -> Logits:
        start, end = (np.zeros(batch.input_ids.shape, dtype=np.float32) for _ in range(2))
        for row, length in enumerate(batch.attention_mask.sum(axis=1).tolist()):
            place = slice(row, row + 1), slice(length)
            alone = Batch(
                input_ids=batch.input_ids[place],
                attention_mask=batch.attention_mask[place],
                token_type_ids=batch.token_type_ids[place],
            )
            start[place], end[place] = network(alone)
        return start, end

    return run


def lead_of(right: Decoded, other: Decoded, threshold: float) -> float | None:
    """How far the answer of the one is above the other's by the logits of the one; None where they are the same.

    Where the other's is none of the one's best spans, it is further off than the last of them, which is given.
    """
    scores = {(span.char_start, span.char_end): span.logit for span in right.spans}

    def answer(decoded: Decoded) -> tuple[int, int] | None:
        best = decoded.spans[0]
        return (best.char_start, best.char_end) if decoded.has_answer(threshold) else None

    def score(place: tuple[int, int] | None) -> float:
        return right.null_logit - threshold if place is None else scores.get(place, right.spans[-1].logit)

    return None if answer(right) == answer(other) else score(answer(right)) - score(answer(other))
