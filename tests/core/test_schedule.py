"""Every window is given out once, short requests before long ones, and nobody waits for ever."""

import itertools
import queue
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa import schedule as scheduling
from spanqa.errors import InputError, LogitsError, OverloadError
from spanqa.jobs import LONG_WINDOWS, Job
from spanqa.limits import Limits
from spanqa.packing import Bucket, Packing
from spanqa.schedule import RECENT_S, SHORT_CALLS_A_SLICE, Schedule
from spanqa.telemetry import reason_of
from spanqa.tokenization import Pieces
from spanqa.windows import Windows
from spanqa.wire import Options, Question

LONGEST_S = 20
ONE_ROW = Packing(rows_per_call=1)
OPTIONS = Options(top_n=1, no_answer_threshold=0.0, max_answer_tokens=30)
BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=rows) for length, rows in ((16, 3), (32, 2)))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Cutter:
    """Makes windows of the lengths that a test wants, and no text."""

    def __init__(self, lengths):
        self._lengths = np.array(lengths, dtype=np.int32)

    def cut(self, _question, _context):
        nothing = np.zeros(1, dtype=np.int32)
        return Windows(
            question_ids=nothing,
            document=Pieces(ids=nothing, chars=np.zeros((1, 2), np.int32), continues=np.zeros(1, np.bool_)),
            starts=np.zeros(len(self._lengths), dtype=np.int32),
            lengths=self._lengths - np.int32(4),
            room=100,
            question_truncated=False,
            special_ids=(1, 2, 0),
        )


def job_of(*lengths, is_long=False):
    """A request whose windows have these lengths, special tokens included."""
    row = Question(question="q", context="c", options=OPTIONS)
    job = Job([row], lambda *_: None, is_long=is_long, is_cancelled=lambda: False, arrived=0.0)
    job.cut(Cutter(lengths), {"q": None, "c": None}, Limits())
    return job


def next_of(schedule):
    """What a worker is given now; None where it would wait."""
    with schedule._changed:
        return schedule._next()


def places(call):
    return [(unit.job, unit.row, unit.window) for unit in call.units]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def made(clock):
    def make(packing=ONE_ROW, n_workers=1, **limits):
        return Schedule(packing, Limits(**limits), n_workers=n_workers, clock=clock)

    return make


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


