"""What the page's list of questions reads: every question with its spans, as compact JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spanqa_client.reports.comparison import CHANGES
from spanqa_client.reports.outcomes import KINDS, RIGHT_KINDS, Outcome
from spanqa_client.reports.report import EvaluationReport
from spanqa_client.reports.runs import Said

MOST_QUESTIONS = 20_000
"""Questions that one page lists: some 30 MB; of more the wrong ones and those that changed come first."""


def questions_for_page(report: EvaluationReport) -> dict[str, Any]:
    """Give the data of the list: names once, then a row for each question that refers to them by number.

    Offsets count UTF-16 units, as the page's own language does.
    """
    places = listed_places(report)
    contexts = _Numbered()
    titles = _Numbered()
    kinds, changes = list(KINDS), list(CHANGES)
    fields = [(field, _Numbered()) for field in report.fields]
    for field, names in fields:
        for part in field.parts:
            names.of(part.value)
    rows = []
    for place in places:
        outcome = report.outcomes[place]
        row: dict[str, Any] = {
            "id": outcome.example.id,
            "c": contexts.of(outcome.example.context),
            "t": titles.of(outcome.example.title),
            "q": outcome.example.question,
            "g": _golds(outcome),
            "k": kinds.index(outcome.kind),
            "f": round(100 * outcome.f1),
            "s": _spoken(outcome.said, outcome.example.context),
            "v": [names.of(field.values[place]) for field, names in fields],
        }
        if report.comparison:
            other = report.comparison.others[place]
            row["h"] = changes.index(report.comparison.changes[place])
            row["o"] = _spoken(other.said, other.example.context)
            row["ok"] = kinds.index(other.kind)
        rows.append(row)
    return {
        "kinds": kinds,
        "wrong": [number for number, kind in enumerate(kinds) if kind not in RIGHT_KINDS],
        "changes": changes if report.comparison else [],
        "other": report.comparison.other if report.comparison else "",
        "fields": [{"name": field.name, "values": names.values} for field, names in fields],
        "contexts": contexts.values,
        "titles": titles.values,
        "questions": rows,
        "total": len(report.outcomes),
    }


def listed_places(report: EvaluationReport) -> Sequence[int]:
    """The places of the questions that the page lists, in the order of the dataset."""
    n = len(report.outcomes)
    if n <= MOST_QUESTIONS:
        return range(n)

    def dullness(place: int) -> bool:
        outcome = report.outcomes[place]
        changed = report.comparison is not None and outcome.exact != report.comparison.others[place].exact
        return outcome.kind in RIGHT_KINDS and not changed

    return sorted(sorted(range(n), key=dullness)[:MOST_QUESTIONS])


class _Numbered:
    """Texts that are written once and referred to by number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def values(self) -> list[str]:
        return list(self._numbers)


def _golds(outcome: Outcome) -> list[list[Any]]:
    context = outcome.example.context
    spans = dict.fromkeys((answer.text, answer.char_start, answer.char_end) for answer in outcome.example.answers)
    return [[text, _utf16(context, start), _utf16(context, end)] for text, start, end in spans]


def _spoken(said: Said | None, context: str) -> list[Any] | None:
    """Text, start, end, whether it is the answer, margin and score."""
    if said is None:
        return None
    start, end = said.char_start, said.char_end
    if start < 0 and said.text and context.count(said.text) == 1:
        # A prediction file knows no places; where the text stands once there is no doubt.
        start = context.index(said.text)
        end = start + len(said.text)
    numbers = [_rounded(said.margin), _rounded(said.score)]
    return [said.text, _utf16(context, start), _utf16(context, end), int(said.answered), *numbers]


def _utf16(context: str, offset: int) -> int:
    if offset <= 0 or context.isascii():
        return offset
    return offset + sum(char > "\uffff" for char in context[:offset])


def _rounded(value: float | None) -> float | None:
    return None if value is None or abs(value) > 1e30 else float(f"{value:.4g}")
