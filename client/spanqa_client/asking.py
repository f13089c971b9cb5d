"""What can be asked of a server, as logic without input or output; the sync and the asyncio client are its faces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from spanqa.contract import DEFAULT_TOP_N, MAX_ROWS, QUESTION_ANSWERING
from spanqa.errors import InputError
from spanqa_client.answer import Answer
from spanqa_client.contexts import ContextAnswers, chunks_of_contexts, ranked_contexts
from spanqa_client.errors import BadRequest
from spanqa_client.natural_query import NaturalQueryResponse, natural_query_from_answer
from spanqa_client.options import DEFAULT_TIMEOUT_S, Options, check_timeout, check_top_n, pair_from_item, utf8_from_text
from spanqa_client.steps import Steps

if TYPE_CHECKING:
    from spanqa_client.connection import Opened


class Asking:
    """The questions of a client; each method is a face's of the same name, with the steps carried out.

    Args:
        connection: What carries them out.
        model_name: The model to ask.
    """

    def __init__(self, connection: Opened, model_name: str = QUESTION_ANSWERING) -> None:
        self.connection, self.model_name = connection, model_name

    def check(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Steps[None]:
        """Find out, before much is asked, whether a server is there and has the model.

        Raises:
            ClientError: None is, or it does not.
        """
        check_timeout(timeout_s)
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelMetadataRequest(name=self.model_name)
        yield from self.connection.attempts().call(
            lambda stub, left_s: stub.ModelMetadata(request, timeout=left_s()), timeout_s
        )

    def ask(
        self,
        question: str,
        context: str,
        *,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int | None = None,
        distinct: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Steps[Answer]:
        """Ask one question about one context.

        Args:
            question: The question.
            context: The text that may hold the answer, of any length that the server accepts.
            top_n: Most spans to return, 1..64.
            no_answer_threshold: Answer where the no-answer margin is at most this; None is the model's own.
            max_answer_tokens: Longest answer in word pieces; None is the model's own, and more than a window holds
                beside the question is cut to that.
            distinct: Whether the spans may not overlap.
            timeout_s: For everything, connecting and retries included.

        Returns:
            The answer, or that there is none.

        Raises:
            InputError: What was given cannot be sent.
            ClientError: The server cannot be reached, refused or failed.
        """
        options = _options(top_n, no_answer_threshold, max_answer_tokens, distinct)
        check_timeout(timeout_s)
        answers = yield from self.rows([(question, context)], options, timeout_s)
        return answers[0]

    def ask_rows(
        self,
        rows: Sequence[tuple[str, str]],
        *,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int | None = None,
        distinct: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Steps[list[Answer]]:
        """Ask some questions in one request: all are answered by the same version of the model, or none is.

        Args:
            rows: (question, context) pairs, at most 32.
            top_n: As in `ask`, for each question; so are the others.

        Raises:
            InputError, ClientError: As `ask`.
        """
        options = _options(top_n, no_answer_threshold, max_answer_tokens, distinct)
        check_timeout(timeout_s)
        if len(rows) > MAX_ROWS:
            raise InputError(f"{len(rows)} rows: give at most {MAX_ROWS} in one request")
        return (yield from self.rows(rows, options, timeout_s)) if rows else []

    def ask_contexts(
        self,
        question: str,
        contexts: Iterable[str],
        *,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Steps[ContextAnswers]:
        """Ask one question about several contexts, and rank what they say.

        Args:
            question: The question.
            contexts: Any number of texts; they travel in as few requests as they fit in.
            top_n: Most answers to return over all contexts, 1..64; those of one context do not overlap.
            no_answer_threshold: As in `ask`; so are the others.

        Returns:
            The best answers, best first, each with the place of its context among those given.

        Raises:
            InputError, ClientError: As `ask`; the text's place is named where one cannot be sent.
        """
        options = _options(top_n, no_answer_threshold, max_answer_tokens, True)
        check_timeout(timeout_s)
        deadline = time.monotonic() + timeout_s
        answers: list[Answer] = []
        for chunk in chunks_of_contexts(question, contexts):
            left_s = max(deadline - time.monotonic(), 0.001)
            answers += yield from self.rows(chunk, options, left_s)
        return ranked_contexts(answers, top_n)

    def natural_query(
        self, query: str, context: str, top_n: int = 1, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Steps[NaturalQueryResponse]:
        """Ask as Riva's NaturalQuery was asked, and give what its clients read: `results`, each an answer and a score.

        Args:
            query: The question.
            context: The text that may hold the answer.
            top_n: Most results, 1..64; as there, they may overlap.
            timeout_s: As in `ask`.

        Returns:
            The spans, best first; where the text does not answer, one result whose answer is "".

        Raises:
            InputError, ClientError: As `ask`.
        """
        check_top_n(top_n)
        # Two at least: with an older server the second tells what the score of "no answer" needs.
        answer = yield from self.ask(query, context, top_n=max(top_n, 2), timeout_s=timeout_s)
        return natural_query_from_answer(answer, top_n)

    def rows(self, rows: Sequence[tuple[str, str]], options: Options, timeout_s: float) -> Steps[list[Answer]]:
        """Ask the rows of one request, options and time already checked; arguments and errors as `ask_rows`."""
        texts = [
            (utf8_from_text("question", question), utf8_from_text("context", context))
            for question, context in map(pair_from_item, rows)
        ]
        # With them comes gRPC: who only imports the client does not wait for it.
        from spanqa_client.wire import answers_from_response, older_server_error, request_from_rows

        request = request_from_rows(self.model_name, texts, options)
        started = time.perf_counter()

        def send(stub: Any, left_s: Callable[[], float]) -> Any:
            return stub.ModelInfer(request, timeout=left_s())

        try:
            response = yield from self.connection.attempts().call(send, timeout_s)
        except BadRequest as error:
            raise older_server_error(self.connection.url, error) or error from error.__cause__
        latency_ms = (time.perf_counter() - started) * 1e3
        return answers_from_response(response, n_rows=len(texts), latency_ms=latency_ms)


def _options(top_n: int, no_answer_threshold: float | None, max_answer_tokens: int | None, distinct: bool) -> Options:
    return Options(
        top_n=top_n, no_answer_threshold=no_answer_threshold, max_answer_tokens=max_answer_tokens, distinct=distinct
    )
