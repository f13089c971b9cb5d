"""Short requests go before long ones, calls are as full as they may be, and nobody waits for ever."""

import itertools

import pytest

from spanqa.errors import InputError, LogitsError
from spanqa.jobs import LONG_WINDOWS
from spanqa.packing import Bucket, Packing
from spanqa.schedule import RECENT_S, SHORT_CALLS_A_SLICE

BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=rows) for length, rows in ((16, 3), (32, 2)))


def next_of(schedule):
    """What a worker is given now; None where it would wait."""
    with schedule._changed:
        return schedule._next()


def added(schedule, *jobs):
    for job in jobs:
        schedule.add(job)
    return jobs


def drained(schedule, *, seconds=0.0):
    """The calls that one worker makes until nothing is left for it."""
    calls = []
    while (call := next_of(schedule)) is not None:
        calls.append(call)
        schedule.done(call, seconds)
    return calls


def test_short_requests_go_in_the_order_they_came(made, tools):
    schedule = made()
    jobs = added(schedule, tools.job_of(20), tools.job_of(9, 30), tools.job_of(12))
    given_out = [unit.job for call in drained(schedule) for unit in call.units]
    assert given_out == [jobs[0], jobs[1], jobs[1], jobs[2]]


def test_the_call_after_the_longest_wait_takes_others_of_its_length_along(made, tools):
    schedule = made(Packing(buckets=BUCKETS))
    first, second, third = added(schedule, tools.job_of(30), tools.job_of(9), tools.job_of(31))
    assert [[unit.job for unit in call.units] for call in drained(schedule)] == [[first, third], [second]]


def test_a_window_that_no_bucket_takes_leaves_nothing_of_its_request_behind(made, tools):
    schedule = made(Packing(buckets=BUCKETS))
    with pytest.raises(LogitsError, match="a window of 40 tokens fits into no bucket, the longest takes 32: build"):
        schedule.add(tools.job_of(9, 40))
    with pytest.raises(LogitsError, match="fits into no bucket"):
        schedule.add(tools.job_of(9, 40, is_long=True))
    assert drained(schedule) == []


def test_a_long_request_gets_one_slice_after_every_three_calls_with_short_ones(made, tools):
    schedule = made()
    added(schedule, tools.job_of(*[9] * 40), *(tools.job_of(9) for _ in range(30)))
    kinds = [call.is_long for call in drained(schedule)]
    while_both_wait = kinds[: len(kinds) - kinds[::-1].index(False)]
    runs = [len(list(run)) for is_long, run in itertools.groupby(while_both_wait) if not is_long]
    assert set(runs[:-1]) == {SHORT_CALLS_A_SLICE}
    assert [len(list(run)) for is_long, run in itertools.groupby(while_both_wait) if is_long] == [1] * (len(runs) - 1)
    assert kinds.count(True) == 40


def test_after_a_slice_a_short_request_that_came_meanwhile_is_next(made, tools):
    schedule = made()
    added(schedule, tools.job_of(*[9] * 40))
    slice_ = next_of(schedule)
    (short,) = added(schedule, tools.job_of(9))
    schedule.done(slice_, 1.0)
    assert next_of(schedule).units[0].job is short


def test_no_stream_of_short_requests_keeps_a_long_one_waiting_for_ever(made, tools):
    schedule = made()
    (long,) = added(schedule, tools.job_of(*[9] * 40))
    n_long = 0
    for _ in range(200):
        added(schedule, tools.job_of(9))
        call = next_of(schedule)
        n_long += call.units[0].job is long
        schedule.done(call, 1.0)
    assert n_long == 40  # of 200 calls a quarter were its own until it ended


def test_no_stream_of_long_requests_keeps_a_short_one_waiting(made, tools):
    schedule = made(n_workers=2)
    for _ in range(5):
        added(schedule, tools.job_of(*[9] * 40))
    running = [next_of(schedule), next_of(schedule)]
    assert all(call.is_long for call in running)
    (short,) = added(schedule, tools.job_of(9))
    schedule.done(running[0], 1.0)
    assert next_of(schedule).units[0].job is short


def test_long_requests_take_turns(made, tools):
    schedule = made()
    first, second = added(schedule, tools.job_of(*[9] * 33), tools.job_of(*[9] * 35))
    given_out = [call.units[0].job for call in drained(schedule)]
    assert given_out == [first, second] * 33 + [second] * 2


def test_one_worker_is_kept_for_short_requests_while_one_came_a_moment_ago(made, clock, tools):
    schedule = made(n_workers=3)
    added(schedule, tools.job_of(9), tools.job_of(*[9] * 40))
    schedule.done(next_of(schedule), 1.0)
    assert [next_of(schedule).is_long for _ in range(2)] == [True, True]
    assert next_of(schedule) is None
    added(schedule, tools.job_of(9))
    assert next_of(schedule).is_long is False
    clock.now_s += RECENT_S * 1.01
    assert next_of(schedule).is_long is True


def test_a_long_request_alone_has_every_worker(made, tools):
    schedule = made(n_workers=3)
    added(schedule, tools.job_of(*[9] * 40))
    assert [next_of(schedule).is_long for _ in range(3)] == [True] * 3


def test_many_windows_make_a_request_a_long_one(made, tools):
    schedule = made(n_workers=2)
    few, many = added(schedule, tools.job_of(*[9] * LONG_WINDOWS), tools.job_of(*[9] * (LONG_WINDOWS + 1)))
    kinds = {call.units[0].job: call.is_long for call in drained(schedule)}
    assert kinds == {few: False, many: True}


def test_alone_is_the_call_beside_which_nothing_runs_and_nothing_waits(made, tools):
    schedule = made(n_workers=2)
    added(schedule, tools.job_of(9))
    alone = next_of(schedule)
    assert alone.is_alone
    added(schedule, tools.job_of(9))
    beside = next_of(schedule)
    assert not beside.is_alone
    schedule.done(alone, 0.1)
    schedule.done(beside, 0.1)
    added(schedule, tools.job_of(9, 9))
    first = next_of(schedule)
    assert not first.is_alone
    schedule.done(first, 0.1)
    assert next_of(schedule).is_alone


def test_windows_of_a_request_that_failed_are_not_given_out(made, tools):
    schedule = made(Packing(rows_per_call=4))
    failed, kept = added(schedule, tools.job_of(*[9] * 6), tools.job_of(9))
    schedule.done(next_of(schedule), 0.1)
    failed.fail(InputError("bad"))
    assert [unit.job for call in drained(schedule) for unit in call.units] == [kept]


def test_failed_short_requests_keep_no_long_one_waiting(made, tools):
    schedule = made()
    short, long = added(schedule, tools.job_of(9), tools.job_of(*[9] * 40))
    short.fail(InputError("bad"))
    assert next_of(schedule).units[0].job is long
