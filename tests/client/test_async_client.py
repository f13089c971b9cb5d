"""The asyncio face: what it shares with the sync one, and what only an event loop has."""

import asyncio
import inspect
import itertools
import sys
import time

import grpc
import pytest

import spanqa_client
from spanqa.errors import InputError
from spanqa_client.asking import Asking
from spanqa_client.async_client import AsyncQAClient
from spanqa_client.client import QAClient
from spanqa_client.errors import BadRequest, ClientError, ServerUnavailable, Timeout

QUESTION, CONTEXT = "Where is Zürich?", "😀 The lake of Zürich. Zürich lies in Switzerland."


def _item(number):
    return f"Where is w{number}?", f"Here is w{number}."


def _run(triton, do, **settings):
    """Runs a coroutine function that is given a client."""

    async def with_client():
        async with AsyncQAClient(triton.url, **settings) as client:
            return await do(client)

    return asyncio.run(with_client())


def test_both_faces_give_the_same_answers(triton):
    async def ask(client):
        await client.check()
        rows = await client.ask_rows([(QUESTION, CONTEXT), ("Where is the lake?", CONTEXT)][:1])
        return await client.ask(QUESTION, CONTEXT, top_n=5), rows

    with QAClient(triton.url) as client:
        expected = client.ask(QUESTION, CONTEXT, top_n=5)
        rows = client.ask_rows([(QUESTION, CONTEXT)])
    assert _run(triton, ask) == (expected, rows)


def test_both_faces_have_the_same_methods_with_the_same_arguments_and_documentation():
    names = [name for name in vars(Asking) if not name.startswith("_") and name != "rows"]
    assert {"ask", "ask_rows", "ask_contexts", "natural_query", "check"} == set(names)
    for name in [*names, "ask_many", "__init__"]:
        one, other = getattr(QAClient, name), getattr(AsyncQAClient, name)
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters)
        if name in names:
            assert one.__doc__ == other.__doc__
            assert inspect.iscoroutinefunction(other)
            assert not inspect.iscoroutinefunction(one)
            assert "Steps" not in str(inspect.signature(one)) + str(inspect.signature(other))


def test_items_that_are_cancelled_are_no_end_of_them(triton):
    async def items():
        for number in range(3):
            yield _item(number)
        raise asyncio.CancelledError

    async def ask(client):
        return [answer async for answer in client.ask_many(items())]

    with pytest.raises(asyncio.CancelledError):
        _run(triton, ask)


def test_a_task_of_it_that_is_cancelled_from_outside_does_not_hang_the_rest(triton):
    async def ask(client):
        found = client.ask_many((_item(number) for number in range(300)), concurrency=2)
        await anext(found)
        mine = asyncio.current_task()
        next(task for task in asyncio.all_tasks() if task is not mine and "_work" in repr(task)).cancel()
        return [answer async for answer in found]

    with pytest.raises(asyncio.CancelledError):
        _run(triton, lambda client: asyncio.wait_for(ask(client), 30))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before Python 3.11 a task does not tell that it is cancelled")
def test_a_task_that_is_cancelled_while_the_client_is_closed_stays_cancelled(triton):
    async def ask(client):
        triton.delay_s = 2.0
        task = asyncio.ensure_future(client.ask(QUESTION, CONTEXT))
        await asyncio.sleep(0.2)
        task.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    _run(triton, ask)


@pytest.mark.parametrize("progress", [False, True])
def test_after_leaving_early_nothing_is_under_way(triton, progress):
    async def ask(client):
        found = client.ask_many((_item(number) for number in range(300)), concurrency=4, progress=progress)
        await anext(found)
        await found.aclose()
        return [task for task in asyncio.all_tasks() if "_work" in repr(task)]

    assert _run(triton, ask) == []


def test_the_package_offers_it_by_name():
    assert spanqa_client.AsyncQAClient is AsyncQAClient


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"),
        (grpc.StatusCode.INTERNAL, "Stub process 'question_answering_0_0' is not healthy."),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
    ],
)
def test_what_passes_by_itself_is_retried(triton, code, details):
    triton.script.extend([(code, details)] * 2)
    assert _run(triton, lambda client: client.ask(QUESTION, CONTEXT)).text == "Zürich"
    assert len(triton.requests) == 3


def test_errors_are_those_of_the_other_face(triton):
    triton.script.append((grpc.StatusCode.INVALID_ARGUMENT, "too long"))
    with pytest.raises(BadRequest, match="too long") as caught:
        _run(triton, lambda client: client.ask(QUESTION, CONTEXT))
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    with pytest.raises(InputError, match="the question is empty"):
        _run(triton, lambda client: client.ask("", CONTEXT))
    triton.delay_s = 0.5
    with pytest.raises(Timeout, match=r"within 0\.1 s"):
        _run(triton, lambda client: client.ask(QUESTION, CONTEXT, timeout_s=0.1))


def test_retries_end_with_the_time_allowed_and_the_loop_goes_on_meanwhile(triton):
    triton.script.extend([(grpc.StatusCode.UNAVAILABLE, "no room in the queue")] * 1000)

    async def ask(client):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.ensure_future(tick())
        with pytest.raises(ServerUnavailable, match="no room"):
            await client.ask(QUESTION, CONTEXT, timeout_s=0.5)
        ticker.cancel()
        return ticks

    assert _run(triton, ask) > 5
    assert len(triton.requests) > 1


