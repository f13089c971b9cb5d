"""Questions to a collection: the best passages from its index, all read in one request, the best answers of them all.

Answers are ranked by s = (1 - w) * reader + w * retriever (Yang et al. 2019, "End-to-End Open-Domain Question
Answering with BERTserini", section 3.3): the reader's part is the negative of the no-answer margin, which for each span
is its logit less that of "no answer"; the retriever's is BM25's score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spanqa.sentences import sentence_around

from spanqa.contract import MAX_ROWS, MAX_TOP_N
from spanqa.errors import InputError, SpanqaError
from spanqa_client.answer import Answer, Span
from spanqa_client.client import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT_S, QAClient
from spanqa_client.many import answers_in_order
from spanqa_retrieval.document import Scalar
from spanqa_retrieval.engine import Hit, Index
from spanqa_retrieval.opening import open_index

DEFAULT_TOP_K = 5
DEFAULT_WEIGHT = 0.0
"""What the retriever's score counts; see benchmarks/results for the table that decided it."""
Filters = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnswer:
    """An answer found in a collection.

    Args:
        document: The document's id.
        title: Its title, "" where it has none.
        page: The number of the page that the answer begins on, from 1; None for a text without pages.
        text: The answer as it stands in the document.
        char_start: Where it starts in the document, in code points.
        char_end: Where it ends, exclusive.
        sentence: The sentence that it stands in, or the sentences.
        sentence_start: Where that starts in the document.
        sentence_end: Where it ends, exclusive.
        score: By which answers are ranked; the higher, the better.
        no_answer_margin: The passage's score of "no answer" minus the span's.
        retrieval_score: The passage's score for the question by BM25.
    """

    document: str
    title: str
    page: int | None
    text: str
    char_start: int
    char_end: int
    sentence: str
    sentence_start: int
    sentence_end: int
    score: float
    no_answer_margin: float
    retrieval_score: float

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionAnswer:
    """What a collection says to one question.

    Args:
        has_answer: Whether any passage answers it.
        answers: The best answers, best first; where `has_answer` is false, what came closest.
        n_passages: Passages that were read.
        model_version: The version of the model that read them; "" where there was nothing to read.
    """

    has_answer: bool
    answers: tuple[FoundAnswer, ...]
    n_passages: int
    model_version: str = ""

    @property
    def text(self) -> str:
        """The best answer; "" for no answer."""
        return self.answers[0].text if self.has_answer else ""

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"answers": [answer.to_dict() for answer in self.answers], "has_answer": self.has_answer}


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
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight is {self.weight!r}: give a number from 0 to 1")


class Collection:
    """Answers questions from an index of documents through a server; safe to use from several threads.

    Args:
        index: The index.
        client: The server.
    """

    def __init__(self, index: Index, client: QAClient) -> None:
        self.index, self.client = index, client

    @classmethod
    def open(cls, index: str, client: QAClient) -> Collection:
        """Open an index by its address.

        Args:
            index: A folder, or `opensearch://host:port/name`.
            client: The server.

        Raises:
            CollectionError: There is none, or it cannot be read.
        """
        return cls(open_index(index), client)

    def ask(
        self, question: str, asking: Asking | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> CollectionAnswer:
        """Ask one question.

        Args:
            question: The question.
            asking: How; by the defaults where it is left out.
            timeout_s: For the server, retries included.

        Raises:
            InputError: What was given cannot be sent.
            ClientError: The server cannot be reached, refused or failed.
            CollectionError: The index cannot be asked.
        """
        asking = asking or Asking()
        hits = self.index.search(question, top_k=asking.top_k, filters=asking.filters)
        return ranked(hits, self._read(question, hits, asking, timeout_s), asking)

    def ask_many(
        self,
        questions: Iterable[str],
        asking: Asking | None = None,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Iterator[CollectionAnswer | SpanqaError]:
        """Ask many questions at once; answers come in the order of the questions, a failed one's error in its place.

        Args:
            questions: Taken as they are needed.
            asking: As in `ask`.
            concurrency: Most questions in flight.
            timeout_s: As in `ask`, for each.
        """
        return answers_in_order(
            lambda question, _: self.ask(question, asking, timeout_s=timeout_s),
            questions,
            concurrency=concurrency,
            raises=False,
        )

    def _read(self, question: str, hits: Sequence[Hit], asking: Asking, timeout_s: float) -> list[Answer]:
        return self.client.ask_rows(
            [(question, hit.passage.text) for hit in hits],
            top_n=asking.top_n,
            no_answer_threshold=asking.no_answer_threshold,
            max_answer_tokens=asking.max_answer_tokens,
            distinct=True,
            timeout_s=timeout_s,
        )


def ranked(hits: Sequence[Hit], read: Sequence[Answer], asking: Asking) -> CollectionAnswer:
    """Rank the answers of passages; of one place in a document, which two passages may share, the better one stays.

    Args:
        hits: The passages.
        read: What the reader said to each.
        asking: How many answers are wanted, and what the retriever's score counts.
    """
    found = [
        (answer.has_answer, _found(hit, answer, span, asking.weight))
        for hit, answer in zip(hits, read, strict=True)
        for span in answer.spans
    ]
    # Where any passage answers, what came closest in others is not asked for.
    found.sort(key=lambda one: (not one[0], -one[1].score))
    has_answer = bool(found) and found[0][0]
    kept: list[FoundAnswer] = []
    for answers, one in found:
        if answers == has_answer and len(kept) < asking.top_n and not any(_overlaps(one, other) for other in kept):
            kept.append(one)
    version = read[0].model_version if read else ""
    return CollectionAnswer(has_answer=has_answer, answers=tuple(kept), n_passages=len(hits), model_version=version)


def _found(hit: Hit, answer: Answer, span: Span, weight: float) -> FoundAnswer:
    passage = hit.passage
    # The margin is the best span's; what another one has less in logit, its margin has more.
    margin = answer.no_answer_margin + answer.spans[0].logit - span.logit
    start, end = sentence_around(passage.text, span.char_start, span.char_end)
    return FoundAnswer(
        document=passage.document,
        title=passage.title,
        page=passage.page_at(span.char_start),
        text=span.text,
        char_start=passage.char_start + span.char_start,
        char_end=passage.char_start + span.char_end,
        sentence=passage.text[start:end],
        sentence_start=passage.char_start + start,
        sentence_end=passage.char_start + end,
        score=(1 - weight) * -margin + weight * hit.score,
        no_answer_margin=margin,
        retrieval_score=hit.score,
    )


def _overlaps(one: FoundAnswer, other: FoundAnswer) -> bool:
    return one.document == other.document and one.char_start < other.char_end and other.char_start < one.char_end
