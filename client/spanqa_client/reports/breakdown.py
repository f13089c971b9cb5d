"""Scores of parts of a dataset: by question word, lengths, windows, answerability, title, and whatever a user gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spanqa.squad import Example
from spanqa_client.reports.columns import ordered_quarters
from spanqa_client.reports.outcomes import Outcome
from spanqa_client.reports.resampling import Interval, ParagraphDraws, share_intervals

MOST_PARTS = 40
"""Parts of one field that are shown; the smaller ones go together."""
OTHERS, NONE_GIVEN = "all others", "(none)"
_QUESTION_WORDS = ("what", "who", "whom", "whose", "when", "where", "which", "why", "how")
_COUNTING = frozenset({"many", "much", "long", "old", "far", "often", "large", "big", "high", "tall", "fast", "deep"})
_ANSWER_LENGTHS = ((1, "1 word"), (2, "2 words"), (4, "3 to 4 words"), (9, "5 to 9 words"))
_CONTEXT_LENGTHS = ((74, "below 75 words"), (124, "75 to 124"), (199, "125 to 199"), (399, "200 to 399"))
_WINDOWS = ((1, "1 window"), (2, "2 windows"), (4, "3 to 4 windows"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The questions of a dataset that have one value of a field.

    Args:
        value: The value.
        n: How many they are.
        exact: Exact match in percent.
        exact_interval: Its bootstrap interval.
        f1: F1 in percent.
        f1_interval: Its bootstrap interval.
        answered: The share of them that was answered, in percent.
        kinds: How many there are of each kind of outcome.
    """

    value: str
    n: int
    exact: float
    exact_interval: Interval
    f1: float
    f1_interval: Interval
    answered: float
    kinds: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One way to divide a dataset.

    Args:
        name: What the questions differ by.
        values: The value of each question, in the order of the questions.
        parts: The scores by value.
    """

    name: str
    values: Sequence[str]
    parts: Sequence[Part]


def fields_from_outcomes(
    outcomes: Sequence[Outcome], columns: Mapping[str, Mapping[str, str]], draws: ParagraphDraws
) -> list[Field]:
    """Divide a dataset by everything that is known of its questions.

    Args:
        outcomes: The questions, in order.
        columns: A user's columns: by name, value by question id.
        draws: The bootstrap's draws.
    """
    divided: dict[str, list[str]] = {name: [value(outcome) for outcome in outcomes] for name, value in _FIELDS.items()}
    known = [number for number, outcome in enumerate(outcomes) if outcome.said and outcome.said.n_windows]
    if not known:
        del divided["windows"]
    if len(set(divided["title"])) < 2:
        del divided["title"]
    for name, column in columns.items():
        divided[f"{name} (column)" if name in _FIELDS else name] = [
            column.get(outcome.example.id, NONE_GIVEN) for outcome in outcomes
        ]
    orders = {name: ordered_quarters(values) for name, values in divided.items()}
    return [_field(name, values, outcomes, draws, orders) for name, values in divided.items()]


def question_word(question: str) -> str:
    """The word that says what a question asks for: the first of the usual ones in it."""
    words = "".join(char if char.isalnum() else " " for char in question.lower()).split()
    place = next((place for place, word in enumerate(words) if word in _QUESTION_WORDS), None)
    if place is None:
        return "none of these"
    word = {"whom": "who", "whose": "who"}.get(words[place], words[place])
    if word == "how" and place + 1 < len(words) and words[place + 1] in _COUNTING:
        return "how many"
    return word


def _answer_length(example: Example) -> str:
    if not example.answers:
        return "no answer"
    return _binned(min(len(answer.text.split()) for answer in example.answers), _ANSWER_LENGTHS, "10 words or more")


def _binned(number: int, bins: Sequence[tuple[int, str]], beyond: str) -> str:
    return next((name for last, name in bins if number <= last), beyond)


_FIELDS: Mapping[str, Callable[[Outcome], str]] = {
    "answerability": lambda outcome: "answerable" if outcome.example.answers else "unanswerable",
    "question word": lambda outcome: question_word(outcome.example.question),
    "answer length": lambda outcome: _answer_length(outcome.example),
    "context length": lambda outcome: _binned(
        len(outcome.example.context.split()), _CONTEXT_LENGTHS, "400 words or more"
    ),
    "windows": lambda outcome: _binned(outcome.said.n_windows if outcome.said else 0, _WINDOWS, "5 windows or more"),
    "title": lambda outcome: outcome.example.title or NONE_GIVEN,
}
_ORDERS = {
    "answer length": [*(name for _, name in _ANSWER_LENGTHS), "10 words or more", "no answer"],
    "context length": [*(name for _, name in _CONTEXT_LENGTHS), "400 words or more"],
    "windows": [*(name for _, name in _WINDOWS), "5 windows or more"],
}
"""Of fields whose values have an order of their own; elsewhere the larger parts come first."""


def _field(
    name: str,
    values: list[str],
    outcomes: Sequence[Outcome],
    draws: ParagraphDraws,
    orders: Mapping[str, Sequence[str]],
) -> Field:
    counts = Counter(values)
    kept = [value for value, _ in counts.most_common(MOST_PARTS)]
    if len(counts) > MOST_PARTS:
        kept = kept[: MOST_PARTS - 1]
        values = [value if value in kept else OTHERS for value in values]
        kept = [*(value for value in kept if value != OTHERS), OTHERS]
    order = _ORDERS.get(name) or orders.get(name)
    if order:
        kept.sort(key=lambda value: order.index(value) if value in order else len(order))
    # Numbers, since numpy's own texts lose the NULs at their ends.
    numbers = {value: number for number, value in enumerate(kept)}
    chosen = np.array([numbers[value] for value in values])[:, None] == np.arange(len(kept))[None, :]
    scores = np.array([[outcome.exact, outcome.f1] for outcome in outcomes])
    intervals = share_intervals(draws, scores, chosen)
    return Field(
        name=name,
        values=values,
        parts=[
            _part(value, [outcomes[place] for place in np.flatnonzero(chosen[:, number])], intervals[number])
            for number, value in enumerate(kept)
        ],
    )


def _part(value: str, outcomes: Sequence[Outcome], intervals: Sequence[Interval]) -> Part:
    n = len(outcomes)
    return Part(
        value=value,
        n=n,
        exact=100 * sum(outcome.exact for outcome in outcomes) / n,
        exact_interval=intervals[0],
        f1=100 * sum(outcome.f1 for outcome in outcomes) / n,
        f1_interval=intervals[1],
        answered=100 * sum(outcome.is_answered for outcome in outcomes) / n,
        kinds=Counter(outcome.kind for outcome in outcomes),
    )
