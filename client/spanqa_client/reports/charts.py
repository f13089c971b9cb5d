"""A report's charts: scores over thresholds, error rate over coverage, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from spanqa_client.reports.calibration import Calibration
from spanqa_client.reports.plots import Axis, Chart, Series, round_ticks, svg_from_chart
from spanqa_client.reports.report import BEST, OWN, ZERO, EvaluationReport
from spanqa_client.reports.selection import Selection

_PERCENT_TICKS = (0, 20, 40, 60, 80, 100)
_MARK_NAMES = {OWN: "own", ZERO: "0", BEST: "best"}


def sweep_chart(report: EvaluationReport) -> str:
    """Exact match and F1 over thresholds; empty where there are no margins."""
    sweep = report.sweep
    if sweep is None or len(sweep.thresholds) < 2 or sweep.thresholds[0] == sweep.thresholds[-1]:
        return ""
    low, high = sweep.thresholds[0], sweep.thresholds[-1]
    # Room below the lines for a label.
    floor = max(0, 10 * int((min(*sweep.exact, *sweep.f1) - 4) // 10))
    ceiling = min(100, floor + 10 * (1 + int((max(*sweep.exact, *sweep.f1) - floor) // 10)))
    marks = [
        (row.threshold, _MARK_NAMES[row.name])
        for row in report.rows
        if row.name in _MARK_NAMES and row.threshold is not None and low <= row.threshold <= high
    ]
    lines = [
        Series(
            points=list(zip(sweep.thresholds, values, strict=True)),
            tone=tone,
            label=name,
            label_at=(high, values[-1] + lift * (ceiling - floor)),
            anchor="end",
        )
        for name, values, tone, lift in (("exact", sweep.exact, "second", -0.07), ("F1", sweep.f1, "first", 0.04))
    ]
    return svg_from_chart(
        Chart(
            title="Exact match and F1 over thresholds",
            x=Axis(low=low, high=high, ticks=round_ticks(low, high), name="threshold: the highest margin answered"),
            y=Axis(low=floor, high=ceiling, ticks=range(floor, ceiling + 1, 10), name="exact match and F1, %"),
            series=lines,
            marks=marks,
        )
    )


def risk_chart(selection: Selection) -> str:
    """Error rate over coverage, with the operating points."""
    highest = max((risk for _, risk in selection.curve), default=0.0)
    top = min(100, 10 * (1 + int(highest // 10)))
    rates: dict[tuple[float, float], list[str]] = {}
    for point in selection.points:
        if point.threshold is not None:
            rates.setdefault((point.coverage, point.risk), []).append(f"{point.error_rate:g}")
    dots = Series(
        points=list(rates),
        has_line=False,
        has_dots=True,
        dot_labels=[f"{', '.join(asked)} %" for asked in rates.values()],
    )
    return svg_from_chart(
        Chart(
            title="Error rate of the answers given, over the share of questions answered",
            x=Axis(low=0, high=100, ticks=_PERCENT_TICKS, name="questions answered, %"),
            y=Axis(low=0, high=top, ticks=range(0, top + 1, 10 if top <= 60 else 20), name="wrong of these, %"),
            series=[Series(points=selection.curve), dots],
        )
    )


def calibration_chart(calibrations: Sequence[Calibration]) -> str:
    """What share is right at each score; the last calibration in front."""
    tones = ["quiet"] * (len(calibrations) - 1) + ["first"]
    series = [
        Series(
            points=[(one.score, one.right) for one in calibration.bins],
            tone=tone,
            label=_label(calibration) if len(calibrations) > 1 else "",
            label_at=(97, 12 if tone == "first" else 5),
            anchor="end",
            has_dots=True,
            whiskers=[
                (one.right, one.right) if isnan(one.right_interval[0]) else one.right_interval
                for one in calibration.bins
            ]
            if tone == "first"
            else (),
        )
        for calibration, tone in zip(calibrations, tones, strict=True)
    ]
    return svg_from_chart(
        Chart(
            title="Share of best spans that are right, over their score",
            x=Axis(low=0, high=100, ticks=_PERCENT_TICKS, name="score, %"),
            y=Axis(low=0, high=100, ticks=_PERCENT_TICKS, name="right, %"),
            series=series,
            has_diagonal=True,
        )
    )


def _label(calibration: Calibration) -> str:
    return calibration.name if calibration.scale is None else f"{calibration.name}: {calibration.scale}"
