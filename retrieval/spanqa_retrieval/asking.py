"""How a collection is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spanqa.contract import MAX_ROWS, MAX_TOP_N
from spanqa.errors import InputError
from spanqa_retrieval.document import Scalar

DEFAULT_TOP_K = 5
DEFAULT_WEIGHT = 0.0
"""What the retriever's score counts; see benchmarks/results for the table that decided it."""
Filters = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a collection is asked.

    Args:
        top_k: Passages that are read for a question, 1..32.
        top_n: Most answers of a question, 1..64.
        weight: What BM25's score counts beside the reader's, 0..1.
        filters: For each of these keys of metadata, the values of which a document must have one.
        no_answer_threshold: Answer where a passage's no-answer margin is at most this; None is the model's own.
        max_answer_tokens: Longest answer in word pieces; None is the model's own.

    Raises:
        InputError: One is out of range.
    """

    top_k: int = DEFAULT_TOP_K
    top_n: int = 1
    weight: float = DEFAULT_WEIGHT
    filters: Filters | None = None
    no_answer_threshold: float | None = None
    max_answer_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= MAX_ROWS:
            raise InputError(f"top_k is {self.top_k!r}: give a whole number from 1 to {MAX_ROWS}")
        if not 1 <= self.top_n <= MAX_TOP_N:
            raise InputError(f"top_n is {self.top_n!r}: give a whole number from 1 to {MAX_TOP_N}")
        for key, values in (self.filters or {}).items():
            if isinstance(values, str) or not values:
                raise InputError(f"the filter {key!r} is {values!r}: give a list of values, one at least")
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight is {self.weight!r}: give a number from 0 to 1")
