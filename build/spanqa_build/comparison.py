"""One network after the other on the same real questions: torch, ONNX float32, ONNX float16, engine, server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spanqa.contract import QUESTION_ANSWERING
from spanqa.spans import Decoded, Span
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_build.cpu_gate import Paired
from spanqa_build.errors import ParityError
from spanqa_build.parity import Answers, Logits, Network, Parity, answers_from_logits, parity_of
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import gold_from_examples, score_predictions
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.evaluation import Evaluation, window_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a stage may be from the reference.

    Args:
        max_difference: Largest absolute difference of any logit.
        answers_changed: Largest share of questions that are answered differently.
        f1_loss: Most points of F1 that may be lost.
    """

    max_difference: float
    answers_changed: float = 0.0
    f1_loss: float = 0.5


FLOAT32 = Limits(max_difference=1e-3)
"""Rounding, not another network."""
FLOAT16 = Limits(max_difference=0.5, answers_changed=0.002, f1_loss=0.1)
"""float16 keeps 11 bits: logits of some tens move by some hundredths, and near ties change."""
FLOAT16_ROUNDED = Limits(max_difference=0.5, answers_changed=0.01, f1_loss=0.5)
"""The same where every product is really rounded, as on a GPU, and on a few hundred questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One network, held against the reference.

    Args:
        name: What it is.
        parity: Logits and answers; None for the reference itself.
        exact: Exact match in percent, at the model's threshold.
        f1: F1 in percent, at the model's threshold.
        forced_f1: F1 of the answerable questions in percent when every question is answered.
        exact_difference_95: Paired bootstrap interval of the difference to the reference's exact match, in points.
        f1_difference_95: The same of F1.
    """

    name: str
    parity: Parity | None
    exact: float
    f1: float
    forced_f1: float
    exact_difference_95: tuple[float, float] = (0.0, 0.0)
    f1_difference_95: tuple[float, float] = (0.0, 0.0)


