"""Requests in, one response to each out: right whatever runs beside it, and a fault is its own request's."""

import random

import numpy as np
import pytest

from spanqa import answering as answering_module
from spanqa import jobs
from spanqa.errors import InputError, OverloadError, SpanqaError
from spanqa.guard import CancelledError, EncoderError
from spanqa.packing import Bucket, Packing

ONE_ROW = Packing(rows_per_call=1)
SEVERAL_ROWS = Packing(rows_per_call=4, tokens_per_call=96)
IN_BUCKETS = Packing(buckets=tuple(Bucket(length=length, model="e", max_rows=3) for length in (12, 20, 32)))
SHORT = "the cat sat on the mat"
MANY = "the old bridge stands near the red tower and the river . " * 30
WORDS = ["the", "old", "bridge", "towers", "near", "École", "東京", "🚀", "1950s", "\u00a0", "x" * 120, "e\u0301", "."]


def assert_refused(outcome, kind, message):
    assert isinstance(outcome, kind), outcome
    assert message in str(outcome)


def random_request(tools, chance):
    rows = []
    for _ in range(chance.choice([1, 1, 1, 3])):
        words = [chance.choice(WORDS) for _ in range(chance.choice([3, 20, 60, 400]))]
        text = " ".join(["who", *(chance.choice(WORDS) for _ in range(chance.randint(1, 12)))])
        options = {"top_n": chance.choice([1, 5, 64]), "no_answer_threshold": chance.uniform(-9, 9)}
        options |= {"max_answer_tokens": chance.choice([1, 30, 10**6]), "distinct": chance.random() < 0.5}
        rows.append(tools.question(text, " ".join(["the", *words]), **options))
    return tools.Asked(*rows)


@pytest.mark.parametrize("n_workers", [1, 2, 5])
@pytest.mark.parametrize("packing", [ONE_ROW, SEVERAL_ROWS, IN_BUCKETS], ids=["one row", "several", "buckets"])
def test_every_answer_is_the_offline_one_at_any_number_of_workers(
    make, offline, monkeypatch, packing, n_workers, tools
):
    monkeypatch.setattr(answering_module, "LONG_CHARS", 900)  # so that some are read beside the others
    chance = random.Random(n_workers)
    engine = make(packing=packing, n_workers=n_workers, max_long_requests=100)
    asked = [random_request(tools, chance) for _ in range(40)]
    while_asking = list(asked)
    while while_asking:
        n_together = chance.randint(1, 8)
        engine.take_in(while_asking[:n_together])
        del while_asking[:n_together]
    for request in asked:
        tools.assert_same(request.outcome(), offline(request))
    tools.closed(engine)
    assert all(request.outcomes.empty() for request in asked)


@pytest.mark.parametrize("packing", [ONE_ROW, SEVERAL_ROWS], ids=["one row", "several"])
def test_requests_that_fail_fail_alone(make, network, tokenizer, offline, monkeypatch, packing, tools):
    monkeypatch.setattr(jobs, "CHECK_S", -1.0)
    faulty_token = int(tokenizer.pieces("king").ids[0])
    network.faults[faulty_token] = EncoderError("CUDA error", outage=False)
    engine = make(packing=packing, n_workers=2, max_windows=50)
    full = "king " * 43  # three full windows: as many as a call takes, where it takes several
    failing = [
        (tools.Asked(("who?", full)), EncoderError, "CUDA error"),
        (tools.Asked(error=InputError("QUESTION is empty")), InputError, "QUESTION is empty"),
        (tools.Asked(error=ZeroDivisionError("a fault of ours")), ZeroDivisionError, "a fault of ours"),
        (tools.Asked(("who?", SHORT), ("\t", SHORT)), InputError, "row 1: the question holds no word"),
        (tools.Asked(("who?", MANY * 2)), InputError, "windows, at most 50 are allowed: split the text"),
        (tools.Asked(("who?", SHORT), timeout_s=-1.0), OverloadError, "s for its turn: ask again"),
        (tools.Asked(("who?", SHORT)), CancelledError, "cancelled by its sender"),
    ]
    failing[-1][0].cancelled = True
    good = [tools.short() for _ in failing]
    engine.take_in([request for pair in zip((one[0] for one in failing), good, strict=True) for request in pair])
    for request, kind, message in failing:
        assert_refused(request.outcome(), kind, message)
    for request in good:
        tools.assert_same(request.outcome(), offline(request))