def test_no_server_is_one_sentence(triton):
    triton.stop()
    with pytest.raises(ServerUnavailable, match=r"no server answers at .*spanqa serve"):
        _run(triton, lambda client: client.ask(QUESTION, CONTEXT), connect_timeout_s=0.2)


def test_a_closed_client_and_one_of_another_loop_say_so(triton):
    async def closed(client):
        await client.ask(QUESTION, CONTEXT)
        await client.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await client.ask(QUESTION, CONTEXT)

    _run(triton, closed)
    client = AsyncQAClient(triton.url)
    asyncio.run(client.check())
    with pytest.raises(ClientError, match="another event loop"):
        asyncio.run(client.check())


def test_closing_amid_a_question_is_told_and_a_cancelled_one_is_cancelled(triton):
    async def ask(client):
        await client.ask(QUESTION, CONTEXT)
        triton.delay_s = 0.5
        cancelled = asyncio.ensure_future(client.ask(QUESTION, CONTEXT))
        closed = asyncio.ensure_future(client.ask(QUESTION, CONTEXT))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await client.close()
        with pytest.raises(ClientError, match="closed while it was asking"):
            await closed
        assert all(server.n_in_flight == 0 for server in client._connection.servers.all)

    _run(triton, ask)


@pytest.mark.parametrize("is_async", [False, True])
def test_many_come_in_order_within_the_concurrency(triton, is_async):
    triton.delay_s = 0.005

    async def items():
        for number in range(60):
            await asyncio.sleep(0)
            yield _item(number)

    async def ask(client):
        source = items() if is_async else map(_item, range(60))
        return [answer.text async for answer in client.ask_many(source, concurrency=5)]

    assert _run(triton, ask) == [f"w{number}" for number in range(60)]
    assert triton.most_in_flight == 5


def test_endless_items_are_taken_as_needed_and_leaving_early_sends_no_more(triton):
    taken = itertools.count()

    async def endless():
        while True:
            yield _item(next(taken))

    async def ask(client):
        answers = client.ask_many(endless(), concurrency=4)
        texts = [(await anext(answers)).text for _ in range(10)]
        # Nobody takes answers: what is asked ahead has an end.
        await asyncio.sleep(0.3)
        waiting = len(triton.requests)
        await answers.aclose()
        await asyncio.sleep(0.1)
        return texts, waiting

    texts, waiting = _run(triton, ask)
    assert texts == [f"w{number}" for number in range(10)]
    assert len(triton.requests) == waiting
    assert waiting <= next(taken) <= 10 + 8 * 4 + 1


def test_leaving_early_cancels_what_is_in_flight(triton):
    async def ask(client):
        answers = client.ask_many(map(_item, range(9)), concurrency=2)
        await anext(answers)
        triton.script.extend([(grpc.StatusCode.UNAVAILABLE, "away")] * 500)
        started = time.monotonic()
        await answers.aclose()
        return time.monotonic() - started

    assert _run(triton, ask) < 10


def test_an_error_of_the_items_reaches_whoever_takes_the_answers(triton):
    async def items():
        yield _item(0)
        raise RuntimeError("the file is gone")

    async def ask(client):
        return [answer async for answer in client.ask_many(items())]

    with pytest.raises(RuntimeError, match="the file is gone"):
        _run(triton, ask)

    async def wrong(client):
        return [answer async for answer in client.ask_many(3)]

    with pytest.raises(InputError, match="items are of type int"):
        _run(triton, wrong)


def test_failed_questions_stand_in_their_places_or_end_the_run(triton):
    items = [_item(0), ("", "text"), "no pair at all", _item(3)]

    async def ask(client):
        return [outcome async for outcome in client.ask_many(items, on_error="return")]

    first, empty, no_pair, last = _run(triton, ask)
    assert (first.text, last.text) == ("w0", "w3")
    assert [type(empty), type(no_pair)] == [InputError, InputError]

    async def raising(client):
        return [outcome async for outcome in client.ask_many(items)]

    with pytest.raises(InputError, match="the question is empty"):
        _run(triton, raising)


def test_as_completed_gives_each_answer_with_its_place(face, triton):
    def slow(_):
        time.sleep(0.5)

    triton.script.append(slow)
    with face(triton.url) as client:
        found = list(client.ask_many(map(_item, range(12)), concurrency=3, as_completed=True))
    assert {index: answer.text for index, answer in found} == {number: f"w{number}" for number in range(12)}
    # The slow one was among the first three sent, and came after others that were sent later.
    assert [index for index, _ in found] != list(range(12))


def test_as_completed_gives_errors_in_their_places_too(face, triton):
    with face(triton.url) as client:
        found = dict(
            client.ask_many([_item(0), ("", "x"), _item(2)], as_completed=True, on_error="return", concurrency=1)
        )
        assert [type(found[index]).__name__ for index in range(3)] == ["Answer", "InputError", "Answer"]
        with pytest.raises(InputError, match="the question is empty"):
            list(client.ask_many([("", "x")], as_completed=True))


@pytest.mark.parametrize(("option", "name"), [({"concurrency": 0}, "concurrency"), ({"top_n": 65}, "top_n")])
def test_settings_of_a_run_are_checked_at_once(triton, option, name):
    async def ask(client):
        with pytest.raises(InputError, match=name):
            client.ask_many([], **option)

    _run(triton, ask)
