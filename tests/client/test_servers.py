"""Several servers: which is asked, and what becomes of questions where one drains, dies, hangs or lacks the model."""

import threading
import time

import grpc
import pytest

from spanqa.errors import InputError
from spanqa_client.client import QAClient
from spanqa_client.errors import BadRequest, ServerUnavailable, Timeout
from spanqa_client.servers import Servers, addresses_from_url

QUESTION, CONTEXT = "Where is Rome?", "Rome lies in Italy."
DRAINED = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


@pytest.fixture
def pair(start_triton):
    return start_triton(), start_triton()


def _urls(pair):
    return ",".join(server.url for server in pair)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("a:1,b:2, a:1", ["a:1", "b:2"]),
        (["a:1", "dns:b.example:2"], ["a:1", "dns:b.example:2"]),
        ("[::1]:8001", ["[::1]:8001"]),
    ],
)
def test_addresses_are_read_each_once(url, addresses):
    assert addresses_from_url(url) == addresses


@pytest.mark.parametrize(
    "url", ["", "a", "a:1,", "a:0", "a:70000", "::1:8001", "http://a:1", [], [1], "a b:1", "ipv4:a:1"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError, match="give host:port"):
        QAClient(url)


def test_the_server_with_the_fewest_calls_is_asked_and_of_equals_each_in_its_turn():
    servers = Servers(["a:1", "b:1"])
    first, second = servers.take(0.0), servers.take(0.0)
    assert {first.url, second.url} == {"a:1", "b:1"}
    servers.release(first)
    assert servers.take(0.0) is first
    servers.release(first)
    servers.release(second)
    turns = []
    for _ in range(6):
        taken = servers.take(0.0)
        turns.append(taken.url)
        servers.release(taken)
    assert sorted(turns) == ["a:1"] * 3 + ["b:1"] * 3


def test_a_server_that_failed_rests_and_one_call_finds_out_whether_it_is_back():
    servers = Servers(["a:1", "b:1"])
    bad = servers.take(0.0)
    servers.failed(bad, 0.0)
    servers.release(bad)
    assert all(servers.take(0.05) is not bad for _ in range(3))
    assert servers.take(0.15) is bad
    assert all(servers.take(0.15) is not bad for _ in range(3))
    servers.answered(bad)
    assert servers.n_fit(0.15) == 2


def test_where_all_rest_the_one_that_rests_least_is_asked():
    servers = Servers(["a:1", "b:1"])
    for server, times in zip(servers.all, (3, 1), strict=True):
        for _ in range(times):
            servers.failed(server, 0.0)
    assert servers.take(0.0).url == "b:1"


def test_both_of_two_servers_are_asked(face, pair):
    with face(_urls(pair)) as client:
        assert len(list(client.ask_many([(QUESTION, CONTEXT)] * 40, concurrency=4))) == 40
    assert all(len(server.requests) >= 10 for server in pair)


@pytest.mark.parametrize("refusal", [DRAINED, (grpc.StatusCode.NOT_FOUND, "model has no available versions")])
def test_a_server_that_drains_loses_no_question_and_holds_up_none(face, pair, refusal):
    pair[0].script.extend([refusal] * 1000)
    with face(_urls(pair)) as client:
        answers = list(client.ask_many([(QUESTION, CONTEXT)] * 60, concurrency=8))
    assert [answer.text for answer in answers] == ["Rome"] * 60
    # It rests: of 60 questions only few find out that it refuses them.
    assert len(pair[0].requests) < 30


def test_a_server_that_dies_in_the_middle_loses_no_question(face, pair):
    for server in pair:
        server.delay_s = 0.01
    with face(_urls(pair)) as client:
        client.ask(QUESTION, CONTEXT)
        timer = threading.Timer(0.1, pair[0].stop)
        timer.start()
        answers = list(client.ask_many([(QUESTION, CONTEXT)] * 150, concurrency=8))
        timer.join()
    assert [answer.text for answer in answers] == ["Rome"] * 150


def test_a_server_that_was_never_there_costs_nothing_but_a_try(face, pair):
    pair[1].stop()
    with face([pair[1].url, pair[0].url], connect_timeout_s=60) as client:
        started = time.monotonic()
        for _ in range(4):
            assert client.ask(QUESTION, CONTEXT).text == "Rome"
        assert time.monotonic() - started < 20


def test_one_that_comes_back_is_asked_again(pair):
    with QAClient(_urls(pair)) as client:
        list(client.ask_many([(QUESTION, CONTEXT)] * 4))
        pair[0].stop()
        list(client.ask_many([(QUESTION, CONTEXT)] * 4))
        before = len(pair[0].requests)
        pair[0].start()
        deadline = time.monotonic() + 30
        while len(pair[0].requests) == before and time.monotonic() < deadline:
            client.ask(QUESTION, CONTEXT)
            time.sleep(0.02)
    assert len(pair[0].requests) > before


def test_where_none_is_there_all_are_named(face, pair):
    for server in pair:
        server.stop()
    with (
        face(_urls(pair), connect_timeout_s=0.3) as client,
        pytest.raises(ServerUnavailable, match=f"no server answers at {pair[0].url}, {pair[1].url} .waited 0.3 s"),
    ):
        client.ask(QUESTION, CONTEXT)


def test_a_bad_question_is_not_asked_twice(pair):
    for server in pair:
        server.script.append((grpc.StatusCode.INVALID_ARGUMENT, "too long"))
    with QAClient(_urls(pair)) as client, pytest.raises(BadRequest, match="too long"):
        client.ask(QUESTION, CONTEXT)
    assert sum(len(server.requests) for server in pair) == 1


def test_a_server_that_hangs_costs_its_own_questions_alone(pair):
    with QAClient(_urls(pair)) as client:
        list(client.ask_many([(QUESTION, CONTEXT)] * 4, concurrency=2))
        pair[0].delay_s = 4.0
        outcomes = list(client.ask_many([(QUESTION, CONTEXT)] * 20, concurrency=2, on_error="return", timeout_s=1.0))
    lost = [outcome for outcome in outcomes if isinstance(outcome, Timeout)]
    assert 1 <= len(lost) <= 3
    assert len([outcome for outcome in outcomes if not isinstance(outcome, Exception)]) == 20 - len(lost)


def test_questions_that_time_out_on_servers_that_are_there_are_all_told_so(pair):
    with QAClient(_urls(pair)) as client:
        list(client.ask_many([(QUESTION, CONTEXT)] * 4, concurrency=2))
        pair[0].delay_s = pair[1].delay_s = 3.0
        outcomes = list(client.ask_many([(QUESTION, CONTEXT)] * 8, concurrency=8, on_error="return", timeout_s=0.5))
    assert [type(outcome) for outcome in outcomes] == [Timeout] * 8


def test_a_server_that_hangs_gets_no_question_again_until_it_shows_that_it_lives(pair):
    with QAClient(_urls(pair), connect_timeout_s=0.2) as client:
        list(client.ask_many([(QUESTION, CONTEXT)] * 4, concurrency=2))
        pair[0].delay_s = pair[0].live_delay_s = 1.5
        list(client.ask_many([(QUESTION, CONTEXT)] * 4, concurrency=2, on_error="return", timeout_s=0.5))
        hung = len(pair[0].requests)
        for _ in range(8):
            time.sleep(0.1)
            assert client.ask(QUESTION, CONTEXT).text == "Rome"
        assert len(pair[0].requests) == hung
        pair[0].delay_s = pair[0].live_delay_s = 0.0
        deadline = time.monotonic() + 30
        while len(pair[0].requests) == hung and time.monotonic() < deadline:
            time.sleep(0.05)
            client.ask(QUESTION, CONTEXT)
        assert len(pair[0].requests) > hung


def test_both_without_the_model_is_one_error(face, pair):
    with face(_urls(pair), model_name="other") as client, pytest.raises(ServerUnavailable, match="'other'"):
        client.ask(QUESTION, CONTEXT)
    # At once, as soon as both have said so.
    assert all(server.requests for server in pair)
    assert sum(len(server.requests) for server in pair) < 6
