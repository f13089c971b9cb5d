"""A report's numbers in full precision, as JSON values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from spanqa_client.reports.comparison import Comparison
from spanqa_client.reports.outcomes import KINDS
from spanqa_client.reports.report import EvaluationReport


def numbers_from_report(report: EvaluationReport) -> dict[str, Any]:
    """Give every number of a report, without texts of questions; what is not finite is a text."""
    kinds = [outcome.kind for outcome in report.outcomes]
    numbers: dict[str, Any] = {
        "name": report.run.name,
        "facts": dict(report.run.facts),
        "thresholds": [
            {"name": row.name, "threshold": row.threshold, "scores": dict(row.scores), "intervals": dict(row.intervals)}
            for row in report.rows
        ],
        "outcomes": {kind: kinds.count(kind) for kind in KINDS},
        "parts": {field.name: [asdict(part) for part in field.parts] for field in report.fields},
        "calibration": [asdict(one) for one in report.calibrations],
        "resamples": report.n_resamples,
        "paragraphs": report.n_paragraphs,
    }
    if report.selection:
        numbers["selection"] = {**asdict(report.selection), "curve": None}
        del numbers["selection"]["curve"]
    if report.comparison:
        numbers["comparison"] = _comparison_numbers(report.comparison)
    return _as_json(numbers)


def _comparison_numbers(comparison: Comparison) -> dict[str, Any]:
    return {
        "other": comparison.other,
        "differ": comparison.n_differ,
        "changes": dict(comparison.counts),
        "moves": [[other, ours, n] for (other, ours), n in comparison.moves.items()],
        "f1": asdict(comparison.f1),
        "exact": asdict(comparison.exact),
        "mcnemar_p": comparison.mcnemar,
        "mcnemar_mid_p": comparison.mcnemar_mid,
    }


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
