"""A model card in Markdown: its sections, and the scores of a report in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isnan

from spanqa_client.reports.breakdown import Field
from spanqa_client.reports.calibration import said_of_fit
from spanqa_client.reports.comparison_section import p_text, verdict
from spanqa_client.reports.markup import without_controls
from spanqa_client.reports.outcomes import KINDS
from spanqa_client.reports.report import BEST, FORCED, EvaluationReport, Row

TO_FILL = "*To fill:*"
_LONG = frozenset({"title", "windows"})
"""Fields that a card leaves to the page."""
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def card_from_sections(
    *, name: str, what: str, data: Sequence[str], recipe: Sequence[str], scores: Sequence[str]
) -> str:
    """Put a card together, with the sections that only people can fill.

    Args:
        name: The model's name.
        what: What it does and what it is made of.
        data: Lines about the data.
        recipe: Lines about the training.
        scores: Lines about the scores.
    """
    return "\n".join(
        [
            "---",
            "pipeline_tag: question-answering",
            "license: other",
            "---",
            "",
            f"# {name}",
            "",
            what,
            "",
            "## Data",
            "",
            *data,
            "",
            "## Recipe",
            "",
            *recipe,
            "",
            "## Scores",
            "",
            *scores,
            "",
            "## Limits",
            "",
            f"{TO_FILL} languages, kinds of text and of questions that it was not tried on; what a wrong answer does.",
            "The model repeats what a passage says, and does not know whether that is true.",
            "",
            "## Bias",
            "",
            f"{TO_FILL} whom the training texts are about and who wrote them; how answers differ by that.",
            "",
            "## Licence",
            "",
            f"{TO_FILL} the licence of the weights, and those of the base model and of every file in the table.",
            "",
        ]
    )


def card_from_report(report: EvaluationReport) -> str:
    """Write the card of a model of which only its answers are known."""
    return card_from_sections(
        name=cell(report.run.name),
        what="Marks the span of a passage that answers a question, or says that the passage holds none.",
        data=[f"{TO_FILL} what it was trained on, with sizes, sources and licences."],
        recipe=[f"{TO_FILL} what it was trained from, and how."],
        scores=score_lines(report),
    )


def score_lines(report: EvaluationReport) -> list[str]:
    """A report's scores, error rates and slices as lines of Markdown."""
    n = len(report.outcomes)
    facts = ", ".join(cell(value) for value in report.run.facts.values())
    lines = [
        f"{facts + ': ' if facts else ''}{n:,} questions in {report.n_paragraphs:,} paragraphs; in brackets 95 % "
        "bootstrap intervals over paragraphs.",
        "",
        "| | threshold | EM | F1 | questions |",
        "|---|---|---|---|---|",
        *(_score_line(row) for row in report.rows),
    ]
    if any(row.name == BEST for row in report.rows):
        lines += ["", "The best threshold was chosen on these very questions: an upper bound, not a score."]
    return [*lines, *_errors(report), *_selection(report), *_calibration(report), *_comparison(report), *_parts(report)]


def score_table_line(label: str, cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {label} | {' | '.join(cells)} |"


def with_interval(value: float, interval: Sequence[float] | None) -> str:
    """A number, and its interval in brackets where there is one."""
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval and not isnan(interval[0]) else "")


def cell(text: str) -> str:
    """Text for a line or a table's cell: what Markdown would take for markup is escaped."""
    return _MARKUP.sub(r"\\\1", without_controls(" ".join(text.split())))


def _score_line(row: Row) -> str:
    prefix = "HasAns_" if row.name == FORCED else ""
    label = f"{FORCED}, answerable questions" if row.name == FORCED else row.name
    threshold = "" if row.threshold is None else f"{row.threshold:.3f}"
    cells = [with_interval(row.scores[prefix + key], row.intervals.get(prefix + key)) for key in ("exact", "f1")]
    return score_table_line(label, [threshold, *cells, f"{row.scores[f'{prefix}total']:,}"])


def _errors(report: EvaluationReport) -> list[str]:
    n = len(report.outcomes)
    counts = {kind: sum(outcome.kind == kind for outcome in report.outcomes) for kind in KINDS}
    lines = [
        score_table_line(kind, [f"{counts[kind]:,}", f"{100 * counts[kind] / n:.1f} %", meaning])
        for kind, meaning in KINDS.items()
        if counts[kind]
    ]
    wrong = 100 - report.rows[0].scores["exact"]
    return [
        "",
        f"### Errors: {wrong:.1f} % at the model's own threshold",
        "",
        *_head("", "questions", "share", "meaning"),
        *lines,
    ]


def _selection(report: EvaluationReport) -> list[str]:
    if report.selection is None:
        return []
    lines = [
        score_table_line(
            f"{point.error_rate:g} %",
            ["none", "", "", ""]
            if point.threshold is None
            else [
                f"{point.threshold:.3f}",
                f"{point.coverage:.1f} %",
                with_interval(point.risk, point.risk_interval),
                f"{point.recall:.1f} %",
            ],
        )
        for point in report.selection.points
    ]
    return [
        "",
        "### What can be answered at a given error rate",
        "",
        *_head("at most wrong", "threshold", "answered", "wrong of these, %", "of the answerable, right"),
        *lines,
        "",
        f"Area under risk over coverage: {with_interval(report.selection.aurc, report.selection.aurc_interval)} %.",
    ]


def _calibration(report: EvaluationReport) -> list[str]:
    if not report.calibrations:
        return []
    lines = [
        score_table_line(
            one.name,
            [
                "" if one.scale is None else str(one.scale),
                with_interval(one.ece, one.ece_interval),
                f"{one.n:,}",
            ],
        )
        for one in report.calibrations
    ]
    fitted = f"{said_of_fit(report.fitted)} The model has it where `--fit-scores` stored it. " if report.fitted else ""
    return [
        "",
        "### Calibration",
        "",
        f"{fitted}Expected calibration error of the best span's score, ten bins of equally many questions.",
        "",
        *_head("score", "scale", "ECE, %", "questions"),
        *lines,
    ]


def _comparison(report: EvaluationReport) -> list[str]:
    found = report.comparison
    if found is None:
        return []
    low, high = found.f1.interval
    between = "" if isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
    return [
        "",
        f"### Against {cell(found.other)}",
        "",
        f"{verdict(found)} F1 {found.f1.value:+.2f}{between}, p {p_text(found.f1.p_value)} (paired "
        f"bootstrap over paragraphs); exact match {found.exact.value:+.2f}, p {p_text(found.mcnemar)} (McNemar).",
    ]


def _parts(report: EvaluationReport) -> list[str]:
    return [line for field in report.fields if field.name not in _LONG for line in _part_lines(field)]


def _part_lines(field: Field) -> list[str]:
    lines = [
        score_table_line(
            cell(part.value),
            [
                with_interval(part.exact, part.exact_interval),
                with_interval(part.f1, part.f1_interval),
                f"{100 - part.exact:.1f} %",
                f"{part.n:,}",
            ],
        )
        for part in field.parts
    ]
    return ["", f"### By {cell(field.name)}", "", *_head("", "EM", "F1", "errors", "questions"), *lines]


def _head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
