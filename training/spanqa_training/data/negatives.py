"""Unanswerable questions made from answerable ones, for datasets that hold none.

Four ways, after the kinds that the writers of SQuAD 2.0 used (Rajpurkar et al. 2018, sections 3 and 4):

* moved: a question is asked of another passage of the same article, the one that shares the most words with it
  without holding its answer;
* edited: a number, a name or a telling word of the question is replaced, so that its own passage, which does not
  hold the replacement, no longer answers it;
* cut: the sentences that hold the answer are taken out of the passage;
* negated: the question's verb is given a "not".
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from spanqa.errors import DataError
from spanqa.sentences import sentence_spans
from spanqa.squad import Example

KINDS = ("moved", "edited", "cut", "negated")
SHARES = {"moved": 0.6, "edited": 0.4}
"""Of what is made, where nothing else is asked for."""

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\b\d[\d,]*\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")
_VERB = re.compile(r"\b(?:is|are|was|were|can|could|will|would|should|must)\b(?! not)", re.IGNORECASE)
_LEAST_WORDS = 12
"""Of what is left of a passage without the answer's sentences."""
_COMMON = frozenset(
    word
    for line in (
        "a an the of in on at to for by with from and or is are was were be been did do does has have had",
        "how what which who whom whose when where why that this these those it its their his her as into many much",
    )
    for word in line.split()
)
_OPPOSITES = (
    "first last,before after,most least,more less,more fewer,largest smallest,highest lowest,oldest newest,"
    "early late,earliest latest,north south,east west,northern southern,eastern western,increase decrease,"
    "increased decreased,began ended,start end,started stopped,won lost,best worst,always never,inside outside,"
    "above below,over under,men women,male female,buy sell,bought sold,accept reject,accepted rejected,"
    "support oppose,supported opposed,allowed forbidden,major minor,longest shortest,older younger,"
    "maximum minimum,public private,ancient modern,positive negative,legal illegal,possible impossible"
)


def _opposite_table() -> dict[str, str]:
    table: dict[str, str] = {}
    for pair in _OPPOSITES.split(","):
        left, right = pair.split()
        table.setdefault(left, right)
        table.setdefault(right, left)
    return table


_OPPOSITE = _opposite_table()
_OPPOSITE_WORD = re.compile(r"\b(?:" + "|".join(_OPPOSITE) + r")\b")


def make_negatives(
    examples: Sequence[Example], *, count: int, seed: int, shares: Mapping[str, float] = SHARES
) -> list[Example]:
    """Make unanswerable questions.

    Args:
        examples: The dataset; only its answerable questions are used.
        count: Questions to make.
        seed: Decides which.
        shares: Part of each of KINDS. Where a dataset yields too few of one, the first makes up for them.

    Returns:
        At most `count` questions with fresh ids (`moved-ID`, `edited-ID`, ...), each passage in the order of its file.

    Raises:
        DataError: If not even one can be made.
    """
    rng = random.Random(seed)  # noqa: S311 no secret
    answerable = [example for example in examples if example.answers]
    rng.shuffle(answerable)
    passages = _passages_by_title(examples)
    makers: dict[str, Callable[[Example], Example | None]] = {
        "moved": lambda example: _moved(example, passages[example.title]),
        "edited": lambda example: _edited(example, passages[example.title], rng),
        "cut": _cut,
        "negated": _negated,
    }
    made: list[Example] = []
    for wanted, kind in (*_goals(shares, count), (count, next(iter(shares)))):
        used = {example.id.partition("-")[2] for example in made}
        for example in answerable:
            if len(made) >= wanted:
                break
            negative = None if example.id in used else makers[kind](example)
            if negative:
                made.append(negative)
    if not made:
        raise DataError(
            f"no unanswerable question can be made from {len(answerable)} answerable ones: they need at least "
            "two passages of one title, or questions with names, numbers or opposites"
        )
    return sorted(made, key=lambda example: example.paragraph)


