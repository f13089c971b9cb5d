"""Who answers the rows of a batch: what every one of them does, and the one that asks a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tritonclient.grpc import service_pb2

from spanqa.errors import SpanqaError
from spanqa_client.answer import Answer
from spanqa_client.batch.rows import Row, Settled
from spanqa_client.client import DEFAULT_CONNECT_TIMEOUT_S, QAClient
from spanqa_client.connection import Connection
from spanqa_client.errors import ServerUnavailable
from spanqa_client.options import Options
from spanqa_client.security import ConnectionSettings

T = TypeVar("T")


class Asker(Protocol):
    """Answers rows."""

    def ask(self, rows: Iterable[Row]) -> Iterator[Settled]:
        """Settle every row, in any order; rows are taken as they are needed.

        Raises:
            SpanqaError: It makes no sense to go on.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class Plan(Protocol):
    """How a batch is answered: a value that travels to the processes that do it."""

    def open(self) -> Asker:
        """Make what answers, in the process that does.

        Raises:
            SpanqaError: It cannot be made there.
        """


def settled_in_order(
    rows: Iterable[Row],
    ask: Callable[[Iterator[Row]], Iterator[T | SpanqaError]],
    columns: Callable[[T], dict[str, Any]],
    *,
    patience: int,
) -> Iterator[Settled]:
    """Settle rows by outcomes that come in their order.

    Args:
        rows: The rows.
        ask: Gives the answer or the error of each row that it takes.
        columns: Gives the columns of an answer.
        patience: Rows in a row for which no server is there, until it is taken for lost.

    Raises:
        ServerUnavailable: It is.
    """
    waiting: deque[Row] = deque()
    n_unavailable = 0

    def taken() -> Iterator[Row]:
        for row in rows:
            waiting.append(row)
            yield row

    for outcome in ask(taken()):
        row = waiting.popleft()
        if not isinstance(outcome, SpanqaError):
            n_unavailable = 0
            yield Settled(row.number, row.id, columns(outcome))
            continue
        n_unavailable = n_unavailable + 1 if isinstance(outcome, ServerUnavailable) else 0
        if n_unavailable > patience:
            raise outcome
        yield Settled(row.number, row.id, reason=str(outcome))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """Asking a server.

    Args:
        url: host:port of its gRPC endpoint.
        model: The model to ask.
        options: How questions are to be answered.
        concurrency: Most questions in flight, of one process.
        timeout_s: For a question, retries included.
        connection: How it is connected to.
    """

    url: str
    model: str
    options: Options
    concurrency: int
    timeout_s: float
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)

    def open(self) -> ServerAsker:
        """Connect, when the first question is asked."""
        return ServerAsker(self)

    def client(self) -> QAClient:
        """Make a client."""
        return QAClient(self.url, model_name=self.model, connection=self.connection)

    def fingerprint(self) -> dict[str, Any]:
        """Say which model the server has, as far as it tells.

        Raises:
            InputError: The address is not one.
            ClientError: It is not there, or does not have the model.
        """
        self.client().close()  # which refuses what is no address
        connection = Connection(self.url, connect_timeout_s=DEFAULT_CONNECT_TIMEOUT_S, settings=self.connection)
        try:
            about = service_pb2.ModelMetadataRequest(name=self.model)
            metadata = connection.call(
                lambda stub, left_s: stub.ModelMetadata(about, timeout=left_s()), timeout_s=self.timeout_s
            )
            asked = service_pb2.ModelConfigRequest(name=self.model)
            config = connection.call(
                lambda stub, left_s: stub.ModelConfig(asked, timeout=left_s()), timeout_s=self.timeout_s
            ).config
        finally:
            connection.close()
        # What the build wrote of the model; the other parameters are limits, which its operator may change.
        own = {
            name: config.parameters[name].string_value
            for name in ("no_answer_threshold", "max_answer_tokens")
            if name in config.parameters
        }
        return {"name": self.model, "versions": list(metadata.versions), **own}


class ServerAsker:
    """Asks a server, some questions at once.

    Args:
        plan: Which one, and how.
    """

    def __init__(self, plan: ServerPlan) -> None:
        self._plan, self._client = plan, plan.client()

    def ask(self, rows: Iterable[Row]) -> Iterator[Settled]:
        """Settle rows, in their order."""
        plan = self._plan

        def answers(taken: Iterator[Row]) -> Iterator[Answer | SpanqaError]:
            return self._client.ask_many(
                ((row.question, row.context) for row in taken),
                concurrency=plan.concurrency,
                on_error="return",
                timeout_s=plan.timeout_s,
                top_n=plan.options.top_n,
                no_answer_threshold=plan.options.no_answer_threshold,
                max_answer_tokens=plan.options.max_answer_tokens,
                distinct=plan.options.distinct,
            )

        return settled_in_order(rows, answers, Answer.to_dict, patience=plan.concurrency)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
