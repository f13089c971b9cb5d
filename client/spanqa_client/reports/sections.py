"""The sections of the page about the whole dataset: scores, thresholds, calibration, parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from spanqa_client.reports.breakdown import Field, Part
from spanqa_client.reports.calibration import said_of_fit
from spanqa_client.reports.charts import calibration_chart, risk_chart, sweep_chart
from spanqa_client.reports.markup import isolated, number, percent, table, with_interval
from spanqa_client.reports.outcomes import KINDS
from spanqa_client.reports.plots import strip
from spanqa_client.reports.report import BEST, FORCED, EvaluationReport, Row
from spanqa_client.reports.selection import OperatingPoint

_OPEN_PARTS = 12
"""A field with more parts than this is folded away at first."""


def scores_section(report: EvaluationReport) -> str:
    """The official metrics at each threshold, over thresholds, and what became of the questions."""
    prefixes = [prefix for prefix in ("HasAns_", "NoAns_") if f"{prefix}f1" in report.rows[0].scores]
    names = {"HasAns_": "F1 answerable", "NoAns_": "F1 unanswerable"}
    head = ["", "threshold", "exact", "F1", *(names[prefix] for prefix in prefixes)]
    rows = [_score_cells(row, prefixes) for row in report.rows]
    notes = ["In quiet figures: 95 % intervals."]
    if any(row.name == BEST for row in report.rows):
        notes.append("The best threshold was chosen on these very questions: an upper bound, not a score.")
    if any(row.name == FORCED for row in report.rows):
        notes.append("Always answering is scored on the answerable questions.")
    chart = sweep_chart(report)
    return (
        table(head, rows, caption="Official metrics at several thresholds", least=(4, 5))
        + f'<p class="note">{" ".join(notes)}</p>'
        + f'<div class="pair"><div>{_kinds(report)}</div>{f"<figure>{chart}</figure>" if chart else ""}</div>'
    )


def _score_cells(row: Row, prefixes: Sequence[str]) -> list[str]:
    if row.name == FORCED:
        cells = [with_interval(row.scores[f"HasAns_{key}"], row.intervals[f"HasAns_{key}"]) for key in ("exact", "f1")]
        return [row.name, number(None), *cells, *("" for _ in prefixes)]
    keys = ["exact", "f1", *(f"{prefix}f1" for prefix in prefixes)]
    cells = [with_interval(row.scores[key], row.intervals.get(key)) for key in keys]
    return [row.name, number(row.threshold), *cells]


def _kinds(report: EvaluationReport) -> str:
    n = len(report.outcomes)
    counts = {kind: sum(outcome.kind == kind for outcome in report.outcomes) for kind in KINDS}
    rows = [
        [
            f'{_swatch(kind)}<button type="button" class="pick" data-kind="{place}">{kind}</button>',
            f"{counts[kind]:,}",
            f"{percent(100 * counts[kind] / n)}\N{NO-BREAK SPACE}%",
        ]
        for place, kind in enumerate(KINDS)
        if counts[kind]
    ]
    return (
        "<h3>What became of the questions</h3>"
        + kinds_bar(counts)
        + table(["", "questions", "share"], rows, caption="Outcomes of the questions")
    )


def kinds_bar(counts: Mapping[str, int]) -> str:
    """All questions as one bar, cut by what became of them."""
    total, at, parts = sum(counts.values()), 0.0, []
    for place, (_, count) in enumerate(counts.items()):
        width = 1000 * count / total
        if count:
            parts.append(f'<rect class="kind-{place}" x="{at:.1f}" y="0" width="{width:.1f}" height="14"/>')
        at += width
    said = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count)
    return (
        f'<svg class="bar" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f"{''.join(parts)}</svg>"
    )


def _swatch(kind: str) -> str:
    place = list(KINDS).index(kind)
    return (
        '<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect class="kind-{place}" width="10" height="10" rx="2"/></svg>'
    )


def selection_section(report: EvaluationReport) -> str:
    """Error rate over coverage, and what to answer at a given error rate."""
    selection = report.selection
    if selection is None:
        return ""
    rows = [_point_cells(point) for point in selection.points]
    area = with_interval(selection.aurc, selection.aurc_interval)
    head = ["wrong, at most", "threshold", "answered", "wrong", "recall"]
    return (
        "<p>An answer is given where its margin is at most the threshold; elsewhere nothing is said. The error rate is "
        "the share of the answers given that are not an exact match, or that are given where the passage holds none. "
        "Mean error rate over all coverages (AURC), in percent: "
        f"<strong>{area}</strong>; a perfect order of the same answers would "
        f"have {percent(selection.best_aurc, 2)}.</p>"
        f'<div class="pair"><figure>{risk_chart(selection)}</figure><div>'
        + table(head, rows, caption="What to answer at a given error rate", least=(4,))
        + '<p class="note">Wrong: of the answers given. Recall: the share of answerable questions answered rightly. '
        "The thresholds were chosen on these very questions; the intervals hold them fixed.</p>" + "</div></div>"
    )


def _point_cells(point: OperatingPoint) -> list[str]:
    name = f"{point.error_rate:g}\N{NO-BREAK SPACE}%"
    if point.threshold is None:
        return [name, number(None), "none", "", ""]
    return [
        name,
        number(point.threshold),
        f"{percent(point.coverage)}\N{NO-BREAK SPACE}%",
        with_interval(point.risk, point.risk_interval, 1),
        f"{percent(point.recall)}\N{NO-BREAK SPACE}%",
    ]


def calibration_section(report: EvaluationReport) -> str:
    """Reliability of the scores, before and after a fit of their scale."""
    if not report.calibrations:
        return ""
    rows = [
        [
            one.name,
            "" if one.scale is None else str(one.scale),
            with_interval(one.ece, one.ece_interval, 2),
            percent(one.mean_score),
            percent(one.mean_right),
            f"{one.n:,}",
        ]
        for one in report.calibrations
    ]
    head = ["score", "scale", "ECE, %", "mean score", "right, %", "questions"]
    fitted = ""
    if report.fitted:
        fitted = f" {isolated(said_of_fit(report.fitted))} The model has it where --fit-scores stored it."
    return (
        "<p>A score says how likely the best span is right: how often is it an exact match? Every question counts, "
        "answered or not. ECE is the mean gap over ten bins of equally many "
        f"questions.{fitted}</p>"
        f'<div class="pair"><figure>{calibration_chart(report.calibrations)}</figure><div>'
        + table(head, rows, caption="Expected calibration error", least=(3, 4))
        + '<p class="note">Resampling adds noise to every bin, which only raises an ECE: its interval lies somewhat '
        "high.</p></div></div>"
    )


def breakdown_section(report: EvaluationReport) -> str:
    """The scores by everything that questions differ by."""
    overall = report.rows[0].scores["f1"]
    ends = [end for field in report.fields for part in field.parts for end in (part.f1, *part.f1_interval)]
    ends = [end for end in ends if not isnan(end)]
    scale = min(90.0, min(ends) // 10 * 10), min(100.0, max(ends) // 10 * 10 + 10)
    return "".join(_field(place, field, overall, scale) for place, field in enumerate(report.fields))


def _field(place: int, field: Field, overall: float, scale: tuple[float, float]) -> str:
    rows = [_part_cells(place, value, part, overall, scale) for value, part in enumerate(field.parts)]
    head = ["", "questions", "F1", '<span class="unseen">F1 and its interval</span>', "exact", "answered", "outcomes"]
    body = table(head, rows, caption=f"Scores by {field.name}", texts=(3, 6), least=(3, 5, 6))
    is_open = " open" if len(field.parts) <= _OPEN_PARTS else ""
    name = f"<summary><h3>By {isolated(field.name)}</h3></summary>"
    return f'<details class="parts"{is_open}>{name}{body}</details>'


def _part_cells(field: int, value: int, part: Part, overall: float, scale: tuple[float, float]) -> list[str]:
    return [
        f'<button type="button" class="pick" data-field="{field}" data-value="{value}">{isolated(part.value)}</button>',
        f"{part.n:,}",
        with_interval(part.f1, part.f1_interval),
        strip(part.f1, part.f1_interval, overall, scale),
        with_interval(part.exact, part.exact_interval),
        f"{percent(part.answered, 0)}\N{NO-BREAK SPACE}%",
        kinds_bar({kind: part.kinds.get(kind, 0) for kind in KINDS}),
    ]
