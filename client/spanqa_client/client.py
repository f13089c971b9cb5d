"""Asking a spanqa server and waiting for its answers: `QAClient`, the face of `Asking` that blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from spanqa.contract import QUESTION_ANSWERING
from spanqa.errors import SpanqaError
from spanqa_client.answer import Answer
from spanqa_client.asking import Asking
from spanqa_client.connection import Connection
from spanqa_client.faces import blocking
from spanqa_client.many import answers_as_completed, answers_in_order, with_progress
from spanqa_client.options import DEFAULT_CONCURRENCY as DEFAULT_CONCURRENCY
from spanqa_client.options import DEFAULT_CONNECT_TIMEOUT_S as DEFAULT_CONNECT_TIMEOUT_S
from spanqa_client.options import DEFAULT_TIMEOUT_S as DEFAULT_TIMEOUT_S
from spanqa_client.options import HowMany, Run, items_from
from spanqa_client.security import ConnectionSettings
from spanqa_client.servers import DEFAULT_URL as DEFAULT_URL

if TYPE_CHECKING:
    import grpc
    from typing_extensions import Unpack

Pair = tuple[str, str]


class QAClient:
    """Asks one or several spanqa servers; a context manager, safe to use from several threads.

    Retries within a question's time what passes by itself: a server or model that is restarting or gone while another
    is there, a lost connection, a full queue.

    Args:
        url: host:port of a server's gRPC endpoint; several, which share the questions, with commas between them or as a
            list. "dns:" before a name means every address that it has.
        model_name: The model to ask; the ensemble takes the same requests.
        connect_timeout_s: How long the first question waits for a server to be there.
        connection: TLS, a token, keepalive, compression; None is an open connection.
        credentials: gRPC's own TLS credentials (`grpc.ssl_channel_credentials()`), in place of the settings'.

    Raises:
        InputError: An address, a timeout or a setting is not what it must be.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        model_name: str = QUESTION_ANSWERING,
        connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S,
        connection: ConnectionSettings | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._connection = Connection(
            url, connect_timeout_s=connect_timeout_s, settings=connection, credentials=credentials
        )
        self._asking = Asking(self._connection, model_name)
        self.model_name = model_name

    def __enter__(self) -> QAClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a question in flight fails."""
        self._connection.close()

    check = blocking(Asking.check)
    ask = blocking(Asking.ask)
    ask_rows = blocking(Asking.ask_rows)
    ask_contexts = blocking(Asking.ask_contexts)
    natural_query = blocking(Asking.natural_query)

    @overload
    def ask_many(
        self,
        items: Iterable[Pair],
        *,
        on_error: Literal["raise"] = ...,
        as_completed: Literal[False] = ...,
        **how: Unpack[HowMany],
    ) -> Iterator[Answer]: ...

    @overload
    def ask_many(
        self,
        items: Iterable[Pair],
        *,
        on_error: Literal["return"],
        as_completed: Literal[False] = ...,
        **how: Unpack[HowMany],
    ) -> Iterator[Answer | SpanqaError]: ...

    @overload
    def ask_many(
        self,
        items: Iterable[Pair],
        *,
        on_error: Literal["raise"] = ...,
        as_completed: Literal[True],
        **how: Unpack[HowMany],
    ) -> Iterator[tuple[int, Answer]]: ...

    @overload
    def ask_many(
        self,
        items: Iterable[Pair],
        *,
        on_error: Literal["return"],
        as_completed: Literal[True],
        **how: Unpack[HowMany],
    ) -> Iterator[tuple[int, Answer | SpanqaError]]: ...

    def ask_many(
        self,
        items: Iterable[Pair],
        *,
        on_error: str = "raise",
        as_completed: bool = False,
        **how: Unpack[HowMany],
    ) -> Iterator[Any]:
        """Ask many questions at once and give the answers in the order of the questions, or as they come.

        Items are taken as they are needed, so an endless iterable works. Leaving the iterator early drops the
        questions that were not sent yet.

        Args:
            items: (question, context) pairs.
            on_error: "raise" stops at the first failed question, "return" gives its error in its place.
            as_completed: Whether to give (index, answer) pairs as the answers come.
            how: concurrency, the most questions in flight (16); progress, whether to show it on stderr where that is a
                terminal; top_n, no_answer_threshold, max_answer_tokens, distinct and timeout_s as in `ask`, for each.

        Raises:
            InputError: An option cannot be sent (at once), or a question cannot (in its turn).
            ClientError: The server cannot be reached, refused or failed.
        """
        run = Run.of(on_error=on_error, **how)
        asking, connection = self._asking, self._connection

        def ask(item: Pair, stop: threading.Event) -> Answer:
            return connection.run(asking.rows([item], run.options, run.timeout_s), stop)[0]

        answers_of: Any = answers_as_completed if as_completed else answers_in_order
        answers = answers_of(ask, items_from(items), concurrency=run.concurrency, raises=run.raises)
        return with_progress(answers, items) if run.progress else answers
