"""Many questions at once: bounded concurrency, answers in order, errors in their place, progress."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from spanqa.errors import SpanqaError
from spanqa_client.answer import Answer

Said = TypeVar("Said")
"""What is said to one item."""
# Finished answers may wait for a slow one before them in the order, this many for each worker.
_AHEAD = 8


def answers_in_order(
    ask: Callable[[Any, threading.Event], Said], items: Iterable[Any], *, concurrency: int, raises: bool
) -> Iterator[Said | SpanqaError]:
    """Ask about every item and give the answers in the items' order.

    Args:
        ask: Asks about one item; the event is set once nobody waits for the answer any more.
        items: Taken as they are needed.
        concurrency: Most items in flight.
        raises: Whether a failed item ends it all, or its error stands in its place.
    """
    stop = threading.Event()
    waiting: deque[Future[Said]] = deque()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="spanqa-ask") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(ask, item, stop))
                if len(waiting) >= _AHEAD * concurrency or waiting[0].done():
                    yield _outcome(waiting.popleft(), raises)
            while waiting:
                yield _outcome(waiting.popleft(), raises)
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


def with_progress(answers: Iterator[Answer | SpanqaError], items: Iterable[Any]) -> Iterator[Answer | SpanqaError]:
    """Show how many answers have come, on stderr where that is a terminal."""
    from tqdm import tqdm

    total = len(items) if isinstance(items, Sized) else None
    with tqdm(total=total, unit="q", disable=None) as bar:
        for answer in answers:
            bar.update()
            yield answer


def _outcome(future: Future[Any], raises: bool) -> Any:
    try:
        return future.result()
    except SpanqaError as error:
        if raises:
            raise
        return error
