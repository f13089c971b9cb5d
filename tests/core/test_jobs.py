"""A request is answered once, whoever is first, and costs nothing when nobody waits for it any more."""

import threading

import numpy as np
import pytest

from spanqa import jobs
from spanqa.errors import InputError, OverloadError
from spanqa.guard import CancelledError
from spanqa.jobs import CHECK_S, LONG_WINDOWS, Job
from spanqa.limits import Limits
from spanqa.manifest import Manifest
from spanqa.telemetry import reason_of
from spanqa.windows import WindowMaker, WindowSettings
from spanqa.wire import Options, Question

LONGEST_S = 20
MANIFEST = Manifest(
    tokenizer_sha256="0", windows=WindowSettings(max_seq_length=32, doc_stride=8, max_query_length=8)
)  # fmt: skip
OPTIONS = Options(top_n=1, no_answer_threshold=0.0, max_answer_tokens=30)
TEXT = "the old bridge stands near the red tower and the river . "


@pytest.fixture
def maker(tokenizer):
    return WindowMaker(tokenizer, MANIFEST.windows)


@pytest.fixture
def job_of(maker):
    """Makes a request of some rows, and the list of what it is answered with."""

    def make(*contexts, limits=None, is_long=False, is_cancelled=lambda: False, **times):
        rows = [Question(question="who?", context=context, options=OPTIONS) for context in contexts]
        outcomes = []
        job = Job(
            rows,
            lambda answered, outcome: outcomes.append((answered, outcome)),
            is_long=is_long,
            is_cancelled=is_cancelled,
            **({"arrived": 100.0} | times),
        )
        pieces = maker.pieces(text for row in rows for text in (row.question, row.context))
        job.cut(maker, pieces, limits or Limits())
        return job, outcomes

    return make


def filled(job):
    """Fill every window with noughts; how often a window was said to be the last one."""
    return [job.fill(unit, *[np.zeros(unit.length, np.float32)] * 2) for unit in job.units()]


def test_a_request_is_done_with_its_last_window(job_of):
    job, outcomes = job_of(TEXT * 3, TEXT)
    assert [unit.row for unit in job.units()] == sorted(unit.row for unit in job.units())
    assert filled(job) == [False] * (job.n_windows - 1) + [True]
    assert outcomes == []
    job.answer(MANIFEST)
    ((answered, decoded),) = outcomes
    assert (answered, len(decoded)) == (job, 2)
    assert job.is_answered


@pytest.mark.parametrize("first", ["fail", "answer"])
def test_what_comes_second_is_dropped(job_of, first):
    job, outcomes = job_of(TEXT)
    filled(job)
    steps = [lambda: job.fail(InputError("bad")), lambda: job.answer(MANIFEST)]
    for step in steps if first == "fail" else steps[::-1]:
        step()
    assert [isinstance(outcome, InputError) for _, outcome in outcomes] == [first == "fail"]


def test_a_window_that_comes_after_the_answer_is_dropped(job_of):
    job, outcomes = job_of(TEXT * 3)
    job.fail(InputError("bad"))
    assert not any(filled(job))
    assert len(outcomes) == 1


