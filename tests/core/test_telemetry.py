"""What is counted reaches Triton as sums, in few calls; where Triton has no metrics nothing happens."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from spanqa.errors import InputError, LogitsError
from spanqa.guard import CancelledError, EncoderError
from spanqa.telemetry import FAMILIES, REASONS, STAGES, Telemetry, reason_of


class FakeTriton:
    """Metrics as Triton keeps them: one value for each name and set of labels, whoever counts."""

    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, *, fails_after=None):
        self.values, self.kinds, self.n_calls, self.fails_after = {}, {}, 0, fails_after
        self.called = threading.Event()

    def call(self):
        self.n_calls += 1
        self.called.set()
        if self.fails_after is not None and self.n_calls > self.fails_after:
            raise RuntimeError("no room")

    def pb_utils(self):
        triton = self

        class Metric:
            def __init__(self, name, labels):
                self.key = (name, *sorted(labels.items()))
                triton.values.setdefault(self.key, 0.0)

            def increment(self, amount):
                triton.call()
                assert amount > 0
                triton.values[self.key] += amount

            def set(self, value):
                triton.call()
                assert triton.kinds[self.key[0]] == "gauge"
                triton.values[self.key] = value

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name, description, kind):
                assert description
                self.name = name
                triton.kinds[name] = kind

            def Metric(self, labels):
                return Metric(self.name, labels)

        return SimpleNamespace(MetricFamily=MetricFamily)

    def value(self, name, version="1", **label):
        labels = {"model": "m", "process": "0", "version": version, **label}
        return self.values[(name, *sorted(labels.items()))]


def count(telemetry):
    telemetry.answered(n_questions=3, n_windows=7, n_no_answer=1, n_truncated=2)
    telemetry.encoded(n_tokens=900, n_padding=100)
    telemetry.spent("tokenise", 0.25)
    telemetry.spent("decode", 0.5)
    telemetry.cache(hits=4, misses=5)
    telemetry.rejected("queue_full")


def test_everything_counted_arrives_under_its_name_and_labels():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1)
    count(telemetry)
    count(telemetry)
    telemetry.close()
    assert triton.value("spanqa_questions_total") == 6
    assert triton.value("spanqa_windows_total") == 14
    assert triton.value("spanqa_no_answers_total") == 2
    assert triton.value("spanqa_questions_truncated_total") == 4
    assert triton.value("spanqa_tokens_total") == 1800
    assert triton.value("spanqa_padding_tokens_total") == 200
    assert triton.value("spanqa_stage_seconds_total", stage="tokenise") == 0.5
    assert triton.value("spanqa_stage_seconds_total", stage="decode") == 1.0
    assert triton.value("spanqa_tokeniser_cache_hits_total") == 8
    assert triton.value("spanqa_tokeniser_cache_misses_total") == 10
    assert triton.value("spanqa_rejected_requests_total", reason="queue_full") == 2


def test_every_series_is_there_from_the_start_with_zero():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1)
    assert {key[0] for key in triton.values} == set(FAMILIES)
    assert set(triton.values.values()) == {0.0}
    for stage in STAGES:
        assert triton.value("spanqa_stage_seconds_total", stage=stage) == 0
    for reason in REASONS:
        assert triton.value("spanqa_rejected_requests_total", reason=reason) == 0
    assert triton.value("spanqa_queued_requests") == 0
    assert [name for name, kind in triton.kinds.items() if kind == "gauge"] == ["spanqa_queued_requests"]
    telemetry.close()


def test_counting_makes_no_call_to_triton_until_it_is_time():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1, flush_s=60.0)
    at_start = triton.n_calls
    for _ in range(1000):
        count(telemetry)
    assert triton.n_calls == at_start
    telemetry.close()
    assert triton.n_calls - at_start == 11  # one for each number that changed
    assert triton.value("spanqa_questions_total") == 3000


def test_numbers_are_sent_on_without_a_close():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1, flush_s=0.01)
    triton.called.clear()
    telemetry.cache(hits=1, misses=0)
    assert triton.called.wait(5)
    telemetry.close()
    assert triton.value("spanqa_tokeniser_cache_hits_total") == 1


def test_nothing_is_sent_while_nothing_happens():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1, flush_s=0.005)
    telemetry.answered(0, 0, 0, 0)
    at_start = triton.n_calls
    time.sleep(0.05)
    telemetry.close()
    assert triton.n_calls == at_start


def test_processes_of_a_model_have_labels_of_their_own():
    triton = FakeTriton()
    both = [Telemetry(triton.pb_utils(), "m", 1) for _ in range(2)]
    for n_requests, telemetry in enumerate(both, start=1):
        telemetry.answered(1, 2, 0, 0)
        telemetry.watch_queue(lambda n_requests=n_requests: n_requests)
        telemetry.close()
    for process, n_requests in (("0", 1), ("1", 2)):
        assert triton.value("spanqa_questions_total", process=process) == 1
        assert triton.value("spanqa_queued_requests", process=process) == n_requests


def test_versions_are_told_apart():
    triton = FakeTriton()
    both = [Telemetry(triton.pb_utils(), "m", version) for version in (1, 2)]
    for telemetry in both:
        telemetry.answered(telemetry is both[1], 0, 0, 0)
        telemetry.close()
    assert triton.value("spanqa_questions_total", version="1") == 0
    assert triton.value("spanqa_questions_total", version="2") == 1


def test_a_process_counts_on_where_one_that_was_killed_ended_with_an_empty_queue():
    """The kernel frees the number of a killed process; Triton keeps its metrics."""
    code = """
