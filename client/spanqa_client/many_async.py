"""Many questions at once in an event loop: bounded concurrency and memory, answers in order or as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from spanqa.errors import SpanqaError
from spanqa_client.many import AHEAD
from spanqa_client.options import items_from

Said = TypeVar("Said")
"""What is said to one item."""


class _Run(Generic[Said]):
    """Workers that take items one after the other, and what they have found and nobody has taken yet.

    Args:
        ask: Asks about one item.
        items: The items.
        concurrency: Workers.
    """

    def __init__(
        self,
        ask: Callable[[Any], Awaitable[Said]],
        items: Iterable[Any] | AsyncIterable[Any],
        concurrency: int,
    ) -> None:
        self._ask, self._items = ask, _iterator(items)
        self._turn = asyncio.Lock()
        # Whoever takes an item has room for its answer first: so neither a slow reader nor a slow answer fills memory.
        self.room = asyncio.Semaphore(AHEAD * concurrency)
        self.found: asyncio.Queue[tuple[int, Any] | BaseException | None] = asyncio.Queue()
        self._n_taken = 0
        self._n_working = concurrency
        self._is_over = False
        self.workers = [asyncio.ensure_future(self._work()) for _ in range(concurrency)]

    async def _work(self) -> None:
        try:
            while (taken := await self._next()) is not None:
                index, item = taken
                try:
                    outcome: Any = await self._ask(item)
                except SpanqaError as error:
                    outcome = error
                self.found.put_nowait((index, outcome))
        except BaseException as error:  # the items' own, one of ours, a task cancelled: whoever waits must hear of it
            self.found.put_nowait(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._n_working -= 1
            if not self._n_working:
                self.found.put_nowait(None)

    async def _next(self) -> tuple[int, Any] | None:
        await self.room.acquire()
        async with self._turn:
            if not self._is_over:
                try:
                    item = await anext(self._items)
                except StopAsyncIteration:
                    self._is_over = True
                except BaseException:
                    self._is_over = True
                    raise
                else:
                    index, self._n_taken = self._n_taken, self._n_taken + 1
                    return index, item
        self.room.release()
        return None


async def answers_as_completed_async(
    ask: Callable[[Any], Awaitable[Said]],
    items: Iterable[Any] | AsyncIterable[Any],
    *,
    concurrency: int,
    raises: bool,
) -> AsyncIterator[tuple[int, Said | SpanqaError]]:
    """Ask about every item and give each answer as it comes, with the item's place.

    Args:
        ask: Asks about one item; cancelled once nobody waits for the answer any more.
        items: Taken as they are needed.
        concurrency: Most items in flight.
        raises: Whether a failed item ends it all, or its error is given in the answer's place.
    """
    run: _Run[Said] = _Run(ask, items, concurrency)
    try:
        while (found := await run.found.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            index, outcome = found
            if raises and isinstance(outcome, SpanqaError):
                raise outcome
            yield index, outcome
            run.room.release()
    finally:
        await _end(run.workers)


async def answers_in_order_async(
    ask: Callable[[Any], Awaitable[Said]],
    items: Iterable[Any] | AsyncIterable[Any],
    *,
    concurrency: int,
    raises: bool,
) -> AsyncIterator[Said | SpanqaError]:
    """Ask about every item and give the answers in the items' order; arguments as `answers_as_completed_async`."""
    run: _Run[Said] = _Run(ask, items, concurrency)
    early: dict[int, Any] = {}
    n_given = 0
    try:
        while (found := await run.found.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            early[found[0]] = found[1]
            while n_given in early:
                outcome = early.pop(n_given)
                if raises and isinstance(outcome, SpanqaError):
                    raise outcome
                yield outcome
                n_given += 1
                run.room.release()
    finally:
        await _end(run.workers)


async def _end(workers: list[asyncio.Task[None]]) -> None:
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


def _iterator(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        return aiter(items)
    return _from_iterable(items_from(items))


async def _from_iterable(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