def at_once(*steps):
    """Run steps in threads that begin together."""
    barrier = threading.Barrier(len(steps))

    def run(step):
        barrier.wait(LONGEST_S)
        step()

    threads = [threading.Thread(target=run, args=(step,), daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_S)
    assert not any(thread.is_alive() for thread in threads)


def test_in_a_race_of_failures_and_answers_one_alone_is_sent(job_of):
    for _ in range(100):
        job, outcomes = job_of(TEXT)
        filled(job)
        failures = [lambda job=job, n=n: job.fail(InputError(str(n))) for n in range(3)]
        at_once(*failures, lambda job=job: job.answer(MANIFEST), lambda job=job: job.is_wanted(1e9))
        assert len(outcomes) == 1


def test_of_threads_that_fill_windows_one_alone_is_the_last(job_of):
    for _ in range(50):
        job, _ = job_of(TEXT * 3)
        last = []
        fill = [
            lambda unit=unit, job=job, last=last: last.append(
                job.fill(unit, *[np.full(unit.length, unit.window, np.float32)] * 2)
            )
            for unit in job.units()
        ]
        at_once(*fill)
        assert sorted(last) == [False] * (job.n_windows - 1) + [True]
        (start, end), *_ = job._logits
        for window, length in enumerate(job.windows[0].seq_lengths.tolist()):
            assert (start[window, :length] == window).all()
            assert (end[window, :length] == window).all()


def test_windows_that_fail_while_others_fill_answer_once_and_raise_nothing(job_of):
    for _ in range(50):
        job, outcomes = job_of(TEXT * 3)
        at_once(lambda job=job: any(filled(job)) and job.answer(MANIFEST), lambda job=job: job.fail(InputError("bad")))
        assert len(outcomes) == 1


def test_a_request_that_waited_too_long_is_told_so(job_of):
    job, outcomes = job_of(TEXT, expires=130.0)
    assert not job.is_wanted(130.5)
    ((_, error),) = outcomes
    assert isinstance(error, OverloadError)
    assert (str(error), reason_of(error)) == ("the request waited 30.5 s for its turn: ask again", "too_old")
    assert not job.is_wanted(131.0)
    assert len(outcomes) == 1


def test_a_request_that_began_in_time_is_finished(job_of):
    job, outcomes = job_of(TEXT, expires=130.0)
    assert job.is_wanted(130.0)
    assert job.is_wanted(500.0)
    assert outcomes == []


def test_a_sender_is_asked_now_and_then_whether_it_waits(job_of):
    asked = []
    job, _ = job_of(TEXT, is_cancelled=lambda: bool(asked.append(None)))
    step_s = CHECK_S / 10
    for step in range(1, 101):
        assert job.is_wanted(100.0 + step * step_s)
    assert 8 <= len(asked) <= 10


def test_a_request_whose_sender_cannot_be_asked_fails_alone(job_of):
    def broken():
        raise RuntimeError("Triton is gone")

    job, outcomes = job_of(TEXT, is_cancelled=broken)
    assert not job.is_wanted(200.0)
    ((_, error),) = outcomes
    assert str(error) == "Triton is gone"


def test_a_cancelled_request_is_wanted_no_more(job_of):
    job, outcomes = job_of(TEXT, is_cancelled=lambda: True)
    assert job.is_wanted(100.0)  # it came just now
    assert not job.is_wanted(100.0 + CHECK_S * 1.01)
    ((_, error),) = outcomes
    assert isinstance(error, CancelledError)
    assert reason_of(error) == "cancelled"


def test_an_answered_request_asks_its_sender_nothing(job_of):
    asked = []
    job, _ = job_of(TEXT, is_cancelled=lambda: asked.append(None))
    job.fail(InputError("bad"))
    assert not job.is_wanted(1000.0)
    assert asked == []


def test_too_many_windows_are_refused_with_their_number(job_of):
    job, _ = job_of(TEXT * 3, TEXT)
    n_windows = job.n_windows
    job_of(TEXT * 3, TEXT, limits=Limits(max_windows=n_windows))
    message = f"^the request needs {n_windows} windows, at most {n_windows - 1} are allowed: split the text, send fewer"
    with pytest.raises(InputError, match=message) as caught:
        job_of(TEXT * 3, TEXT, limits=Limits(max_windows=n_windows - 1))
    assert reason_of(caught.value) == "too_many_windows"


def test_many_windows_make_a_long_request(job_of):
    n_pieces = 27 + 8 * (LONG_WINDOWS - 1)
    assert not job_of("the " * n_pieces)[0].is_long
    assert job_of("the " * (n_pieces + 1))[0].is_long
    assert job_of("the", is_long=True)[0].is_long


def test_what_the_decoder_refuses_is_the_answer(job_of, monkeypatch):
    def refuse(*_arguments):
        raise InputError("no")

    monkeypatch.setattr(jobs, "decode_question", refuse)
    job, outcomes = job_of(TEXT, TEXT)
    filled(job)
    job.answer(MANIFEST)
    assert [str(error) for _, error in outcomes] == ["row 0: no"]


def test_nobody_asks_about_a_request_while_it_is_being_answered(job_of):
    """Triton frees a request with its answer."""
    asked, go_on = threading.Event(), threading.Event()
    steps = []

    def is_cancelled():
        asked.set()
        assert go_on.wait(LONGEST_S)
        steps.append("asked")
        return False

    job, outcomes = job_of(TEXT, is_cancelled=is_cancelled)
    asking = threading.Thread(target=lambda: job.is_wanted(200.0))
    failing = threading.Thread(target=lambda: (job.fail(InputError("bad")), steps.append("answered")))
    asking.start()
    assert asked.wait(LONGEST_S)
    failing.start()
    failing.join(0.05)
    assert outcomes == []
    go_on.set()
    asking.join(LONGEST_S)
    failing.join(LONGEST_S)
    assert steps == ["asked", "answered"]
    assert not job.is_wanted(300.0)
    assert steps == ["asked", "answered"]  # nor after it