def test_what_fails_in_a_call_fails_those_with_windows_in_it_alone(make, network, tokenizer, offline, tools):
    network.faults[int(tokenizer.pieces("king").ids[0])] = EncoderError("away", outage=True)
    engine = make(packing=SEVERAL_ROWS)
    with network.held():
        engine.take_in([tools.short()])
        network.next_begun()
        requests = [tools.Asked(("who?", text)) for text in (SHORT, "the king", *[SHORT] * 3)]
        engine.take_in(requests)
    outcomes = [request.outcome() for request in requests]
    together = network.calls[1]
    assert len(together.units) == 4
    for outcome in outcomes[:4]:
        assert_refused(outcome, EncoderError, "away")
    tools.assert_same(outcomes[4], offline(requests[4]))


def test_a_request_that_cannot_be_answered_harms_no_neighbour(make, offline, capsys, tools):
    engine = make()
    broken, half_broken, sound = tools.short(), tools.short(), tools.short()

    def fail(_answer):
        raise RuntimeError("no shared memory is left")

    broken.respond = broken.refuse = fail
    half_broken.respond = fail
    engine.take_in([broken, half_broken, sound])
    tools.assert_same(sound.outcome(), offline(sound))
    assert_refused(half_broken.outcome(), RuntimeError, "no shared memory is left")
    assert "spanqa: a request could not be told of RuntimeError" in capsys.readouterr().err
    engine.take_in([again := tools.short()])
    tools.assert_same(again.outcome(), offline(again))


def test_a_refusal_that_fails_harms_no_neighbour_either(make, offline, tools):
    engine = make()
    broken, sound = tools.Asked(error=InputError("bad")), tools.short()

    def fail(_error):
        raise RuntimeError("no shared memory is left")

    broken.refuse = fail
    engine.take_in([broken, sound])
    tools.assert_same(sound.outcome(), offline(sound))


def test_a_request_cancelled_half_way_costs_no_more_calls(make, network, monkeypatch, tools):
    monkeypatch.setattr(jobs, "CHECK_S", -1.0)
    engine = make()
    request = tools.many()
    with network.held():
        engine.take_in([request])
        network.next_begun()
        request.cancelled = True
        network.permit(is_long=True)
        assert_refused(request.outcome(), CancelledError, "cancelled")
    tools.closed(engine)
    assert len(network.calls) == 1


def test_a_network_of_another_shape_is_told(make, monkeypatch, network, tools):
    engine = make()
    monkeypatch.setattr(
        tools.Network, "__call__", lambda *_: (np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))
    )
    engine.take_in([request := tools.short()])
    assert_refused(request.outcome(), SpanqaError, "the network is not the one the repository was built with")


def test_what_was_done_is_counted(make, counts, tokenizer, tools):
    engine = make(packing=IN_BUCKETS)
    never = tools.question("who sat?", SHORT, no_answer_threshold=-1000.0)
    long_question = tools.question("who " * 9, SHORT, no_answer_threshold=1000.0)
    engine.take_in([first := tools.Asked(never, long_question), tools.Asked(error=InputError("bad"))])
    first.outcome()  # or the next might share a call with it
    engine.take_in([tools.Asked(tools.question("who sat?", SHORT, no_answer_threshold=1000.0))])
    engine.take_in([tools.Asked(("\t", SHORT))])
    tools.closed(engine)
    n_context = len(tokenizer.pieces(SHORT))
    lengths = [len(tokenizer.pieces("who sat?")) + n_context + 3, 8 + n_context + 3]
    padded = [next(bucket.length for bucket in IN_BUCKETS.buckets if length <= bucket.length) for length in lengths]
    expected = {
        "questions": 3,
        "windows": 3,
        "no_answers": 1,
        "truncated": 1,
        "tokens": 2 * lengths[0] + lengths[1],
        "padding": 2 * (padded[0] - lengths[0]) + padded[1] - lengths[1],
        "hits": 3,
        "misses": 1,
        "bad_input": 2,
        "tokenise": 3,
        "decode": 2,
    }
    assert {name: counts.counted[name] for name in expected} == expected
    assert counts.counted["network"] == len({*padded}) + 1
    assert counts.n_queued() == 0
