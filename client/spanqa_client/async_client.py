"""Asking a spanqa server from an event loop: `AsyncQAClient`, the face of `Asking` that is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from spanqa.contract import QUESTION_ANSWERING
from spanqa.errors import SpanqaError
from spanqa_client.answer import Answer
from spanqa_client.asking import Asking
from spanqa_client.async_connection import AioConnection
from spanqa_client.faces import awaiting
from spanqa_client.many import with_progress_async
from spanqa_client.many_async import answers_as_completed_async, answers_in_order_async
from spanqa_client.options import DEFAULT_CONNECT_TIMEOUT_S, HowMany, Run
from spanqa_client.security import ConnectionSettings
from spanqa_client.servers import DEFAULT_URL

if TYPE_CHECKING:
    import grpc
    from typing_extensions import Unpack

Pair = tuple[str, str]
Pairs = Iterable[Pair] | AsyncIterable[Pair]


class AsyncQAClient:
    """Asks one or several spanqa servers from one event loop; an async context manager.

    Its methods are those of `QAClient`, awaited; arguments and errors as there.
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
        self._connection = AioConnection(
            url, connect_timeout_s=connect_timeout_s, settings=connection, credentials=credentials
        )
        self._asking = Asking(self._connection, model_name)
        self.model_name = model_name

    async def __aenter__(self) -> AsyncQAClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a question in flight fails."""
        await self._connection.close()

    check = awaiting(Asking.check)
    ask = awaiting(Asking.ask)
    ask_rows = awaiting(Asking.ask_rows)
    ask_contexts = awaiting(Asking.ask_contexts)
    natural_query = awaiting(Asking.natural_query)

    @overload
    def ask_many(
        self,
        items: Pairs,
        *,
        on_error: Literal["raise"] = ...,
        as_completed: Literal[False] = ...,
        **how: Unpack[HowMany],
    ) -> AsyncIterator[Answer]: ...

    @overload
    def ask_many(
        self,
        items: Pairs,
        *,
        on_error: Literal["return"],
        as_completed: Literal[False] = ...,
        **how: Unpack[HowMany],
    ) -> AsyncIterator[Answer | SpanqaError]: ...

    @overload
    def ask_many(
        self,
        items: Pairs,
        *,
        on_error: Literal["raise"] = ...,
        as_completed: Literal[True],
        **how: Unpack[HowMany],
    ) -> AsyncIterator[tuple[int, Answer]]: ...

    @overload
    def ask_many(
        self,
        items: Pairs,
        *,
        on_error: Literal["return"],
        as_completed: Literal[True],
        **how: Unpack[HowMany],
    ) -> AsyncIterator[tuple[int, Answer | SpanqaError]]: ...

    def ask_many(
        self,
        items: Pairs,
        *,
        on_error: str = "raise",
        as_completed: bool = False,
        **how: Unpack[HowMany],
    ) -> AsyncIterator[Any]:
        """Ask many questions at once, as `QAClient.ask_many`; leaving early (`aclose`) cancels what is in flight too.

        Args:
            items: (question, context) pairs from an iterable, which should not block, or an async one.
            on_error: As there; so are the others.
        """
        run = Run.of(on_error=on_error, **how)
        asking, connection = self._asking, self._connection

        async def ask(item: Pair) -> Answer:
            return (await connection.run(asking.rows([item], run.options, run.timeout_s)))[0]

        answers_of: Any = answers_as_completed_async if as_completed else answers_in_order_async
        answers = answers_of(ask, items, concurrency=run.concurrency, raises=run.raises)
        return with_progress_async(answers, items) if run.progress else answers
