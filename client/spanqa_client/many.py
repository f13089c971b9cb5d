"""Many questions at once: bounded concurrency and memory, answers in order or as they come, errors in their place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sized
from contextlib import aclosing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from spanqa.errors import SpanqaError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Said = TypeVar("Said")
"""What is said to one item."""
AHEAD = 8
"""Finished answers may wait for a slow one before them in the order, this many for each worker."""


def answers_in_order(
    ask: Callable[[Any, threading.Event], Said], items: Iterable[Any], *, concurrency: int, raises: bool
) -> Iterator[Said | SpanqaError]:
    """Ask about every item and give the answers in the items' order.

    Args:
        ask: Asks about one item; the event is set once nobody waits for the answer any more.
        items: Taken as they are needed, by the thread that takes the answers.
        concurrency: Most items in flight.
        raises: Whether a failed item ends it all, or its error stands in its place.
    """
    stop = threading.Event()
    waiting: deque[Future[Said]] = deque()
    with _pool(concurrency) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(ask, item, stop))
                if len(waiting) >= AHEAD * concurrency or waiting[0].done():
                    yield _outcome(waiting.popleft(), raises)
            while waiting:
                yield _outcome(waiting.popleft(), raises)
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


def answers_as_completed(
    ask: Callable[[Any, threading.Event], Said], items: Iterable[Any], *, concurrency: int, raises: bool
) -> Iterator[tuple[int, Said | SpanqaError]]:
    """Ask about every item and give each answer as it comes, with the item's place; arguments as `answers_in_order`."""
    stop = threading.Event()
    waiting: dict[Future[Said], int] = {}
    done: SimpleQueue[Future[Said]] = SimpleQueue()
    with _pool(concurrency) as pool:
        try:
            for index, item in enumerate(items):
                future = pool.submit(ask, item, stop)
                waiting[future] = index
                future.add_done_callback(done.put)
                while len(waiting) >= AHEAD * concurrency or not done.empty():
                    future = done.get()
                    yield waiting.pop(future), _outcome(future, raises)
            while waiting:
                future = done.get()
                yield waiting.pop(future), _outcome(future, raises)
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


def with_progress(answers: Iterator[Said], items: Iterable[Any]) -> Iterator[Said]:
    """Show how many answers have come, on stderr where that is a terminal."""
    with progress_bar(items) as bar:
        for answer in answers:
            bar.update()
            yield answer


async def with_progress_async(answers: AsyncGenerator[Said, None], items: Any) -> AsyncIterator[Said]:
    """Show how many answers have come, as `with_progress`."""
    async with aclosing(answers):
        with progress_bar(items) as bar:
            async for answer in answers:
                bar.update()
                yield answer


def progress_bar(items: Any) -> Any:
    """Make a bar for items, which knows how many they are where they tell."""
    from tqdm import tqdm

    return tqdm(total=len(items) if isinstance(items, Sized) else None, unit="q", disable=None)


def _pool(concurrency: int) -> ThreadPoolExecutor:
    from concurrent.futures import (
        ThreadPoolExecutor,
    )  # with it comes logging: who only imports the client need not wait

    return ThreadPoolExecutor(concurrency, thread_name_prefix="spanqa-ask")


def _outcome(future: Future[Any], raises: bool) -> Any:
    try:
        return future.result()
    except SpanqaError as error:
        if raises:
            raise
        return error
