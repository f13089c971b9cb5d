"""Rounds come to a measurement, a curve has a knee, counters become times, and files are read as they were written."""

import csv
import json
import random
from dataclasses import asdict
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from spanqa.errors import InputError
from spanqa_client.bench.breakdown import ModelTimes, StageTimes, merged_times, stages_between, times_between
from spanqa_client.bench.generator import Outcome, arrivals, round_from_outcomes
from spanqa_client.bench.knee import knee, knee_sentence
from spanqa_client.bench.measurement import Level, Round, measurement_from_rounds, percentiles
from spanqa_client.bench.perf_analyzer import round_from_report
from spanqa_client.bench.plot import svg_from_measurements
from spanqa_client.bench.report import (
    Header,
    Run,
    bench_table,
    breakdown_table,
    check_comparable,
    csv_from_run,
    json_from_run,
    run_from_file,
)
from spanqa_client.errors import BenchError

TIMES = ModelTimes(
    model="m",
    version="1",
    n_requests=10,
    n_executions=5,
    server_ms=9.0,
    queue_ms=1.0,
    input_ms=2.0,
    compute_ms=5.0,
    output_ms=1.0,
    n_cache_hits=0,
)
HEADER = Header(
    date="2026-01-01T00:00:00+00:00",
    server="triton 2.51.0",
    model="m",
    model_version="1",
    machine="2 cores",
    command="spanqa bench",
    dataset="d.json, 4 questions",
    requests_sha256="ab",
    window_s=2.0,
)


def a_round(rate=50.0, mean_ms=20.0, **changes):
    times = {"mean_ms": mean_ms, "p50_ms": mean_ms, "p95_ms": 2 * mean_ms, "p99_ms": 3 * mean_ms}
    return Round(**{"n_questions": 100, "questions_per_s": rate, **times, **changes})


def measured(level, *rounds):
    return measurement_from_rounds(level, rounds)


def curve(*points):
    return [measured(Level(concurrency=n), a_round(rate, 1e3 * n / rate)) for n, rate in points]


@pytest.fixture
def a_run():
    closed = [measured(Level(concurrency=n), *[a_round(40 + n, models=(TIMES,))] * 3) for n in (1, 4)]
    stages = StageTimes(tokenise_ms=1.0, network_ms=12.0, decode_ms=0.5)
    opened = [measured(Level(rate=7.5), *[a_round(7.5, stages=stages)] * 3)]
    return Run(header=HEADER, measurements=tuple(closed + opened))


def test_a_measurement_is_the_mean_of_its_rounds_and_says_whether_they_agree():
    one = measured(Level(concurrency=2), a_round(50, 40), a_round(54, 38))
    assert (one.questions_per_s, one.mean_ms, one.stable) == (52, 39, True)
    assert not measured(Level(concurrency=2), a_round(50), a_round(60)).stable
    windows = {"window_questions_per_s": (40.0, 50.0, 60.0)}
    assert not measured(Level(concurrency=2), a_round(50, **windows)).stable
    assert measured(Level(concurrency=2), a_round(50, **windows), a_round(51, **windows)).stable


@pytest.mark.parametrize(
    ("values", "expected"), [([5.0], (5, 5, 5)), (range(1, 101), (50, 95, 99)), (range(200, 0, -1), (100, 190, 198))]
)
def test_percentiles_are_of_the_nearest_rank(values, expected):
    assert percentiles(list(values)) == expected


def test_the_knee_is_where_throughput_over_latency_is_highest():
    curve_of_a_gpu = curve((1, 100), (2, 190), (4, 330), (8, 400), (16, 410))
    assert knee(curve_of_a_gpu).concurrency == 4
    sentence = knee_sentence(curve_of_a_gpu)
    assert sentence.startswith("knee: 4 in flight (330.0 questions/s, p95 24 ms), the most questions/s for their mean")
    assert sentence.endswith("16 in flight gives 24 % more questions/s at 3.2 times the latency")
    assert knee_sentence(curve((1, 100), (2, 200))).endswith("the highest load measured, so the knee may lie higher")
    assert knee_sentence(curve((4, 100), (8, 101))).endswith("the lowest load measured, so the knee may lie lower")
    assert knee_sentence(curve((1, 100))) is None


