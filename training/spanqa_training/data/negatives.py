"""Unanswerable questions made from answerable ones, for datasets that hold none.

Two ways, after what the writers of SQuAD 2.0 were asked to do (Rajpurkar et al. 2018, section 3):

* moved: a question is asked of another passage of the same article, the one that shares the most words with it
  without holding its answer;
* edited: a number, a name or a telling word of the question is replaced, so that its own passage, which does not
  hold the replacement, no longer answers it.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from spanqa.errors import DataError
from spanqa.squad import Example

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\b\d[\d,]*\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]{2,})*")
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


def make_negatives(examples: Sequence[Example], *, count: int, seed: int, moved_share: float = 0.6) -> list[Example]:
    """Make unanswerable questions.

    Args:
        examples: The dataset; only its answerable questions are used.
        count: Questions to make.
        seed: Decides which.
        moved_share: Share of them to move to another passage; the rest is edited.

    Returns:
        At most `count` questions with fresh ids (`moved-ID`, `edited-ID`), each passage in the order of its file.

    Raises:
        DataError: If not even one can be made.
    """
    rng = random.Random(seed)  # noqa: S311 no secret
    answerable = [example for example in examples if example.answers]
    rng.shuffle(answerable)
    passages = _passages_by_title(examples)
    editors: list[Callable[[Example], Example | None]] = [
        lambda example: _moved(example, passages[example.title]),
        lambda example: _edited(example, passages[example.title], rng),
    ]
    n_moved = round(count * moved_share)
    made: list[Example] = []
    for wanted, editor in ((n_moved, editors[0]), (count, editors[1]), (count, editors[0])):
        used = {example.id.partition("-")[2] for example in made}
        for example in answerable:
            if len(made) >= wanted:
                break
            negative = None if example.id in used else editor(example)
            if negative:
                made.append(negative)
    if not made:
        raise DataError(
            f"no unanswerable question can be made from {len(answerable)} answerable ones: they need at least "
            "two passages of one title, or questions with names, numbers or opposites"
        )
    return sorted(made, key=lambda example: example.paragraph)


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
