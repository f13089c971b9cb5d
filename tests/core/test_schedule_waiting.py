"""Who would wait too long is refused at once; a worker that waits is woken by what it may take, or told of the end."""

import queue
import threading

import pytest

from spanqa import schedule as scheduling
from spanqa.errors import InputError, OverloadError
from spanqa.telemetry import reason_of

LONGEST_S = 20


def next_of(schedule):
    """What a worker is given now; None where it would wait."""
    with schedule._changed:
        return schedule._next()


def added(schedule, *jobs):
    for job in jobs:
        schedule.add(job)
    return jobs


def refused(schedule, message, *, is_long=False):
    with pytest.raises(OverloadError, match=message) as caught:
        schedule.accept(is_long=is_long)
    assert reason_of(caught.value) == "queue_full"


def test_one_request_more_than_may_wait_is_refused_until_one_is_answered(made):
    schedule = made(max_queued_requests=3)
    for is_long in (False, True, False):
        schedule.accept(is_long=is_long)
    assert schedule.n_jobs == 3
    for is_long in (False, True):
        refused(schedule, "^3 requests are waiting, which is the most: ask again in a moment$", is_long=is_long)
    schedule.forget(is_long=False)
    schedule.accept(is_long=False)


def test_one_long_request_more_than_may_wait_is_refused_and_short_ones_are_not(made):
    schedule = made(max_long_requests=1)
    schedule.accept(is_long=True)
    refused(schedule, "^1 long documents are waiting, which is the most", is_long=True)
    schedule.accept(is_long=False)
    schedule.forget(is_long=True)
    schedule.accept(is_long=True)


def test_a_request_that_would_wait_too_long_is_refused_at_once_by_the_pace_of_the_last_calls(made, tools):
    schedule = made(n_workers=2, max_queue_age_s=30)
    added(schedule, tools.job_of(9))
    schedule.done(next_of(schedule), 10.0)  # a window takes ten seconds
    added(schedule, *(tools.job_of(9) for _ in range(6)))
    schedule.accept(is_long=False)  # 6 windows, 2 workers: 30 s
    (last,) = added(schedule, tools.job_of(9))
    refused(schedule, "^the requests that wait will take about 35 s, more than the 30 allowed: ask again in a moment$")
    schedule.accept(is_long=True)  # which takes turns of its own
    last.fail(InputError("bad"))
    for _ in range(3):  # and quicker calls are noticed
        schedule.done(next_of(schedule), 0.0)
    schedule.accept(is_long=False)


def test_no_time_is_expected_before_the_first_call(made, tools):
    schedule = made(max_queue_age_s=1)
    added(schedule, *(tools.job_of(9) for _ in range(500)))
    schedule.accept(is_long=False)


def test_a_closed_schedule_gives_out_what_waits_and_then_nothing(made, tools):
    schedule = made()
    jobs = added(schedule, tools.job_of(9), tools.job_of(*[9] * 33), tools.job_of(9))
    schedule.stop_accepting()
    refused(schedule, "^the model is being unloaded: ask again in a moment$")
    schedule.close()
    given_out = []
    while (call := schedule.take()) is not None:
        given_out += [unit.job for unit in call.units]
        schedule.done(call, 0.1)
    assert {job: given_out.count(job) for job in jobs} == {job: job.n_windows for job in jobs}
    assert schedule.take() is None


def in_thread(step):
    """Run a step beside the test; its result comes into the queue that is given back."""
    results = queue.SimpleQueue()
    threading.Thread(target=lambda: results.put(step()), daemon=True).start()
    return results


def waiters(condition, n_waiting):
    """Come back when some threads wait on a condition."""
    pause = threading.Event()
    for _ in range(LONGEST_S * 100):
        with condition:
            if len(condition._waiters) >= n_waiting:
                return
        pause.wait(0.01)
    pytest.fail("nobody waits")


def test_a_short_request_wakes_a_worker_though_others_wait_for_a_long_one(made, monkeypatch, tools):
    monkeypatch.setattr(scheduling, "RECENT_S", 3600.0)
    schedule = made(n_workers=2)
    _, long = added(schedule, tools.job_of(9), tools.job_of(9, 9, is_long=True))
    schedule.done(next_of(schedule), 0.1)
    slice_ = next_of(schedule)
    assert slice_.is_long
    reader = in_thread(lambda: schedule.wait_for(long))
    waiters(schedule._answered, 1)
    worker = in_thread(schedule.take)
    waiters(schedule._changed, 1)
    (short,) = added(schedule, tools.job_of(9))
    assert worker.get(timeout=LONGEST_S).units[0].job is short
    assert reader.empty()
    long.fail(InputError("bad"))
    schedule.done(slice_, 0.1)
    reader.get(timeout=LONGEST_S)


def test_a_worker_that_was_kept_free_helps_a_long_request_by_and_by(made, clock, monkeypatch, tools):
    monkeypatch.setattr(scheduling, "RECENT_S", 0.05)
    schedule = made(n_workers=2)
    added(schedule, tools.job_of(9), tools.job_of(9, 9, 9, is_long=True))
    schedule.done(next_of(schedule), 0.1)
    assert next_of(schedule).is_long
    worker = in_thread(schedule.take)
    waiters(schedule._changed, 1)
    clock.now_s += 1.0
    assert worker.get(timeout=LONGEST_S).is_long
