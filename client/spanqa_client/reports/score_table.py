"""Scores at several thresholds as JSON values and as a table to read, offline and served alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spanqa_client.metrics import answerable_only
from spanqa_client.reports.report import BEST, FORCED, OWN, ZERO, EvaluationReport

_KEYS = {OWN: "model_threshold", ZERO: "threshold_0", BEST: "best_threshold"}


def scores_from_report(report: EvaluationReport, *, intervals: bool) -> dict[str, Any]:
    """Give a report's official scores: model_threshold, threshold_0, best_threshold and forced_answerable."""
    scores: dict[str, Any] = {}
    for row in report.rows:
        if row.name == FORCED:
            scores["forced_answerable"] = answerable_only(row.scores)
            if intervals:
                scores["forced_answerable"]["intervals_95"] = {
                    key: list(one) for key, one in answerable_only(row.intervals).items()
                }
            continue
        scores[_KEYS[row.name]] = {"threshold": row.threshold, **row.scores}
        if intervals:
            scores[_KEYS[row.name]]["intervals_95"] = {key: list(one) for key, one in row.intervals.items()}
    return scores


def as_json(value: Any) -> Any:
    """Give scores as JSON can say them: a threshold that is infinite as a text, an interval that is none as null."""
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def table_from_scores(scores: Mapping[str, Any]) -> str:
    """Lay scores out to read.

    Args:
        scores: As `scores_from_report` gives them; other keys do not matter.
    """
    rows = [("", "threshold", "EM", "F1", "HasAns F1", "NoAns F1", "questions")]
    for name in _KEYS.values():
        if name not in scores:
            continue
        one = scores[name]
        rows.append(
            (
                name.replace("_", " "),
                "-" if one["threshold"] is None else f"{one['threshold']:.3f}",
                f"{one['exact']:.2f}",
                _f1(one),
                f"{one['HasAns_f1']:.2f}" if "HasAns_f1" in one else "-",
                f"{one['NoAns_f1']:.2f}" if "NoAns_f1" in one else "-",
                f"{one['total']:,}",
            )
        )
    forced = scores.get("forced_answerable")
    if forced:
        rows.append(("always answering", "-", f"{forced['exact']:.2f}", _f1(forced), "", "", f"{forced['total']:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, "", "The best threshold is fitted on these very questions: an upper bound, not a score."])


def _f1(scores: Mapping[str, Any]) -> str:
    """F1, with its interval where there is one."""
    low_high = scores.get("intervals_95", {}).get("f1")
    has_interval = low_high and not math.isnan(low_high[0])
    return f"{scores['f1']:.2f}" + (f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if has_interval else "")
