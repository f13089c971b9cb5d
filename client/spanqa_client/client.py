"""Asking a spanqa server: `QAClient`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, overload

import grpc
from tritonclient.grpc import service_pb2

from spanqa.contract import DEFAULT_TOP_N, MAX_ROWS, QUESTION_ANSWERING
from spanqa.errors import InputError, SpanqaError
from spanqa_client.answer import Answer
from spanqa_client.connection import Connection
from spanqa_client.errors import BadRequest
from spanqa_client.many import answers_in_order, with_progress
from spanqa_client.options import Options, check_timeout, utf8_from_text
from spanqa_client.wire import answers_from_response, older_server_error, request_from_rows

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_CONNECT_TIMEOUT_S = 5.0
DEFAULT_CONCURRENCY = 16


class QAClient:
    """Asks a spanqa server; a context manager, safe to use from several threads.

    Retries within a question's time what passes by itself: a server or model that is restarting, a lost connection,
    a full queue.

    Args:
        url: host:port of the server's gRPC endpoint.
        model_name: The model to ask; the ensemble takes the same requests.
        connect_timeout_s: How long the first question waits for the server to be there.
        credentials: TLS credentials (`grpc.ssl_channel_credentials()`); None is an open connection.

    Raises:
        InputError: The address or the timeout is not one.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model_name: str = QUESTION_ANSWERING,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        host, _, port = url.rpartition(":")
        if not host or not port.isdigit() or "://" in url:
            raise InputError(f"the server's address is {url!r}: give host:port, such as {DEFAULT_URL}")
        check_timeout(connect_timeout_s)
        self.model_name = model_name
        self._connection = Connection(url, connect_timeout_s=connect_timeout_s, credentials=credentials)

    def __enter__(self) -> QAClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a question in flight fails."""
        self._connection.close()

    def check(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Find out, before much is asked, whether the server is there and has the model.

        Raises:
            ClientError: It is not, or does not.
        """
        check_timeout(timeout_s)
        request = service_pb2.ModelMetadataRequest(name=self.model_name)
        self._connection.call(lambda stub, left_s: stub.ModelMetadata(request, timeout=left_s()), timeout_s=timeout_s)

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
    ) -> Answer:
        """Ask one question about one context.

        Args:
            question: The question.
            context: The text that may hold the answer, of any length that the server accepts.
            top_n: Most spans to return, 1..64.
            no_answer_threshold: Answer where the no-answer margin is at most this; None is the model's own.
            max_answer_tokens: Longest answer in word pieces; None is the model's own, and more than a window holds
                beside the question is cut to that.
            distinct: Whether the spans may not overlap.
            timeout_s: For everything, retries included.

        Returns:
            The answer, or that there is none.

        Raises:
            InputError: What was given cannot be sent.
            ClientError: The server cannot be reached, refused or failed.
        """
        options = Options(
            top_n=top_n,
            no_answer_threshold=no_answer_threshold,
            max_answer_tokens=max_answer_tokens,
            distinct=distinct,
        )
        check_timeout(timeout_s)
        return self._ask([(question, context)], options, timeout_s, None)[0]

    def ask_rows(
        self,
        rows: Sequence[tuple[str, str]],
        *,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int | None = None,
        distinct: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> list[Answer]:
        """Ask some questions in one request: all are answered by the same version of the model, or none is.

        Args:
            rows: (question, context) pairs, at most 32.
            top_n: As in `ask`, for each question; so are the others.

        Raises:
            InputError, ClientError: As `ask`.
        """
        options = Options(
            top_n=top_n,
            no_answer_threshold=no_answer_threshold,
            max_answer_tokens=max_answer_tokens,
            distinct=distinct,
        )
        check_timeout(timeout_s)
        if len(rows) > MAX_ROWS:
            raise InputError(f"{len(rows)} rows: give at most {MAX_ROWS} in one request")
        return self._ask(rows, options, timeout_s, None) if rows else []

    @overload
    def ask_many(
        self,
        items: Iterable[tuple[str, str]],
        *,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        progress: bool = ...,
        top_n: int = ...,
        no_answer_threshold: float | None = ...,
        max_answer_tokens: int | None = ...,
        distinct: bool = ...,
        timeout_s: float = ...,
    ) -> Iterator[Answer]: ...

    @overload
    def ask_many(
        self,
        items: Iterable[tuple[str, str]],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        progress: bool = ...,
        top_n: int = ...,
        no_answer_threshold: float | None = ...,
        max_answer_tokens: int | None = ...,
        distinct: bool = ...,
        timeout_s: float = ...,
    ) -> Iterator[Answer | SpanqaError]: ...

    def ask_many(
        self,
        items: Iterable[tuple[str, str]],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        on_error: str = "raise",
        progress: bool = False,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int | None = None,
        distinct: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Iterator[Answer | SpanqaError]:
        """Ask many questions at once and give the answers in the order of the questions.

        Items are taken as they are needed, so an endless iterable works. Leaving the iterator early drops the
        questions that were not sent yet.

        Args:
            items: (question, context) pairs.
            concurrency: Most questions in flight.
            on_error: "raise" stops at the first failed question, "return" gives its error in its place.
            progress: Whether to show progress on stderr where that is a terminal.
            top_n: As in `ask`, for each question; so are no_answer_threshold, max_answer_tokens, distinct and
                timeout_s.

        Raises:
            InputError: An option cannot be sent (at once), or a question cannot (in its turn).
            ClientError: The server cannot be reached, refused or failed.
        """
        options = Options(
            top_n=top_n,
            no_answer_threshold=no_answer_threshold,
            max_answer_tokens=max_answer_tokens,
            distinct=distinct,
        )
        check_timeout(timeout_s)
        _check_run(concurrency, on_error)
        answers = answers_in_order(
            lambda item, stop: self._ask([item], options, timeout_s, stop)[0],
            items,
            concurrency=concurrency,
            raises=on_error == "raise",
        )
        return with_progress(answers, items) if progress else answers

    def _ask(
        self, rows: Sequence[tuple[str, str]], options: Options, timeout_s: float, stop: threading.Event | None
    ) -> list[Answer]:
        texts = [
            (utf8_from_text("question", question), utf8_from_text("context", context))
            for question, context in map(_pair, rows)
        ]
        request = request_from_rows(self.model_name, texts, options)
        started = time.perf_counter()

        def send(stub: Any, left_s: Callable[[], float]) -> service_pb2.ModelInferResponse:
            return stub.ModelInfer(request, timeout=left_s())

        try:
            response = self._connection.call(send, timeout_s=timeout_s, stop=stop)
        except BadRequest as error:
            raise older_server_error(self._connection.url, error) or error from error.__cause__
        latency_ms = (time.perf_counter() - started) * 1e3
        return answers_from_response(response, n_rows=len(texts), latency_ms=latency_ms)


def _check_run(concurrency: object, on_error: object) -> None:
    if type(concurrency) is not int or concurrency < 1:
        raise InputError(f"concurrency is {concurrency!r}: give a whole number of at least 1")
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error is {on_error!r}: give 'raise' or 'return'")


def _pair(item: tuple[str, str]) -> tuple[str, str]:
    try:
        question, context = item
    except (TypeError, ValueError) as error:
        raise InputError(f"an item is of type {type(item).__name__}: give (question, context) pairs") from error
    return question, context
