"""Which of a CPU's candidates may be served, and which of those is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from spanqa.cores import usable_cores
from spanqa_build.comparison import FLOAT32, Comparison, Stage
from spanqa_build.cpu_candidates import Candidate
from spanqa_build.cpu_gate import verdict_of
from spanqa_build.errors import BuildError, ParityError
from spanqa_build.parity import Network
from spanqa_build.questions import DEFAULT_DATA, questions_to_check
from spanqa_training.checkpoints.checkpoint import Checkpoint

FASTEST = "speed"
FAITHFUL = "accuracy"
PREFERENCES = (FASTEST, FAITHFUL)
ABOUT_AS_FAST = 0.9
"""Share of the fastest network's speed that FAITHFUL still takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate, held against torch.

    Args:
        passes: Whether it may be served.
        stage: What was measured on the user's questions; None where it could not be loaded.
        reason: What spoke for or against it; empty for a float32 network that is the checkpoint's.
    """

    passes: bool
    stage: Stage | None
    reason: str = ""

    @property
    def logit_error(self) -> float:
        """How far its logits are from float32, as a share of their spread."""
        return self.stage.parity.logit_error if self.stage and self.stage.parity else float("inf")


class Judge:
    """Holds candidates against torch: float32 by every logit, what rounds by `cpu_gate`.

    Where the questions are too few to tell, the bundled ones are asked too.

    Args:
        checkpoint: The model.
        reference: Its network in torch, in float32.
        comparison: Of the user's questions.
        is_bundled: Whether these are the bundled ones.
        say: Tells progress.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        reference: Network,
        comparison: Comparison,
        *,
        is_bundled: bool,
        say: Callable[[str], None],
    ) -> None:
        self._checkpoint, self._reference, self._comparison = checkpoint, reference, comparison
        self._is_bundled, self._say = is_bundled, say

    def judge(self, candidate: Candidate) -> Judged:
        """Judge one; what is left out, and why, is one line on stderr.

        Raises:
            ParityError: It is not the checkpoint's network, and the build needs it.
        """
        self._say(f"comparing {candidate.name} with torch")
        try:
            stage = _measured(self._comparison, candidate)
            if candidate.precision == "float32":
                self._comparison.check(stage, FLOAT32, remedy=_remedy(candidate))
                return Judged(passes=True, stage=stage)
        except ParityError as error:
            if candidate.is_needed:
                raise
            print(error, file=sys.stderr)
            return Judged(passes=False, stage=None, reason=str(error))
        return self._judge_rounding(candidate, stage)

    def _judge_rounding(self, candidate: Candidate, stage: Stage) -> Judged:
        paired = self._comparison.paired(stage)
        verdict = verdict_of(paired)
        if not verdict.is_told and not self._is_bundled:
            n_bundled = len(self._bundled.windows)
            print(
                f"{candidate.name} against torch: {verdict.reason}: the {n_bundled} bundled ones are asked too",
                file=sys.stderr,
            )
            bundled = _measured(self._bundled, candidate)
            verdict = verdict_of(paired.joined(self._bundled.paired(bundled)))
        reason = f"{candidate.name} against torch: {verdict.reason}"
        if not verdict.passes:
            reason = f"{reason}: {_remedy(candidate)}"
            if candidate.is_needed:
                raise ParityError(reason)
        elif not verdict.is_told:
            reason = f"{reason}: passes, as nothing speaks against it"
        if not verdict.passes or not verdict.is_told:
            print(reason, file=sys.stderr)
        return Judged(passes=verdict.passes, stage=stage, reason=reason)

    @cached_property
    def _bundled(self) -> Comparison:
        return Comparison(self._checkpoint, questions_to_check(DEFAULT_DATA), self._reference)


def preferred(speeds: Mapping[str, float], errors: Mapping[str, float], prefer: str) -> str:
    """Choose among the networks that pass.

    Args:
        speeds: Windows a second of each.
        errors: How far the logits of each are from float32.
        prefer: FASTEST, or FAITHFUL for the smallest error of those within a tenth of the fastest's speed.

    Raises:
        BuildError: None passes.
    """
    if not speeds:
        raise BuildError("no network answers as the checkpoint does: nothing is written, the old artefact stays")
    fastest = max(speeds, key=lambda name: speeds[name])
    if prefer == FASTEST:
        return fastest
    close = [name for name in speeds if speeds[name] >= ABOUT_AS_FAST * speeds[fastest]]
    return min(close, key=lambda name: (errors[name], -speeds[name]))


def _measured(comparison: Comparison, candidate: Candidate) -> Stage:
    return comparison.of(candidate.name, candidate.load(n_threads=usable_cores()).run, rows_per_batch=1)


def _remedy(candidate: Candidate) -> str:
    return "nothing is written, the old artefact stays" if candidate.is_needed else "it is left out"
