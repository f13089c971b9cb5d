"""Every window is given out once, within the limits of a call, whatever comes, fails and ends at the same time."""

import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.errors import InputError
from spanqa.limits import Limits
from spanqa.packing import Bucket, Packing
from spanqa.schedule import RECENT_S, Schedule

LONGEST_S = 20
ONE_ROW = Packing(rows_per_call=1)
BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=rows) for length, rows in ((16, 3), (32, 2)))
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


def next_of(schedule):
    """What a worker is given now; None where it would wait."""
    with schedule._changed:
        return schedule._next()


def places(call):
    return [(unit.job, unit.row, unit.window) for unit in call.units]


class Play:
    """Steps as they come, and what must be true after each of them."""

    def __init__(self, tools, packing, n_workers):
        self.job_of, self.clock, self.packing, self.n_workers = tools.job_of, tools.Clock(), packing, n_workers
        self.schedule = Schedule(packing, Limits(), n_workers=n_workers, clock=self.clock)
        self.waiting = {False: [], True: []}
        self.jobs, self.running, self.given = [], [], []
        self.short_added_s = -np.inf

    def add(self, lengths, is_long):
        job = self.job_of(*lengths, is_long=is_long)
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
def test_every_window_is_given_out_once_within_the_limits_of_a_call(tools, packing, n_workers, played):
    play = Play(tools, packing, n_workers)
    for step, *arguments in played:
        if step == "pass":
            play.clock.now_s += arguments[0]
        else:
            getattr(play, step)(*arguments)
    play.finish()


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
def test_threads_that_add_and_take_at_once_lose_and_double_nothing(packing, tools):
    chance = random.Random(5)
    schedule = Schedule(packing, Limits(), n_workers=4)
    batches = [
        [tools.job_of(*[chance.randint(5, 32) for _ in range(chance.choice([1, 2, 5, 40]))]) for _ in range(n_jobs)]
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