def test_the_knee_of_one_server_with_random_arrivals_is_half_its_capacity():
    rates = [10 * tenth for tenth in range(1, 10)]
    queue = [measured(Level(rate=rate), a_round(rate, 1e3 / (100 - rate))) for rate in rates]
    assert knee(queue).rate == 50


def test_counters_become_the_mean_times_between_two_readings():
    names = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    zero = {**dict.fromkeys(names, 0), "requests": 0, "executions": 0, "cache_hits": 0}
    late = {**zero, "success": 90_000_000, "queue": 10_000_000, "compute_infer": 60_000_000}
    late |= {"requests": 10, "executions": 4}
    before = {("qa", "1"): zero, ("idle", "1"): late}
    after = {("qa", "1"): late, ("idle", "1"): late, ("new", "2"): {**late, "requests": 1, "cache_hits": 1}}
    after["new", "2"]["success"] = 80_000_000
    qa, new = times_between(before, after)
    assert (qa.model, qa.n_requests, qa.n_executions, qa.server_ms, qa.queue_ms, qa.compute_ms) == (
        "qa",
        10,
        4,
        9,
        1,
        6,
    )
    assert (new.model, new.version, new.server_ms, new.n_cache_hits) == ("new", "2", 80, 1)
    # A model that was loaded anew counts from 0 again.
    assert times_between(after, before) == ()


def test_times_of_rounds_are_weighted_by_their_requests():
    slow = ModelTimes(**{**asdict(TIMES), "n_requests": 30, "queue_ms": 5.0})
    (merged,) = merged_times([[TIMES], [slow]])
    assert (merged.n_requests, merged.n_executions, merged.queue_ms) == (40, 10, 4.0)


def test_stages_are_told_where_questions_were_counted():
    before = {"questions": 10.0, "tokenise": 1.0, "network": 5.0, "decode": 0.1}
    after = {"questions": 20.0, "tokenise": 1.01, "network": 5.2, "decode": 0.105}
    stages = stages_between(before, after)
    assert (stages.tokenise_ms, stages.network_ms) == (pytest.approx(1), pytest.approx(20))
    assert stages_between(after, after) is None
    assert stages_between(after, before) is None