packings = st.builds(
    Packing, rows_per_call=st.integers(1, 4), tokens_per_call=st.integers(8, 80), buckets=st.sampled_from([(), BUCKETS])
)
steps = st.one_of(
    st.tuples(st.just("add"), st.lists(st.integers(5, 32), min_size=1, max_size=8), st.booleans()),
    st.tuples(st.just("take")),
    st.tuples(st.just("done"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.sampled_from([0.1, RECENT_S * 1.5])),
)


class Play:
    """Steps as they come, and what must be true after each of them."""

    def __init__(self, packing, n_workers):
        self.clock, self.packing, self.n_workers = Clock(), packing, n_workers
        self.schedule = Schedule(packing, Limits(), n_workers=n_workers, clock=self.clock)
        self.waiting = {False: [], True: []}
        self.jobs, self.running, self.given = [], [], []
        self.short_added_s = -np.inf

    def add(self, lengths, is_long):
        job = job_of(*lengths, is_long=is_long)
        self.schedule.add(job)
        self.jobs.append(job)
        self.waiting[is_long] += [(job, 0, window) for window in range(len(lengths))]
        if not is_long:
            self.short_added_s = self.clock.now_s

    def done(self, index):
        if self.running:
            self.schedule.done(self.running.pop(index % len(self.running)), 0.1)

    def fail(self, index):
        if self.jobs:
            job = self.jobs[index % len(self.jobs)]
            job.fail(InputError("bad"))
            for waiting in self.waiting.values():
                waiting[:] = [place for place in waiting if place[0] is not job]

    def take(self):
        if len(self.running) == self.n_workers:
            return None
        call = next_of(self.schedule)
        if call is None:
            assert not self.waiting[False], "a short request waits beside a free worker"
            if self.waiting[True]:
                assert self.is_kept_free()
            return None
        self.check(call)
        self.running.append(call)
        return call

    def is_kept_free(self):
        n_long = sum(call.is_long for call in self.running)
        is_recent = self.clock.now_s - self.short_added_s <= RECENT_S
        return is_recent and n_long >= max(1, self.n_workers - 1)

    def check(self, call):
        waiting, other = self.waiting[call.is_long], self.waiting[not call.is_long]
        taken = places(call)
        for place in taken:  # what waits leaves it once, and nothing else comes
            waiting.remove(place)
            assert place not in self.given
        self.given += taken
        lengths = [unit.length for unit in call.units]
        if self.packing.buckets:
            fitting = [bucket for bucket in BUCKETS if max(lengths) <= bucket.length]
            assert call.bucket == fitting[0]
            assert len(lengths) <= call.bucket.max_rows
            assert call.length == call.bucket.length
        else:
            assert call.length == max(lengths)
            assert len(lengths) <= self.packing.rows_per_call
            assert len(lengths) == 1 or len(lengths) * max(lengths) <= self.packing.tokens_per_call
        if call.is_long:
            assert len({unit.job for unit in call.units}) == 1
            assert not self.is_kept_free()
        if call.is_alone:
            assert not self.running
            assert len(taken) == 1
            assert not waiting
            assert not other

    def finish(self):
        """Let every worker go on until nothing is left."""
        self.clock.now_s += RECENT_S * 2
        while self.take() or self.running:
            self.done(0)
        assert not any(self.waiting.values())
        for job in self.jobs:
            if not job.is_answered:
                assert sum(place[0] is job for place in self.given) == job.n_windows


@settings(max_examples=400, deadline=None, derandomize=True)
@given(packings, st.integers(1, 4), st.lists(steps, max_size=60))
def test_every_window_is_given_out_once_within_the_limits_of_a_call(packing, n_workers, played):
    play = Play(packing, n_workers)
    for step, *arguments in played:
        if step == "pass":
            play.clock.now_s += arguments[0]
        else:
            getattr(play, step)(*arguments)
    play.finish()


def test_short_requests_go_in_the_order_they_came(made):
    schedule = made()
    jobs = added(schedule, job_of(20), job_of(9, 30), job_of(12))
    given_out = [unit.job for call in drained(schedule) for unit in call.units]
    assert given_out == [jobs[0], jobs[1], jobs[1], jobs[2]]


def test_the_call_after_the_longest_wait_takes_others_of_its_length_along(made):
    schedule = made(Packing(buckets=BUCKETS))
    first, second, third = added(schedule, job_of(30), job_of(9), job_of(31))
    assert [[unit.job for unit in call.units] for call in drained(schedule)] == [[first, third], [second]]


def test_a_window_that_no_bucket_takes_leaves_nothing_of_its_request_behind(made):
    schedule = made(Packing(buckets=BUCKETS))
    with pytest.raises(LogitsError, match="a window of 40 tokens fits into no bucket, the longest takes 32: build"):
        schedule.add(job_of(9, 40))
    with pytest.raises(LogitsError, match="fits into no bucket"):
        schedule.add(job_of(9, 40, is_long=True))
    assert drained(schedule) == []


def test_a_long_request_gets_one_slice_after_every_three_calls_with_short_ones(made):
    schedule = made()
    added(schedule, job_of(*[9] * 40), *(job_of(9) for _ in range(30)))
    kinds = [call.is_long for call in drained(schedule)]
    while_both_wait = kinds[: len(kinds) - kinds[::-1].index(False)]
    runs = [len(list(run)) for is_long, run in itertools.groupby(while_both_wait) if not is_long]
    assert set(runs[:-1]) == {SHORT_CALLS_A_SLICE}
    assert [len(list(run)) for is_long, run in itertools.groupby(while_both_wait) if is_long] == [1] * (len(runs) - 1)
    assert kinds.count(True) == 40


def test_after_a_slice_a_short_request_that_came_meanwhile_is_next(made):
    schedule = made()
    added(schedule, job_of(*[9] * 40))
    slice_ = next_of(schedule)
    (short,) = added(schedule, job_of(9))
    schedule.done(slice_, 1.0)
    assert next_of(schedule).units[0].job is short


def test_no_stream_of_short_requests_keeps_a_long_one_waiting_for_ever(made):
    schedule = made()
    (long,) = added(schedule, job_of(*[9] * 40))
    n_long = 0
    for _ in range(200):
        added(schedule, job_of(9))
        call = next_of(schedule)
        n_long += call.units[0].job is long
        schedule.done(call, 1.0)
    assert n_long == 40  # of 200 calls a quarter were its own until it ended


def test_no_stream_of_long_requests_keeps_a_short_one_waiting(made):
    schedule = made(n_workers=2)
    for _ in range(5):
        added(schedule, job_of(*[9] * 40))
    running = [next_of(schedule), next_of(schedule)]
    assert all(call.is_long for call in running)
    (short,) = added(schedule, job_of(9))
    schedule.done(running[0], 1.0)
    assert next_of(schedule).units[0].job is short


def test_long_requests_take_turns(made):
    schedule = made()
    first, second = added(schedule, job_of(*[9] * 33), job_of(*[9] * 35))
    given_out = [call.units[0].job for call in drained(schedule)]
    assert given_out == [first, second] * 33 + [second] * 2


def test_one_worker_is_kept_for_short_requests_while_one_came_a_moment_ago(made, clock):
    schedule = made(n_workers=3)
    added(schedule, job_of(9), job_of(*[9] * 40))
    schedule.done(next_of(schedule), 1.0)
    assert [next_of(schedule).is_long for _ in range(2)] == [True, True]
    assert next_of(schedule) is None
    added(schedule, job_of(9))
    assert next_of(schedule).is_long is False
    clock.now_s += RECENT_S * 1.01
    assert next_of(schedule).is_long is True


def test_a_long_request_alone_has_every_worker(made):
    schedule = made(n_workers=3)
    added(schedule, job_of(*[9] * 40))
    assert [next_of(schedule).is_long for _ in range(3)] == [True] * 3


def test_many_windows_make_a_request_a_long_one(made):
    schedule = made(n_workers=2)
    few, many = added(schedule, job_of(*[9] * LONG_WINDOWS), job_of(*[9] * (LONG_WINDOWS + 1)))
    kinds = {call.units[0].job: call.is_long for call in drained(schedule)}
    assert kinds == {few: False, many: True}


def test_alone_is_the_call_beside_which_nothing_runs_and_nothing_waits(made):
    schedule = made(n_workers=2)
    added(schedule, job_of(9))
    alone = next_of(schedule)
    assert alone.is_alone
    added(schedule, job_of(9))
    beside = next_of(schedule)
    assert not beside.is_alone
    schedule.done(alone, 0.1)
    schedule.done(beside, 0.1)
    added(schedule, job_of(9, 9))
    first = next_of(schedule)
    assert not first.is_alone
    schedule.done(first, 0.1)
    assert next_of(schedule).is_alone


def test_windows_of_a_request_that_failed_are_not_given_out(made):
    schedule = made(Packing(rows_per_call=4))
    failed, kept = added(schedule, job_of(*[9] * 6), job_of(9))
    schedule.done(next_of(schedule), 0.1)
    failed.fail(InputError("bad"))
    assert [unit.job for call in drained(schedule) for unit in call.units] == [kept]


def test_failed_short_requests_keep_no_long_one_waiting(made):
    schedule = made()
    short, long = added(schedule, job_of(9), job_of(*[9] * 40))
    short.fail(InputError("bad"))
    assert next_of(schedule).units[0].job is long


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


def test_a_request_that_would_wait_too_long_is_refused_at_once_by_the_pace_of_the_last_calls(made):
    schedule = made(n_workers=2, max_queue_age_s=30)
    added(schedule, job_of(9))
    schedule.done(next_of(schedule), 10.0)  # a window takes ten seconds
    added(schedule, *(job_of(9) for _ in range(6)))
    schedule.accept(is_long=False)  # 6 windows, 2 workers: 30 s
    (last,) = added(schedule, job_of(9))
    refused(schedule, "^the requests that wait will take about 35 s, more than the 30 allowed: ask again in a moment$")
    schedule.accept(is_long=True)  # which takes turns of its own
    last.fail(InputError("bad"))
    for _ in range(3):  # and quicker calls are noticed
        schedule.done(next_of(schedule), 0.0)
    schedule.accept(is_long=False)


def test_no_time_is_expected_before_the_first_call(made):
    schedule = made(max_queue_age_s=1)
    added(schedule, *(job_of(9) for _ in range(500)))
    schedule.accept(is_long=False)


def test_a_closed_schedule_gives_out_what_waits_and_then_nothing(made):
    schedule = made()
    jobs = added(schedule, job_of(9), job_of(*[9] * 33), job_of(9))
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


def test_a_short_request_wakes_a_worker_though_others_wait_for_a_long_one(made, monkeypatch):
    monkeypatch.setattr(scheduling, "RECENT_S", 3600.0)
    schedule = made(n_workers=2)
    _, long = added(schedule, job_of(9), job_of(9, 9, is_long=True))
    schedule.done(next_of(schedule), 0.1)
    slice_ = next_of(schedule)
    assert slice_.is_long
    reader = in_thread(lambda: schedule.wait_for(long))
    waiters(schedule._answered, 1)
    worker = in_thread(schedule.take)
    waiters(schedule._changed, 1)
    (short,) = added(schedule, job_of(9))
    assert worker.get(timeout=LONGEST_S).units[0].job is short
    assert reader.empty()
    long.fail(InputError("bad"))
    schedule.done(slice_, 0.1)
    reader.get(timeout=LONGEST_S)


def test_a_worker_that_was_kept_free_helps_a_long_request_by_and_by(made, clock, monkeypatch):
    monkeypatch.setattr(scheduling, "RECENT_S", 0.05)
    schedule = made(n_workers=2)
    added(schedule, job_of(9), job_of(9, 9, 9, is_long=True))
    schedule.done(next_of(schedule), 0.1)
    assert next_of(schedule).is_long
    worker = in_thread(schedule.take)
    waiters(schedule._changed, 1)
    clock.now_s += 1.0
    assert worker.get(timeout=LONGEST_S).is_long


def hammer(schedule, jobs, stop):
    """Add requests and let some fail, as threads of the server would."""
    chance = random.Random(len(jobs))
    for job in jobs:
        schedule.accept(is_long=job.is_long)
        schedule.add(job)
        if chance.random() < 0.2:
            job.fail(InputError("bad"))
        schedule.forget(is_long=job.is_long)
        if chance.random() < 0.05:
            stop.wait(0.001)


def worked(schedule, given_out):
    while (call := schedule.take()) is not None:
        given_out.extend(places(call))
        schedule.done(call, 0.0)


@pytest.mark.parametrize("packing", [ONE_ROW, Packing(rows_per_call=4, tokens_per_call=64), Packing(buckets=BUCKETS)])
def test_threads_that_add_and_take_at_once_lose_and_double_nothing(packing):
    chance = random.Random(5)
    schedule = Schedule(packing, Limits(), n_workers=4)
    batches = [
        [job_of(*[chance.randint(5, 32) for _ in range(chance.choice([1, 2, 5, 40]))]) for _ in range(n_jobs)]
        for n_jobs in (100, 101, 102)
    ]
    given_out = [[] for _ in range(4)]
    stop = threading.Event()
    workers = [threading.Thread(target=worked, args=(schedule, mine), daemon=True) for mine in given_out]
    senders = [threading.Thread(target=hammer, args=(schedule, jobs, stop), daemon=True) for jobs in batches]
    for thread in workers + senders:
        thread.start()
    for thread in senders:
        thread.join(LONGEST_S)
    schedule.close()
    for thread in workers:
        thread.join(LONGEST_S)
    assert not any(thread.is_alive() for thread in workers + senders)
    places_given = [place for mine in given_out for place in mine]
    assert len(places_given) == len(set(places_given))
    expected = {(job, 0, w) for jobs in batches for job in jobs if not job.is_answered for w in range(job.n_windows)}
    assert expected <= set(places_given)
    assert schedule.n_jobs == 0
