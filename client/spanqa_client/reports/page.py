"""The report as one HTML page that needs nothing else: no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from math import isnan
from typing import Any

from spanqa_client.reports.comparison_section import comparison_section
from spanqa_client.reports.markup import isolated, json_for_script, number, percent, plain, shown
from spanqa_client.reports.numbers import numbers_from_report
from spanqa_client.reports.question_data import MOST_QUESTIONS, questions_for_page
from spanqa_client.reports.report import EvaluationReport
from spanqa_client.reports.sections import breakdown_section, calibration_section, scores_section, selection_section

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page_from_report(report: EvaluationReport) -> str:
    """Write a report as HTML; questions, contexts and names are text in it, whatever they hold."""
    style, script = _file("page.css"), _file("page.js")
    sections = [
        ("scores", "Scores", scores_section(report)),
        ("comparison", "Comparison", comparison_section(report.comparison, report.run.name)),
        ("error-rates", "Error rates", selection_section(report)),
        ("calibration", "Calibration", calibration_section(report)),
        ("parts", "Parts", breakdown_section(report)),
    ]
    there = [(key, title, body) for key, title, body in sections if body]
    parts = {
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "title": f"{plain(report.run.name)}: evaluation",
        "name": isolated(report.run.name),
        "facts": " &middot; ".join(_facts(report)),
        "figures": "".join(f"<div><dt>{name}</dt><dd>{body}</dd></div>" for name, body in _figures(report)),
        "warnings": "".join(f'<p class="warning">{shown(warning)}</p>' for warning in report.warnings),
        "links": "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in [*there, ("questions", "Questions", "")]),
        "sections": "\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{body}</section>'
            for key, title, body in there
        ),
        "listed": _listed(report),
        "footer": _footer(report),
        "numbers": json_for_script(numbers_from_report(report)),
        "questions": json_for_script(questions_for_page(report)),
    }
    return _PLACE.sub(lambda found: parts[found[1]], _file("page.html"))


def _file(name: str) -> str:
    return resources.files("spanqa_client.reports").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere; the one style and the one script are named by what they hold."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(report: EvaluationReport) -> list[str]:
    facts = [isolated(value) for value in report.run.facts.values()]
    facts.append(f"{len(report.outcomes):,} questions in {report.n_paragraphs:,} paragraphs")
    if report.run.threshold is not None:
        facts.append(f"threshold {number(report.run.threshold)}")
    return facts


def _figures(report: EvaluationReport) -> list[tuple[str, str]]:
    own = report.rows[0]
    figures = [
        (name, _figure(percent(own.scores[key], 2), own.intervals.get(key)))
        for name, key in (("F1", "f1"), ("Exact match", "exact"))
    ]
    answered = 100 * sum(outcome.is_answered for outcome in report.outcomes) / len(report.outcomes)
    figures.append(("Answered", f"{percent(answered)}&thinsp;%"))
    if report.comparison:
        f1 = report.comparison.f1
        value = f"{f1.value:+.2f}".replace("-", "\N{MINUS SIGN}")
        figures.append(("F1 against the other run", _figure(value, f1.interval)))
    elif report.calibrations:
        last = report.calibrations[-1]
        figures.append(("Calibration error", _figure(f"{percent(last.ece, 2)}&thinsp;%", last.ece_interval)))
    return figures


def _figure(value: str, interval: Any) -> str:
    if interval is None or isnan(interval[0]):
        return value
    low, high = (percent(end, 2) for end in interval)
    return f"{value}<small>{low} to {high}</small>"


def _listed(report: EvaluationReport) -> str:
    if len(report.outcomes) <= MOST_QUESTIONS:
        return (
            "The annotated answer is underlined, the model&rsquo;s is shaded; a dashed line marks the closest span "
            "where no answer was given, a dotted one the other run&rsquo;s answer."
        )
    return (
        f"{MOST_QUESTIONS:,} of {len(report.outcomes):,} questions are listed: the wrong ones and those that changed "
        "first."
    )


def _footer(report: EvaluationReport) -> str:
    return (
        "<p>Exact match and F1 are those of the official SQuAD 2.0 script, to the last digit. Intervals: 95 %, "
        "percentile bootstrap, whole paragraphs drawn with replacement, "
        f"{report.n_resamples:,} draws. This page is one file and asks nothing of any other place.</p>"
    )