def test_arrivals_are_a_poisson_process_that_comes_again():
    times = list(arrivals(50, 200, seed=1))
    gaps = [late - early for early, late in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert len(times) == pytest.approx(10_000, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.05)  # as an exponential's is
    assert times == list(arrivals(50, 200, seed=1))
    assert times != list(arrivals(50, 200, seed=2))


def test_latency_counts_from_when_a_request_was_due():
    outcomes = [
        Outcome(due_s=0.0, sent_s=0.0, done_s=0.1),
        Outcome(due_s=0.5, sent_s=0.8, done_s=0.9),
        Outcome(due_s=0.9, sent_s=0.9, done_s=1.2),
        Outcome(due_s=0.9, sent_s=0.9, done_s=0.9, error="UNAVAILABLE: full"),
    ]
    one = round_from_outcomes(outcomes, start_s=0.0, duration_s=1.0, n_waiting=1)
    assert (one.n_questions, one.questions_per_s, one.n_errors, one.n_late) == (3, 2.0, 1, 1)
    assert (one.p50_ms, one.p99_ms) == (pytest.approx(300), pytest.approx(400))
    with pytest.raises(BenchError, match="no request was answered; of 1 most failed so: UNAVAILABLE: full"):
        round_from_outcomes(outcomes[3:], start_s=0.0, duration_s=1.0, n_waiting=0)
    with pytest.raises(BenchError, match="no request was due within 1 s"):
        round_from_outcomes([], start_s=0.0, duration_s=1.0, n_waiting=0)


def test_a_server_that_falls_behind_is_told():
    assert a_round(n_waiting=5).keeps_up
    slow = measured(Level(rate=90), a_round(n_waiting=30, n_late=2, n_errors=1))
    assert bench_table([slow]).endswith("(cannot keep up)  (1 errors)  (2 sent late)")


def test_the_report_of_perf_analyzer_is_read_or_refused():
    report = "Concurrency,Inferences/Second,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency\n"
    report += "2,88.6,21817,22417,24980,25660,22075\n"
    output = "Pass [1] throughput: 80.5 infer/sec. Avg\nPass [2] throughput: 88 infer/sec. Avg\n  Client: \n"
    one = round_from_report(report, output + "    Request count: 160\n  Server: \n    Request count: 7\n")
    assert (one.n_questions, one.questions_per_s, one.window_questions_per_s) == (160, 88.6, (80.5, 88.0))
    assert (one.mean_ms, one.p50_ms, one.p95_ms, one.p99_ms) == (22.075, 21.817, 24.98, 25.66)
    for broken in ("", "Concurrency\n2\n", report.replace("88.6", "many")):
        with pytest.raises(BenchError, match="perf_analyzer's report is not understood"):
            round_from_report(broken, output)


def test_a_file_is_read_as_it_was_written(a_run, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json_from_run(a_run))
    assert run_from_file(path) == a_run
    content = json.loads(path.read_text())
    assert [entry["concurrency"] for entry in content["measurements"]] == [1, 4, None]
    assert content["header"]["machine"] == "2 cores"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[1]", '{"header": {}, "measurements": []}', '{"header": 1, "measurements": [{"rounds": 2}]}'],
)
def test_what_is_no_run_is_refused_in_a_sentence(text, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"old\.json: is not the bench\.json of a run \(.*\): measure with"):
        run_from_file(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        run_from_file(tmp_path / "none.json")


def test_tables_hold_every_level_and_model(a_run):
    lines = bench_table(a_run.measurements).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:]] == ["1 in flight", "4 in flight", "7.5/s"]
    where = breakdown_table(a_run.measurements)
    assert where.count("9.00      1.00      2.00      5.00      1.00       2.0") == 2
    assert "stages: tokenise 1.00, network 12.00, decode 0.50; waiting and the way there and back 6.50" in where
    rows = list(csv.DictReader(csv_from_run(a_run).splitlines()))
    assert [(row["concurrency"], row["rate"]) for row in rows] == [("1", ""), ("4", ""), ("", "7.5")]
    assert (rows[0]["m.queue_ms"], rows[2]["m.queue_ms"], rows[2]["network_ms"]) == ("1.0000", "", "12.0000")
    assert (rows[0]["rounds"], rows[0]["questions"]) == ("3", "300")
    cached = ModelTimes(**{**asdict(TIMES), "n_cache_hits": 4})
    assert "(4 from Triton's response cache)" in bench_table([measured(Level(rate=1), a_round(models=(cached,)))])


def test_the_picture_marks_the_knee_of_both_kinds_of_loop():
    rng = random.Random(0)
    opened = [measured(Level(rate=rate), a_round(rate, 20 + rng.random())) for rate in (5, 10, 20)]
    picture = ElementTree.fromstring(svg_from_measurements([*curve((1, 50), (2, 60), (4, 61)), *opened], title="<t>"))
    panels = picture.findall("{*}g")
    assert [len(panel.findall("{*}polyline")) for panel in panels] == [1, 3, 1, 3]
    assert all(len(panel.findall("{*}line[@stroke-dasharray]")) == 1 for panel in panels)
    # Latency lies over throughput, from 0 on: 61 of 80 questions/s at the right.
    points = panels[1].find("{*}polyline").get("points").split()
    assert float(points[-1].split(",")[0]) == pytest.approx(60 + 61 / 80 * 340, abs=0.1)


def test_runs_that_asked_something_else_are_not_compared():
    assert check_comparable(HEADER, HEADER) is None

    def other(**changes):
        return Header(**{**asdict(HEADER), **changes})

    assert "machine 2 cores / 4 cores" in check_comparable(HEADER, other(machine="4 cores"))
    with pytest.raises(InputError, match="asked different things"):
        check_comparable(HEADER, other(requests_sha256="cd"))
    with pytest.raises(InputError, match="windows of 2 s, the new one of 5 s"):
        check_comparable(HEADER, other(window_s=5.0))
