"""A report: everything that one run over a dataset shows, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.squad import Example
from spanqa_client.gold import GoldQuestion, gold_from_examples
from spanqa_client.metrics import Report as Scores
from spanqa_client.metrics import raw_scores, score_predictions, tuned_from_margins
from spanqa_client.reports.breakdown import Field, fields_from_outcomes
from spanqa_client.reports.calibration import Calibration, FittedScale, calibration_from_scores
from spanqa_client.reports.comparison import Comparison, comparison_from_outcomes
from spanqa_client.reports.official import scores_from_run
from spanqa_client.reports.outcomes import Outcome, outcomes_from_scores
from spanqa_client.reports.resampling import Interval, ParagraphDraws, share_intervals
from spanqa_client.reports.runs import Run
from spanqa_client.reports.selection import Selection, selection_from_margins
from spanqa_client.reports.sweep import Sweep, sweep_from_margins

OWN, ZERO, BEST, FORCED = "the model's own threshold", "threshold 0", "the best threshold", "always answering"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The official scores of one way to set the threshold.

    Args:
        name: OWN, ZERO, BEST or FORCED.
        threshold: The threshold; None where it is not known, or there is none.
        scores: The official numbers under their official keys.
        intervals: 95 % bootstrap intervals of the percentages, under the same keys.
    """

    name: str
    threshold: float | None
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What a report tells.

    Args:
        run: The run.
        rows: The scores at each threshold; the first is the run's own.
        warnings: What the run lacks, in sentences.
        outcomes: What became of each question, at the run's own threshold.
        fields: The scores by what questions differ by.
        sweep: Scores over thresholds; None where there are no margins.
        selection: Error rates over coverage; None where there are no margins.
        calibrations: Reliability of the scores; none where there are none.
        fitted: The scale of the scores that was fitted; None where none was.
        comparison: The other run; None without one.
        n_paragraphs: Paragraphs that were drawn from.
        n_resamples: Draws.
    """

    run: Run
    rows: Sequence[Row]
    warnings: Sequence[str]
    outcomes: Sequence[Outcome]
    fields: Sequence[Field]
    sweep: Sweep | None
    selection: Selection | None
    calibrations: Sequence[Calibration]
    fitted: FittedScale | None
    comparison: Comparison | None
    n_paragraphs: int
    n_resamples: int


def report_from_run(
    run: Run,
    examples: Sequence[Example],
    *,
    against: Run | None = None,
    columns: Mapping[str, Mapping[str, str]] | None = None,
    fitted: FittedScale | None = None,
) -> EvaluationReport:
    """Evaluate a run.

    Args:
        run: What the model said.
        examples: The questions, in order.
        against: Another run over the same questions, to compare with.
        columns: A user's own columns: by name, value by question id.
        fitted: A scale of the scores, fitted on the questions.

    Raises:
        DataError: There is no question, or the other run is over other ones.
    """
    questions = gold_from_examples(examples)
    own = scores_from_run(run, questions)
    draws = ParagraphDraws([question.paragraph for question in questions])
    outcomes = outcomes_from_scores(run, examples, own.exact, own.f1)
    raw = raw_scores(questions, run.best_texts())
    margins, right = _arrays(run, questions, raw[0])
    answerable = np.array([bool(question.answers) for question in questions])
    return EvaluationReport(
        run=run,
        rows=_rows(run, questions, own, raw, draws),
        warnings=own.warnings(),
        outcomes=outcomes,
        fields=fields_from_outcomes(outcomes, columns or {}, draws),
        sweep=sweep_from_margins(margins, questions, raw) if run.has_margins else None,
        selection=selection_from_margins(margins, right, answerable, draws) if run.has_margins else None,
        calibrations=_calibrations(run, questions, right, draws, fitted),
        fitted=fitted,
        comparison=_comparison(against, questions, examples, outcomes, draws) if against else None,
        n_paragraphs=draws.n_paragraphs,
        n_resamples=draws.n_resamples,
    )


def _rows(
    run: Run,
    questions: Sequence[GoldQuestion],
    own: Scores,
    raw: tuple[Sequence[float | None], Sequence[float | None]],
    draws: ParagraphDraws,
) -> list[Row]:
    rows = [_row(OWN, run.threshold, own, questions, draws)]
    if run.has_margins:
        _, best = tuned_from_margins(questions, raw[1], run.margins())
        # Of a probability 0 is the end of the scale, not a threshold.
        tried = [(BEST, best)] if run.is_probability else [(ZERO, 0.0), (BEST, best)]
        rows += [_row(name, threshold, _at(run, questions, threshold), questions, draws) for name, threshold in tried]
        if any(question.answers for question in questions) and not run.is_probability:
            rows.append(_row(FORCED, None, _at(run, questions, math.inf), questions, draws))
    return rows


def _at(run: Run, questions: Sequence[GoldQuestion], threshold: float) -> Scores:
    return score_predictions(questions, run.best_texts(), na_probs=run.margins(), na_prob_thresh=threshold)


def _row(
    name: str, threshold: float | None, scores: Scores, questions: Sequence[GoldQuestion], draws: ParagraphDraws
) -> Row:
    answerable = np.array([bool(question.answers) for question in questions])
    parts = {"": np.ones(len(questions), dtype=bool), "HasAns_": answerable, "NoAns_": ~answerable}
    found = share_intervals(draws, np.array([scores.exact, scores.f1]).T, np.stack(list(parts.values()), axis=1))
    intervals = {
        f"{prefix}{key}": one
        for prefix, both in zip(parts, found, strict=True)
        for key, one in zip(("exact", "f1"), both, strict=True)
        if f"{prefix}total" in scores.scores
    }
    return Row(name=name, threshold=threshold, scores=scores.scores, intervals=intervals)


def _arrays(
    run: Run, questions: Sequence[GoldQuestion], exact: Sequence[float | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Margin of each question, inf where there is nothing to answer with, and whether its best span is right."""
    margins, right = np.full(len(questions), np.inf), np.zeros(len(questions))
    for place, (question, score) in enumerate(zip(questions, exact, strict=True)):
        said = run.said.get(question.id)
        if said is not None and said.text:
            right[place] = score or 0.0
            if said.margin is not None:
                margins[place] = said.margin
    return margins, right


def _calibrations(
    run: Run,
    questions: Sequence[GoldQuestion],
    right: NDArray[np.float64],
    draws: ParagraphDraws,
    fitted: FittedScale | None,
) -> list[Calibration]:
    if not run.has_scores or any(question.id not in run.said for question in questions):
        return []
    if fitted is None:
        scores = np.array([run.said[question.id].score for question in questions], dtype=np.float64)
        return [calibration_from_scores(scores, right, draws, name="as served", scale=run.scale)]
    return [
        calibration_from_scores(np.array(scores), right, draws, name=name, scale=scale)
        for name, scale, scores in (
            ("as it was", fitted.before, fitted.scores_before),
            ("fitted", fitted.scale, fitted.scores_after),
        )
    ]


def _comparison(
    against: Run,
    questions: Sequence[GoldQuestion],
    examples: Sequence[Example],
    outcomes: Sequence[Outcome],
    draws: ParagraphDraws,
) -> Comparison:
    scores = scores_from_run(against, questions)
    others = outcomes_from_scores(against, examples, scores.exact, scores.f1)
    return comparison_from_outcomes(outcomes, others, draws, other=against.name)