def _goals(shares: Mapping[str, float], count: int) -> list[tuple[int, str]]:
    """How many there are to be when each kind is done."""
    goals, sum_ = [], 0.0
    for kind, share in shares.items():
        sum_ += share
        goals.append((round(count * sum_ / sum(shares.values())), kind))
    return goals


def _passages_by_title(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """One example of each passage, by article."""
    passages: dict[str, dict[int, Example]] = defaultdict(dict)
    for example in examples:
        passages[example.title].setdefault(example.paragraph, example)
    return {title: list(by_paragraph.values()) for title, by_paragraph in passages.items()}


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _COMMON


def _moved(example: Example, passages: Sequence[Example]) -> Example | None:
    """The question, asked of the most similar other passage that does not hold its answer."""
    wanted = _words(example.question)
    answers = [answer.text.lower() for answer in example.answers]
    best, best_shared = None, 0
    for passage in passages:
        shared = len(wanted & _words(passage.context))
        if passage.paragraph == example.paragraph or shared <= best_shared:
            continue
        lowered = passage.context.lower()
        if not any(answer in lowered for answer in answers):
            best, best_shared = passage, shared
    if best is None:
        return None
    return _negative(f"moved-{example.id}", example.question, best)


def _edited(example: Example, passages: Sequence[Example], rng: random.Random) -> Example | None:
    """The question with a number, a name or a word replaced by one that its passage does not hold."""
    ways = [_with_other_number, _with_other_name, _with_opposite]
    rng.shuffle(ways)
    for way in ways:
        question = way(example, passages, rng)
        if question:
            return _negative(f"edited-{example.id}", question, example)
    return None


def _cut(example: Example) -> Example | None:
    """The question, asked of its passage without the sentences that hold its answers."""
    kept = [
        (start, end)
        for start, end in sentence_spans(example.context)
        if not any(answer.char_start < end and start < answer.char_end for answer in example.answers)
    ]
    context = " ".join(example.context[start:end] for start, end in kept)
    lowered = context.lower()
    if len(context.split()) < _LEAST_WORDS or any(answer.text.lower() in lowered for answer in example.answers):
        return None
    return dataclasses.replace(_negative(f"cut-{example.id}", example.question, example), context=context)


def _negated(example: Example) -> Example | None:
    """The question with a "not" behind the verb that its first words hold."""
    match = _VERB.search(example.question, 0, 30)
    if not match:
        return None
    question = f"{example.question[: match.end()]} not{example.question[match.end() :]}"
    return _negative(f"negated-{example.id}", question, example)


def _with_other_number(example: Example, _passages: Sequence[Example], rng: random.Random) -> str | None:
    match = _NUMBER.search(example.question)
    if not match or len(match.group()) > 9:
        return None
    value = int(match.group().replace(",", ""))
    for _ in range(8):
        other = str(max(0, value + rng.choice((-1, 1)) * rng.randint(1, max(3, value // (100 if value > 999 else 2)))))
        if int(other) != value and other not in example.context:
            return example.question[: match.start()] + other + example.question[match.end() :]
    return None


def _with_other_name(example: Example, passages: Sequence[Example], rng: random.Random) -> str | None:
    match = _NAME.search(example.question)
    if not match or match.group() not in example.context:
        return None
    text = rng.choice(passages).context
    names = sorted({name for name in _NAME.findall(text) if name not in example.context and name not in match.group()})
    if not names:
        return None
    return example.question[: match.start()] + rng.choice(names) + example.question[match.end() :]


def _with_opposite(example: Example, _passages: Sequence[Example], _rng: random.Random) -> str | None:
    match = _OPPOSITE_WORD.search(example.question)
    if not match or _OPPOSITE[match.group()] in example.context:
        return None
    return example.question[: match.start()] + _OPPOSITE[match.group()] + example.question[match.end() :]


def _negative(id_: str, question: str, passage: Example) -> Example:
    return Example(
        id=id_,
        question=question,
        context=passage.context,
        title=passage.title,
        answers=(),
        paragraph=passage.paragraph,
    )