class Comparison:
    """Asks networks the same questions as a reference.

    Args:
        checkpoint: Tokenizer, windows and decode settings of all of them.
        examples: The questions; at least one.
        reference: What is right: the checkpoint in torch, in float32.
        quiet: Whether to hide progress bars.
    """

    def __init__(
        self, checkpoint: Checkpoint, examples: Sequence[Example], reference: Network, *, quiet: bool = True
    ) -> None:
        self._checkpoint, self._examples, self._quiet = checkpoint, examples, quiet
        maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
        self.windows = maker.windows_of_many([(example.question, example.context) for example in examples])
        self._gold = gold_from_examples(examples)
        self._right = self._answers(reference, None)
        self._right_scores = self._scores(self._right)
        self._differences: dict[str, tuple[list[float], list[float]]] = {}
        self.reference = self._stage("torch float32", self._right, None)

    def of(
        self, name: str, network: Network, *, limits: Limits | None = None, rows_per_batch: int | None = None
    ) -> Stage:
        """Hold a network against the reference.

        Args:
            name: What it is.
            network: The network.
            limits: How far it may be; None measures only.
            rows_per_batch: Most windows in a batch.

        Raises:
            ParityError: It is further.
        """
        built = self._answers(network, rows_per_batch)
        stage = self._stage(name, built, parity_of(self._right, built, self._checkpoint))
        if limits:
            self.check(stage, limits)
        return stage

    def paired(self, stage: Stage) -> Paired:
        """Give what a stage that was measured here answers differently, question by question."""
        exact, f1 = self._differences[stage.name]
        logit_error = stage.parity.logit_error if stage.parity else 0.0
        return Paired(questions=self._gold, exact=exact, f1=f1, logit_error=logit_error)

    def of_server(self, name: str, url: str, *, model_name: str = QUESTION_ANSWERING) -> Stage:
        """Ask a running server the same questions, and measure what it answers against the reference.

        Logits are then those of the best spans, and their margins: a server tells no others.

        Args:
            name: What it is.
            url: Its gRPC address.
            model_name: The entry that is asked.

        Raises:
            SpanqaError: It does not answer.
        """
        pairs = [(example.question, example.context) for example in self._examples]
        with QAClient(url, model_name=model_name) as client:
            served = client.ask_many(
                pairs,
                no_answer_threshold=self._checkpoint.no_answer_threshold,
                max_answer_tokens=self._checkpoint.max_answer_tokens,
            )
            decoded = [_decoded_from_answer(answer) for answer in served]
        logits = [_logits_of_best(one) for one in decoded]
        right = Answers(
            windows=self.windows,
            logits=[_logits_of_best(one) for one in self._right.decoded],
            decoded=self._right.decoded,
        )
        built = Answers(windows=self.windows, logits=logits, decoded=decoded)
        return self._stage(name, built, parity_of(right, built, self._checkpoint))

    def check(
        self, stage: Stage, limits: Limits, *, remedy: str = "nothing is written, the old artefact stays"
    ) -> None:
        """Refuse a stage that is too far from the reference.

        Args:
            stage: What `of` or `of_server` measured.
            limits: How far it may be.
            remedy: What follows, for the message.

        Raises:
            ParityError: It is further.
        """
        parity = stage.parity
        if parity is None:
            return
        loss = self.reference.f1 - stage.f1
        # Of few questions a share would be none: one near tie may fall the other way.
        allowed = max(1, int(limits.answers_changed * parity.n_questions)) if limits.answers_changed else 0
        for problem, wrong in (
            (f"logits differ by up to {parity.max_difference:.3g}, at most {limits.max_difference:g} are allowed",
             not parity.max_difference <= limits.max_difference),
            (f"{parity.answers_changed} of {parity.n_questions} answers changed, at most "
             f"{allowed} are allowed",
             parity.answers_changed > allowed),
            (f"F1 falls by {loss:.2f} points, at most {limits.f1_loss:g} are allowed", loss > limits.f1_loss),
        ):  # fmt: skip
            if wrong:
                raise ParityError(f"{stage.name} against torch: {problem}: {remedy}")

    def _answers(self, network: Network, rows_per_batch: int | None) -> Answers:
        logits = window_logits(network, self.windows, quiet=self._quiet, rows_per_batch=rows_per_batch)
        contexts = [example.context for example in self._examples]
        return answers_from_logits(self._checkpoint, self.windows, contexts, logits)

    def _scores(self, answers: Answers) -> tuple[Sequence[float], Sequence[float]]:
        """Exact match and F1 of each question at the model's threshold."""
        evaluation = Evaluation(examples=self._examples, decoded=answers.decoded)
        report = score_predictions(self._gold, evaluation.predictions(self._checkpoint.no_answer_threshold))
        return report.exact, report.f1

    def _stage(self, name: str, answers: Answers, parity: Parity | None) -> Stage:
        evaluation = Evaluation(examples=self._examples, decoded=answers.decoded)
        scores = evaluation.scores(self._checkpoint.no_answer_threshold)
        forced: Mapping[str, float] = evaluation.forced_scores()
        exact, f1 = self._scores(answers)
        exact_change, f1_change = (
            [after - before for before, after in zip(right, built, strict=True)]
            for right, built in zip(self._right_scores, (exact, f1), strict=True)
        )
        self._differences[name] = exact_change, f1_change
        # Paired: paragraphs are drawn once for both networks, so only what they answer differently widens it.
        intervals = bootstrap_intervals(self._gold, exact_change, f1_change)
        return Stage(
            name=name,
            parity=parity,
            exact=scores["exact"],
            f1=scores["f1"],
            forced_f1=float(forced.get("f1", 0.0)),
            exact_difference_95=intervals["exact"],
            f1_difference_95=intervals["f1"],
        )


def _decoded_from_answer(answer: Answer) -> Decoded:
    best = answer.spans[0]
    span = Span(text=best.text, char_start=best.char_start, char_end=best.char_end, logit=best.logit, score=best.score)
    return Decoded(
        spans=(span,),
        null_logit=answer.no_answer_margin + best.logit,
        no_answer_score=answer.no_answer_score or 0.0,
    )


def _logits_of_best(decoded: Decoded) -> Logits:
    """The best span's logit and the null's, in the shape of logits: one window of one place."""
    best, null = (np.array([[value]], dtype=np.float32) for value in (decoded.spans[0].logit, decoded.null_logit))
    return best, null


def table_from_stages(stages: Sequence[Stage]) -> str:
    """Lay stages out as a table to read."""
    rows = [("", "EM", "F1", "F1 difference, 95 %", "logits, max", "p99 of windows", "answers changed")]
    for stage in stages:
        parity, low_high = stage.parity, stage.f1_difference_95
        rows.append(
            (
                stage.name,
                f"{stage.exact:.2f}",
                f"{stage.f1:.2f}",
                f"[{low_high[0]:+.2f}, {low_high[1]:+.2f}]" if parity else "",
                f"{parity.max_difference:.2g}" if parity else "",
                f"{parity.window_quantiles[-1]:.2g}" if parity else "",
                f"{parity.answers_changed:,} of {parity.n_questions:,}" if parity else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
