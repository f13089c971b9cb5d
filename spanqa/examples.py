"""Questions with their contexts and gold answers, and what every dataset must hold to, whatever its format."""

from __future__ import annotations

import itertools
import unicodedata
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanqa.errors import DamagedFileError, DataError
from spanqa.json_fields import Fields, join, shortened

_SORTED_AT_ONCE = 1 << 16
"""Hashes of ids in one list: some MB."""


_CONTROLS = ("Cc", "Cf")
"""Unicode's categories of characters that no tokenizer of BERT sees."""


@dataclass(frozen=True, slots=True)
class GoldAnswer:
    """One annotator's answer: its text, and its offset in the context in code points."""

    text: str
    char_start: int

    @property
    def char_end(self) -> int:
        """End of the answer in the context, exclusive."""
        return self.char_start + len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question about one context.

    Args:
        id: The question's id, unique in its file.
        question: The question as written.
        context: The paragraph as written.
        title: The article's title; empty where the file gives none.
        answers: Gold answers; none for an unanswerable question.
        paragraph: Index of the paragraph in its file, counted over all articles.
        place: Its file and its place there, for errors; empty where it comes from no file.
    """

    id: str
    question: str
    context: str
    title: str
    answers: tuple[GoldAnswer, ...]
    paragraph: int
    place: str = field(default="", compare=False, repr=False)


PlacedExample = tuple[str, Example]
"""An example, and its place in its file: a JSON path, `line N` or `row N`."""

OnDefect = Callable[[DataError], None]
"""Is told of a defect; reading goes on unless it raises."""

Reader = Callable[[OnDefect], Iterator[PlacedExample]]
"""Reads a file from its beginning."""

Mend = Callable[[str, str, int], "GoldAnswer | None"]
"""Is given a context, an answer that does not stand in it where it says, and that offset, -1 where there is none; gives
the answer as it should be, or None where it cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file is read, whatever its format.

    Args:
        fields: Names the file in errors.
        report: Is told of what has a defect and is left out.
        require_answers: Whether a question without the key `answers` is a defect; else it counts as unanswerable.
        mend: Mends answers that stand elsewhere; without it they are defects.
    """

    fields: Fields
    report: OnDefect
    require_answers: bool = True
    mend: Mend | None = None


def raise_defect(defect: DataError) -> None:
    """Let the first defect end the reading."""
    raise defect


def checked_examples(
    path: Path, reader: Reader, on_defect: OnDefect | None, *, check_ids: bool = True
) -> Iterator[PlacedExample]:
    """Read a file's examples, and hold the file to what can be seen only at its end.

    Beside the examples it holds 16 bytes a question: a repeated id is noticed by its hash, then found by reading again.

    Args:
        path: The file, for its name in errors.
        reader: Reads it.
        on_defect: Is told of every defect, and reading goes on where that is possible; without it the first is raised.
            What ends the reading is a DamagedFileError.
        check_ids: Whether an id that stands twice is a defect.

    Raises:
        DataError: A defect; only without `on_defect`.
    """
    told = False

    def tell(defect: DataError) -> None:
        nonlocal told
        told = True
        (on_defect or raise_defect)(defect)

    hashes = array("q")
    try:
        for place, example in reader(tell):
            hashes.append(hash(example.id))
            yield place, example
        if not hashes and not told:
            raise DataError(f"{path}: holds no question: expected data[].paragraphs[].qas[], or one row a question")
    except DataError as defect:
        tell(DamagedFileError(str(defect)))
    for repeated in _repeated_ids(path, reader, hashes) if check_ids else ():
        tell(repeated)


def _repeated(hashes: array[int]) -> Iterator[int]:
    """Values that stand more than once; sorted a part at a time, as a list of all takes five times their memory."""
    n_parts = 1 + len(hashes) // _SORTED_AT_ONCE
    for part in range(n_parts):
        ordered = sorted(value for value in hashes if value % n_parts == part)
        yield from (one for one, following in itertools.pairwise(ordered) if one == following)


def _repeated_ids(path: Path, reader: Reader, hashes: array[int]) -> Iterator[DataError]:
    repeated = set(_repeated(hashes))
    if not repeated:
        return
    first_places: dict[str, str] = {}
    # What else is wrong, even what ends the reading, is told already.
    with suppress(DataError):
        for place, example in reader(lambda _: None):
            if hash(example.id) not in repeated:
                continue
            first = first_places.setdefault(example.id, place)
            if first != place:
                at_id = join(place, "id")
                message = f"{path}: {at_id}: {shortened(example.id)} is also the id of {first}: ids must differ"
                yield DataError(message, place=example.place, question_id=example.id)


def checked_question(fields: Fields, parent: Any, place: str) -> str:
    """Give the text of a question.

    Raises:
        DataError: It is missing, no text, or blank.
    """
    question: str = fields.get(parent, place, "question", str)
    if not question.strip():
        raise fields.fail(join(place, "question"), "is empty")
    return question


def holds_word(text: str) -> bool:
    """Whether a text holds more than white space and control characters, whatever the tokenizer."""
    return any(not (char.isspace() or unicodedata.category(char) in _CONTROLS) for char in text)


def checked_id(fields: Fields, parent: Any, place: str) -> str:
    """Give the id of a question: a text, or a whole number as its decimal text.

    Raises:
        DataError: It is missing, or neither.
    """
    fields.checked(parent, place, dict)
    if type(number := parent.get("id")) is int:
        return str(number)
    question_id: str = fields.get(parent, place, "id", str)
    return question_id


def checked_title(fields: Fields, parent: Any, place: str) -> str:
    """Give a title; empty where there is none, or null.

    Raises:
        DataError: It is no text.
    """
    title: str = "" if parent.get("title") is None else fields.get(parent, place, "title", str)
    return title


def listed_answers(reading: Reading, parent: Any, place: str, context: str) -> tuple[GoldAnswer, ...]:
    """Give the answers of a question that lists them as objects with text and answer_start.

    Raises:
        DataError: One of them is not as it must be.
    """
    return tuple(
        checked_answer(
            reading,
            context,
            (reading.fields.get(answer, at, "text", str), join(at, "text")),
            (_answer_start(reading, answer, at), join(at, "answer_start")),
        )
        for at, answer in reading.fields.each(parent, place, "answers")
    )


def _answer_start(reading: Reading, answer: Any, place: str) -> int:
    if reading.mend and answer.get("answer_start") is None:
        return -1
    start: int = reading.fields.get(answer, place, "answer_start", int)
    return start


def checked_answer(
    reading: Reading, context: str, placed_text: tuple[str, str], placed_start: tuple[int, str]
) -> GoldAnswer:
    """Make an answer that stands in its context where it says.

    Args:
        reading: Names the file in errors, and may mend.
        context: The context.
        placed_text: The answer, and its place in the file.
        placed_start: Where it begins, in code points, and the place of that.

    Raises:
        DataError: It stands elsewhere or nowhere, or is empty.
    """
    (text, at_text), (start, at_start) = placed_text, placed_start
    fields = reading.fields
    if not text:
        raise fields.fail(at_text, "is empty: an unanswerable question has an empty list of answers")
    if start >= 0 and context.startswith(text, start):
        return GoldAnswer(text, start)
    if reading.mend and (mended := reading.mend(context, text, start)):
        return mended
    there = context[max(start, 0) : max(start, 0) + len(text)]
    found = context.find(text)
    mend = f"it stands at {found}" if found >= 0 else "it stands nowhere in the context"
    raise fields.fail(at_start, f"{start} holds {shortened(there)}, not the answer {shortened(text)}: {mend}")


def check_is_impossible(fields: Fields, parent: Any, place: str, answers: tuple[GoldAnswer, ...]) -> None:
    """Hold SQuAD 2.0's flag, where it is given, against the answers.

    Raises:
        DataError: The two contradict each other.
    """
    if "is_impossible" in parent and fields.get(parent, place, "is_impossible", bool) == bool(answers):
        state = "true, yet answers are given" if answers else "false, yet there is no answer"
        raise fields.fail(join(place, "is_impossible"), f"is {state}: correct one of the two")
