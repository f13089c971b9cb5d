"""Asking a spanqa server: `QAClient`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Literal, overload

import grpc
from tritonclient.grpc import service_pb2

from spanqa.contract import DEFAULT_MAX_ANSWER_TOKENS, DEFAULT_TOP_N, QUESTION_ANSWERING
from spanqa.errors import InputError, SpanqaError
from spanqa_client.answer import Answer
from spanqa_client.connection import Connection
from spanqa_client.errors import ProtocolError
from spanqa_client.many import answers_in_order, with_progress
from spanqa_client.options import Options, check_timeout, utf8_from_text
from spanqa_client.wire import answer_from_response, request_from_question

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_CONNECT_TIMEOUT_S = 5.0
DEFAULT_CONCURRENCY = 16
THRESHOLD_PARAMETER = "no_answer_threshold"
"""The parameter of the model's configuration that holds its own threshold."""


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
        self._lock = threading.Lock()
        self._threshold_known = False
        self._threshold: float | None = None

    def __enter__(self) -> QAClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a question in flight fails."""
        self._connection.close()

    def no_answer_threshold(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> float | None:
        """Give the model's own no-answer threshold, or None where its configuration does not tell.

        Raises:
            ClientError: The server cannot be asked, or what it tells is not a number.
        """
        check_timeout(timeout_s)
        return self._connection.call(self._read_threshold, timeout_s=timeout_s)

    def ask(
        self,
        question: str,
        context: str,
        *,
        top_n: int = DEFAULT_TOP_N,
        no_answer_threshold: float | None = None,
        max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Answer:
        """Ask one question about one context.

        Args:
            question: The question.
            context: The text that may hold the answer, of any length that the server accepts.
            top_n: Most spans to return, 1..64.
            no_answer_threshold: Answer where the no-answer margin is at most this; None is the model's own.
            max_answer_tokens: Longest answer in word pieces.
            timeout_s: For everything, retries included.

        Returns:
            The answer, or that there is none.

        Raises:
            InputError: What was given cannot be sent.
            ClientError: The server cannot be reached, refused or failed.
        """
        options = Options(top_n=top_n, no_answer_threshold=no_answer_threshold, max_answer_tokens=max_answer_tokens)
        check_timeout(timeout_s)
        return self._ask(question, context, options, timeout_s, None)

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
        max_answer_tokens: int = ...,
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
        max_answer_tokens: int = ...,
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
        max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS,
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
            top_n: As in `ask`, for each question; so are no_answer_threshold, max_answer_tokens and timeout_s.

        Raises:
            InputError: An option cannot be sent (at once), or a question cannot (in its turn).
            ClientError: The server cannot be reached, refused or failed.
        """
        options = Options(top_n=top_n, no_answer_threshold=no_answer_threshold, max_answer_tokens=max_answer_tokens)
        check_timeout(timeout_s)
        _check_run(concurrency, on_error)
        answers = answers_in_order(
            lambda item, stop: self._ask(*_pair(item), options, timeout_s, stop),
            items,
            concurrency=concurrency,
            raises=on_error == "raise",
        )
        return with_progress(answers, items) if progress else answers

    def _ask(
        self, question: str, context: str, options: Options, timeout_s: float, stop: threading.Event | None
    ) -> Answer:
        question_utf8 = utf8_from_text("question", question)
        context_utf8 = utf8_from_text("context", context)
        started = time.perf_counter()

        def send(stub: object, left_s: Callable[[], float]) -> service_pb2.ModelInferResponse:
            threshold = options.no_answer_threshold
            if threshold is None:
                threshold = self._read_threshold(stub, left_s)
            request = request_from_question(self.model_name, question_utf8, context_utf8, options, threshold)
            return stub.ModelInfer(request, timeout=left_s())  # type: ignore[attr-defined]

        response = self._connection.call(send, timeout_s=timeout_s, stop=stop, before_retry=self._forget_threshold)
        return answer_from_response(response, latency_ms=(time.perf_counter() - started) * 1e3)

    def _read_threshold(self, stub: object, left_s: Callable[[], float]) -> float | None:
        """The model's own threshold, asked for once: sent with every question, it keeps them in one batch."""
        if self._threshold_known:
            return self._threshold
        with self._lock:
            if not self._threshold_known:
                request = service_pb2.ModelConfigRequest(name=self.model_name)
                config = stub.ModelConfig(request, timeout=left_s()).config  # type: ignore[attr-defined]
                self._threshold = _threshold_from_config(config)
                self._threshold_known = True
            return self._threshold

    def _forget_threshold(self) -> None:
        # Whatever comes back after a failure may serve another model.
        self._threshold_known = False


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


def _threshold_from_config(config: object) -> float | None:
    parameters = config.parameters  # type: ignore[attr-defined]
    if THRESHOLD_PARAMETER not in parameters:
        return None
    text = parameters[THRESHOLD_PARAMETER].string_value
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if math.isnan(threshold):
        raise ProtocolError(
            f"the model's parameter {THRESHOLD_PARAMETER} is {text!r}: expected a number; build the repository again"
        )
    return threshold
