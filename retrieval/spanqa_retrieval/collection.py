"""Questions to a collection: the best passages from its index, all read in one request, the best answers of them all.

Answers are ranked by s = (1 - w) * reader + w * retriever (Yang et al. 2019, "End-to-End Open-Domain Question
Answering with BERTserini", section 3.3): the reader's part is the negative of the no-answer margin, which for each span
is its logit less that of "no answer"; the retriever's is BM25's score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spanqa.errors import SpanqaError
from spanqa.sentences import sentence_around
from spanqa_client.answer import Answer, Span
from spanqa_client.client import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT_S, QAClient
from spanqa_client.many import answers_in_order
from spanqa_client.options import utf8_from_text
from spanqa_retrieval.asking import Asking
from spanqa_retrieval.engine import Hit, Index
from spanqa_retrieval.opening import open_index


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
        question_truncated: Whether the question was too long, and its end was cut off.
    """

    has_answer: bool
    answers: tuple[FoundAnswer, ...]
    n_passages: int
    model_version: str = ""
    question_truncated: bool = False

    @property
    def text(self) -> str:
        """The best answer; "" for no answer."""
        return self.answers[0].text if self.has_answer else ""

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"answers": [answer.to_dict() for answer in self.answers], "has_answer": self.has_answer}


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
        utf8_from_text("question", question)  # refused before anything is searched
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
    return CollectionAnswer(
        has_answer=has_answer,
        answers=tuple(kept),
        n_passages=len(hits),
        model_version=version,
        question_truncated=any(answer.question_truncated for answer in read),
    )


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
    start, end = max(one.char_start, other.char_start), min(one.char_end, other.char_end)
    if one.document != other.document or start >= end:
        return False
    # Documents of two files may have one id: then there is other text in the same place.
    first, second = (found.text[start - found.char_start : end - found.char_start] for found in (one, other))
    return first == second
