"""A short request waits for one window of a long one at most, and who would wait too long is refused at once."""

import pytest

from spanqa import answering as answering_module
from spanqa import schedule
from spanqa.errors import OverloadError, SpanqaError

LONGEST_S = 20
SHORT = "the cat sat on the mat"
MANY = "the old bridge stands near the red tower and the river . " * 30


def assert_refused(outcome, kind, message):
    assert isinstance(outcome, kind), outcome
    assert message in str(outcome)


def test_overload_is_refused_at_once_and_forgotten_when_it_is_over(make, network, offline, counts, tools):
    engine = make(n_workers=2, max_queued_requests=5)
    with network.held():
        accepted = [tools.short() for _ in range(5)]
        engine.take_in(accepted)
        refused = [tools.short() for _ in range(3)]
        engine.take_in(refused)  # while nothing moves
        for request in refused:
            assert_refused(request.outcome(), OverloadError, "5 requests are waiting, which is the most")
        assert len(network.calls) <= 2
    for request in accepted:
        tools.assert_same(request.outcome(), offline(request))
    tools.closed(engine)
    assert counts.counted["queue_full"] == 3
    assert counts.n_queued() == 0


def test_after_an_overload_requests_are_accepted_again(make, network, offline, tools):
    engine = make(max_queued_requests=1)
    with network.held():
        engine.take_in([first := tools.short(), late := tools.short()])
        assert_refused(late.outcome(), OverloadError, "ask again")
    first.outcome()
    engine.take_in([again := tools.short()])
    tools.assert_same(again.outcome(), offline(again))


def test_a_request_waits_no_longer_than_its_sender_wants_and_one_that_began_is_finished(make, network, offline, tools):
    engine = make()
    with network.held():
        engine.take_in([begun := tools.Asked(("what stands?", MANY[:200]), timeout_s=LONGEST_S)])
        network.next_begun()
        engine.take_in([late := tools.Asked(("who?", SHORT), timeout_s=0.0)])
    assert_refused(late.outcome(), OverloadError, "s for its turn: ask again")
    tools.assert_same(begun.outcome(), offline(begun))


@pytest.mark.parametrize("is_read_beside", [False, True])
def test_a_short_request_waits_for_one_window_of_a_long_one_at_most(make, network, monkeypatch, is_read_beside, tools):
    if is_read_beside:
        monkeypatch.setattr(answering_module, "LONG_CHARS", 900)
    engine = make()
    with network.held():
        engine.take_in([long := tools.many()])
        assert network.next_begun().is_long
        for _ in range(5):
            engine.take_in([asked := tools.short()])
            network.permit(is_long=True)
            assert not network.next_begun().is_long
            network.permit(is_long=False)
            assert isinstance(asked.outcome(), dict)
            assert network.next_begun().is_long
        assert long.outcomes.empty()
    assert isinstance(long.outcome(), dict)


def test_a_worker_is_free_for_short_requests_while_some_come(make, network, monkeypatch, tools):
    monkeypatch.setattr(schedule, "RECENT_S", 3600.0)
    engine = make(n_workers=2)
    engine.take_in([first := tools.short()])
    first.outcome()
    network.next_begun()
    with network.held():
        engine.take_in([tools.many()])
        assert network.next_begun().is_long
        for _ in range(5):  # while the long one's window is not done
            engine.take_in([asked := tools.short()])
            assert not network.next_begun().is_long
            assert len([call for call in network.calls if call.is_long]) == 1
            network.permit(is_long=False)
            assert isinstance(asked.outcome(), dict)


def test_long_requests_are_read_one_at_a_time(make, network, monkeypatch, offline, tools):
    monkeypatch.setattr(answering_module, "LONG_CHARS", 900)
    engine = make(n_workers=2, max_long_requests=3)
    with network.held():
        requests = [tools.many() for _ in range(4)]
        engine.take_in(requests)
        assert_refused(requests[3].outcome(), OverloadError, "3 long documents are waiting, which is the most")
        asked = {unit.job for unit in (*network.next_begun().units, *network.next_begun().units)}
        assert len(asked) == 1
    for request in requests[:3]:
        tools.assert_same(request.outcome(), offline(request))
    order = list(dict.fromkeys(unit.job for call in network.calls for unit in call.units))
    n_windows = [sum(unit.job is job for call in network.calls for unit in call.units) for job in order]
    taken = [job for call in network.calls for job in {unit.job for unit in call.units}]
    assert taken == [job for job, n_times in zip(order, n_windows, strict=True) for _ in range(n_times)]


def test_closing_answers_what_was_accepted_and_refuses_the_rest(make, network, monkeypatch, offline, tools):
    monkeypatch.setattr(answering_module, "LONG_CHARS", 900)
    engine = make(n_workers=2)
    with network.held():
        accepted = [
            make_one() for make_one in (tools.short, tools.many, tools.short, tools.many, tools.short) for _ in range(3)
        ]
        engine.take_in(accepted)
        ending = tools.closing(engine)
        while not isinstance(refusal := refused_or_none(tools, engine), SpanqaError):
            pass
        assert_refused(refusal, OverloadError, "the model is being unloaded: ask again in a moment")
        assert ending.is_alive()
    ending.join(LONGEST_S)
    assert not ending.is_alive()
    for request in accepted:
        tools.assert_same(request.outcome(), offline(request))


def refused_or_none(tools, engine):
    """What a request that comes now is told; None where it is accepted."""
    engine.take_in([late := tools.Asked(("\t", SHORT))])  # accepted it fails at once
    outcome = late.outcome()
    return outcome if isinstance(outcome, OverloadError) else None