import os, sys
from spanqa.telemetry import _Number
held = _Number("m", int(sys.argv[1]))
print(held.text, flush=True)
sys.stdin.read()
"""
    version = os.getpid()
    before = subprocess.Popen(
        [sys.executable, "-c", code, str(version)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert before.stdout.readline() == "0\n"
    triton = FakeTriton()
    beside = subprocess.Popen(
        [sys.executable, "-c", code, str(version)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert beside.stdout.readline() == "1\n"
    before.kill()
    before.communicate()
    after = subprocess.run(
        [sys.executable, "-c", code, str(version)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert after.stdout == "0\n"
    beside.kill()
    beside.communicate()

    queue = ("spanqa_queued_requests", ("model", "m"), ("process", "0"), ("version", "1"))
    questions = ("spanqa_questions_total", *queue[1:])
    triton.values |= {queue: 9.0, questions: 20.0}
    telemetry = Telemetry(triton.pb_utils(), "m", 1)
    assert triton.values[queue] == 0
    telemetry.answered(1, 1, 0, 0)
    telemetry.close()
    assert triton.values[questions] == 21


def test_threads_lose_no_count():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1, flush_s=0.001)
    threads = [threading.Thread(target=lambda: [telemetry.answered(1, 1, 0, 0) for _ in range(2000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.close()
    assert triton.value("spanqa_questions_total") == 16_000


def test_a_reason_that_is_not_known_counts_as_internal():
    triton = FakeTriton()
    telemetry = Telemetry(triton.pb_utils(), "m", 1)
    telemetry.rejected("no such reason")
    telemetry.close()
    assert triton.value("spanqa_rejected_requests_total", reason="internal") == 1


def metrics_off(**_):
    raise RuntimeError("metrics not allowed")


@pytest.mark.parametrize(
    "pb_utils",
    [
        SimpleNamespace(),
        SimpleNamespace(MetricFamily=type("F", (), {"COUNTER": 0, "GAUGE": 1, "__new__": metrics_off})),
    ],
    ids=["a Triton without metrics", "metrics are off"],
)
def test_without_metrics_nothing_happens(pb_utils):
    telemetry = Telemetry(pb_utils, "m", 1)
    assert not telemetry.is_on
    count(telemetry)
    telemetry.watch_queue(lambda: 3)
    telemetry.close()
    telemetry.close()


@pytest.mark.parametrize("fails_after", [1, 4])  # the gauge's zero comes first
def test_a_triton_that_cannot_count_for_a_while_is_told_once_and_gets_every_count_later(capsys, fails_after):
    triton = FakeTriton(fails_after=fails_after)
    telemetry = Telemetry(triton.pb_utils(), "m", 1, flush_s=0.001)
    count(telemetry)
    deadline = time.monotonic() + 5
    while triton.n_calls < 30 and time.monotonic() < deadline:
        time.sleep(0.001)
    count(telemetry)
    assert capsys.readouterr().err == "spanqa: metrics are late: no room\n"
    triton.fails_after = None
    telemetry.close()
    assert triton.value("spanqa_questions_total") == 6
    assert triton.value("spanqa_windows_total") == 14
    assert triton.value("spanqa_rejected_requests_total", reason="queue_full") == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("empty"), "bad_input"),
        (CancelledError("gone"), "cancelled"),
        (EncoderError("away", outage=True), "encoder_away"),
        (EncoderError("broken", outage=False), "internal"),
        (LogitsError("not finite"), "internal"),
        (KeyError("k"), "internal"),
    ],
)
def test_each_error_has_its_reason(error, reason):
    assert reason_of(error) == reason


def test_an_error_may_name_its_own_reason():
    error = InputError("too long: send less")
    error.reason = "too_many_windows"
    assert reason_of(error) == "too_many_windows"
    error.reason = "nonsense"
    assert reason_of(error) == "bad_input"
