import itertools
import random
import threading
import time

import grpc
import pytest

from spanqa.errors import InputError
from spanqa_client.client import QAClient
from spanqa_client.errors import BadRequest, ServerUnavailable


@pytest.fixture
def client(triton):
    with QAClient(triton.url) as client:
        yield client


def _item(number):
    return f"Where is w{number}?", f"Here is w{number}."


def test_answers_come_in_the_order_of_the_questions(triton, client):
    delays = random.Random(0)
    triton.script.extend(lambda _: time.sleep(delays.random() * 0.01) for _ in range(300))
    texts = [answer.text for answer in client.ask_many(map(_item, range(300)))]
    assert texts == [f"w{number}" for number in range(300)]


@pytest.mark.parametrize("concurrency", [1, 7])
def test_concurrency_is_used_and_kept_to(triton, client, concurrency):
    triton.delay_s = 0.02
    assert len(list(client.ask_many(map(_item, range(60)), concurrency=concurrency))) == 60
    assert triton.most_in_flight == concurrency


def test_one_bad_item_does_not_end_the_run_where_errors_are_returned(triton, client):
    items = [_item(0), ("", "text"), "no pair at all", _item(3)]
    first, empty, no_pair, last = client.ask_many(items, on_error="return")
    assert (first.text, last.text) == ("w0", "w3")
    assert isinstance(empty, InputError)
    assert isinstance(no_pair, InputError)
    assert "(question, context) pairs" in str(no_pair)


def test_a_refused_question_stands_in_its_place(triton, client):
    triton.script.extend([None, (grpc.StatusCode.INVALID_ARGUMENT, "too long"), None])
    outcomes = list(client.ask_many(map(_item, range(3)), concurrency=1, on_error="return"))
    assert isinstance(outcomes[1], BadRequest)
    assert [outcomes[0].text, outcomes[2].text] == ["w0", "w2"]


def test_the_first_error_is_raised_in_its_turn(client):
    answers = client.ask_many([_item(0), ("", "text"), _item(2)])
    assert next(answers).text == "w0"
    with pytest.raises(InputError, match="question is empty"):
        next(answers)


def test_items_are_taken_as_needed_and_leaving_early_sends_no_more(triton, client):
    taken = itertools.count()
    answers = client.ask_many((_item(next(taken)) for _ in itertools.count()), concurrency=4)
    assert [next(answers).text for _ in range(10)] == [f"w{number}" for number in range(10)]
    answers.close()
    sent = len(triton.requests)
    time.sleep(0.1)
    assert len(triton.requests) == sent
    assert sent <= next(taken) < 10 + 8 * 4 + 1


def test_leaving_early_does_not_wait_for_retries(triton, client):
    def items():
        yield _item(0)
        while not triton.requests or triton.n_in_flight:
            time.sleep(0.01)
        triton.script.extend([(grpc.StatusCode.UNAVAILABLE, "away")] * 500)
        yield from map(_item, range(1, 9))

    answers = client.ask_many(items(), concurrency=2)
    assert next(answers).text == "w0"
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 10


def test_a_client_is_shared_by_threads(triton, client):
    texts = {}

    def work(number):
        texts[number] = [client.ask(*_item(number * 100 + i)).text for i in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: [f"w{number * 100 + i}" for i in range(20)] for number in range(8)}


def test_a_dead_server_fails_the_run(triton):
    triton.stop()
    with QAClient(triton.url, connect_timeout_s=0.2) as client:
        outcomes = list(client.ask_many(map(_item, range(3)), on_error="return"))
        assert [type(outcome) for outcome in outcomes] == [ServerUnavailable] * 3


def test_progress_is_silent_where_stderr_is_no_terminal(client, capsys):
    assert len(list(client.ask_many([_item(0)], progress=True))) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("option", "name"), [({"concurrency": 0}, "concurrency"), ({"on_error": "skip"}, "on_error")])
def test_settings_of_a_run_are_checked_at_once(client, option, name):
    with pytest.raises(InputError, match=name):
        client.ask_many([], **option)
