"""The options of a question and of many, and what the client refuses before sending."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from spanqa.contract import DEFAULT_TOP_N, MAX_TOP_N
from spanqa.errors import InputError

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_CONNECT_TIMEOUT_S = 5.0
DEFAULT_CONCURRENCY = 16
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a question is to be answered.

    Args:
        top_n: Most spans to return, 1..64.
        no_answer_threshold: Answer where the no-answer margin is at most this; None is the model's own.
        max_answer_tokens: Longest answer in word pieces; None is the model's own.
        distinct: Whether the spans of one answer may not overlap.
    """

    top_n: int = DEFAULT_TOP_N
    no_answer_threshold: float | None = None
    max_answer_tokens: int | None = None
    distinct: bool = False

    def __post_init__(self) -> None:
        _check_int("top_n", self.top_n, MAX_TOP_N)
        if self.max_answer_tokens is not None:
            _check_int("max_answer_tokens", self.max_answer_tokens, _INT32_MAX)
        if type(self.distinct) is not bool:
            raise InputError(f"distinct is {self.distinct!r}: give True or False")
        threshold = self.no_answer_threshold
        if threshold is not None and (
            isinstance(threshold, bool)
            or not isinstance(threshold, (int, float))
            or (isinstance(threshold, int) and abs(threshold) > sys.float_info.max)
            or math.isnan(threshold)
        ):
            raise InputError(f"no_answer_threshold is {threshold!r}: give a number, or None for the model's own")


class HowMany(TypedDict, total=False):
    """Arguments of `ask_many` beside the items; `Run` has their meanings."""

    concurrency: int
    progress: bool
    top_n: int
    no_answer_threshold: float | None
    max_answer_tokens: int | None
    distinct: bool
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How many questions are to be asked.

    Args:
        options: How each is to be answered.
        concurrency: Most questions in flight.
        raises: Whether the first failed question ends it all, or its error stands in its place.
        progress: Whether to show progress on stderr where that is a terminal.
        timeout_s: For each question, connecting and retries included.
    """

    options: Options
    concurrency: int
    raises: bool
    progress: bool
    timeout_s: float

    @classmethod
    def of(
        cls,
        *,
        on_error: str = "raise",
        concurrency: int = DEFAULT_CONCURRENCY,
        progress: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int | None = None,
        distinct: bool = False,
    ) -> Run:
        """Make it of the arguments of `ask_many`.

        Raises:
            InputError: One is not what it must be.
        """
        options = Options(
            top_n=top_n, no_answer_threshold=no_answer_threshold, max_answer_tokens=max_answer_tokens, distinct=distinct
        )
        check_timeout(timeout_s)
        if type(concurrency) is not int or concurrency < 1:
            raise InputError(f"concurrency is {concurrency!r}: give a whole number of at least 1")
        if on_error not in ("raise", "return"):
            raise InputError(f"on_error is {on_error!r}: give 'raise' or 'return'")
        return cls(
            options=options,
            concurrency=concurrency,
            raises=on_error == "raise",
            progress=progress,
            timeout_s=timeout_s,
        )


def utf8_from_text(name: str, text: object) -> bytes:
    """Encode a question or context for the wire.

    Args:
        name: What the text is, for the error: "question" or "context".
        text: The text.

    Raises:
        InputError: It is not a str, is blank, or holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        mend = ": decode it first" if isinstance(text, bytes) else ""
        raise InputError(f"the {name} is of type {type(text).__name__}: give a str{mend}")
    if not text or text.isspace():
        raise InputError(f"the {name} is {'blank' if text else 'empty'}: give a text with at least one word")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the {name} holds half of a surrogate pair ({text[error.start]!r}) at character {error.start}, which "
            "UTF-8 cannot carry: mend the text where it was decoded"
        ) from error


LONGEST_TIMEOUT_S = 31_536_000
"""A year: gRPC takes much more for a time that is over."""


def check_timeout(timeout_s: float) -> None:
    """Refuse a timeout that is not a positive number of seconds.

    Raises:
        InputError: It is not.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise InputError(f"timeout_s is {timeout_s!r}: give a number of seconds above 0, at most {LONGEST_TIMEOUT_S:,}")


def pair_from_item(item: tuple[str, str]) -> tuple[str, str]:
    """Give the question and the context of an item.

    Raises:
        InputError: It is no pair.
    """
    try:
        question, context = item
    except (TypeError, ValueError) as error:
        raise InputError(f"an item is of type {type(item).__name__}: give (question, context) pairs") from error
    return question, context


def items_from(items: Any) -> Iterable[Any]:
    """Give what can be gone through.

    Raises:
        InputError: It cannot.
    """
    if not isinstance(items, Iterable):
        raise InputError(f"items are of type {type(items).__name__}: give an iterable of (question, context) pairs")
    return items


def check_top_n(top_n: object) -> None:
    """Refuse a number of spans that is none.

    Raises:
        InputError: It is not within 1..64.
    """
    _check_int("top_n", top_n, MAX_TOP_N)


def _check_int(name: str, value: object, highest: int) -> None:
    if type(value) is not int or not 1 <= value <= highest:
        raise InputError(f"{name} is {value!r}: give a whole number from 1 to {highest}")
