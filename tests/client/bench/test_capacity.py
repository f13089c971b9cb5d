"""The queueing model holds where it is exact, comes close to a simulation elsewhere, and reads what bench wrote."""

import heapq
import json
import math
import random
from dataclasses import asdict

import pytest

from spanqa.cli import main
from spanqa.errors import InputError
from spanqa_client.bench.capacity import Mix, ServiceClass, class_from_measurements, erlang_c
from spanqa_client.bench.measurement import Level, Round, measurement_from_rounds
from spanqa_client.bench.report import Header, Run, json_from_run


def a_class(**changes):
    settings = {"label": "short", "share": 1.0, "alone_s": 0.02, "busy_s": 0.02, "variation": 1.0} | changes
    return ServiceClass(**settings)


def test_erlang_s_c_formula():
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    # By its definition, as a sum.
    load, n = 7.5, 10
    last = load**n / math.factorial(n) * n / (n - load)
    assert erlang_c(n, load) == pytest.approx(last / (sum(load**k / math.factorial(k) for k in range(n)) + last))


def test_one_server_waits_as_pollaczek_and_khinchin_say():
    # M/G/1, exactly: rho / (1 - rho) * (1 + v^2) / 2 services.
    for variation in (0.0, 0.5, 2.0):
        forecast = Mix([a_class(variation=variation)]).forecast(40.0, 1)
        assert forecast.utilisation == pytest.approx(0.8)
        assert forecast.wait_ms == pytest.approx(20 * 4 * (1 + variation**2) / 2)
        assert forecast.mean_ms == pytest.approx(20 + forecast.wait_ms)


def test_a_mix_is_as_busy_and_as_varied_as_its_parts():
    mix = Mix([a_class(share=3, busy_s=0.01, variation=0.0), a_class(share=1, busy_s=0.09, variation=0.0)])
    assert mix.saturation == pytest.approx(1 / 0.03)
    mean, square = 0.03, 0.75 * 0.01**2 + 0.25 * 0.09**2
    assert mix.variation == pytest.approx(math.sqrt(square / mean**2 - 1))


def simulated(n_servers, rate, variation, n_questions=30_000):
    """Latencies of an M/G/c queue with log-normal service of 20 ms, question by question, in seconds."""
    rng = random.Random(0)
    log_variance = math.log1p(variation**2)
    mean = math.log(0.02) - log_variance / 2
    free, now, latencies = [0.0] * n_servers, 0.0, []
    for _ in range(n_questions):
        now += rng.expovariate(rate)
        begins = max(now, heapq.heappop(free))
        ends = begins + rng.lognormvariate(mean, math.sqrt(log_variance))
        heapq.heappush(free, ends)
        latencies.append(ends - now)
    return sorted(latencies[n_questions // 10 :])


@pytest.mark.parametrize(("n_servers", "load"), [(1, 0.5), (1, 0.8), (3, 0.8)])
def test_latencies_are_those_of_a_simulated_queue(n_servers, load):
    rate = load * n_servers / 0.02
    latencies = simulated(n_servers, rate, 0.7)
    forecast = Mix([a_class(variation=0.7)]).forecast(rate, n_servers)
    assert forecast.mean_ms == pytest.approx(1e3 * sum(latencies) / len(latencies), rel=0.1)
    for percent in (50, 95, 99):
        found = 1e3 * latencies[math.ceil(percent / 100 * len(latencies)) - 1]
        assert forecast.percentile_ms(percent) == pytest.approx(found, rel=0.15)


def test_more_than_can_be_answered_has_no_forecast():
    mix = Mix([a_class()])
    assert mix.forecast(50.0, 1) is None
    assert next(mix.forecasts(50.0)).n_replicas == 2


def a_run(**rates):
    rounds = {
        1: Round(n_questions=100, questions_per_s=50, mean_ms=20, p50_ms=18, p95_ms=36, p99_ms=50),
        4: Round(n_questions=300, questions_per_s=78, mean_ms=50, p50_ms=48, p95_ms=80, p99_ms=90),
        16: Round(n_questions=300, questions_per_s=80, mean_ms=200, p50_ms=190, p95_ms=300, p99_ms=400),
    }
    return [
        measurement_from_rounds(Level(concurrency=number), [rounds[number]]) for number in rates.get("levels", rounds)
    ]


def test_a_class_is_read_off_a_run_of_bench():
    found = class_from_measurements("short", 0.5, a_run())
    assert (found.alone_s, found.busy_s) == pytest.approx((0.02, 1 / 80))
    # The log-normal distribution of that variation has twice its median at the 95th percentile.
    deviation = math.sqrt(math.log1p(found.variation**2))
    assert math.exp(1.6448536 * deviation) == pytest.approx(2)
    assert not found.is_rising
    assert class_from_measurements("short", 0.5, a_run(levels=[1, 4])).is_rising
    with pytest.raises(InputError, match="spanqa bench --concurrency 1,4,16"):
        class_from_measurements("short", 0.5, a_run(levels=[4, 16]))


@pytest.fixture
def bench_file(tmp_path):
    names = ("date", "server", "model", "model_version", "machine", "command", "dataset", "requests_sha256")
    header = Header(**dict.fromkeys(names, "x"), window_s=2.0)
    path = tmp_path / "a=b.json"
    path.write_text(json_from_run(Run(header=header, measurements=tuple(a_run()))))
    return path


def test_the_command_names_the_replicas(bench_file, capsys):
    command = ["plan-capacity", "--rate", "200", "--mix", f"0.9={bench_file}", "--mix", "0.1=60", "--goal-ms", "250"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    needed = next(one for one in result["forecasts"] if one["n_replicas"] == result["needed"])
    assert needed["p99_ms"] <= 250
    assert all(one["p99_ms"] > 250 for one in result["forecasts"] if one["n_replicas"] < result["needed"])
    assert result["replicas"] == result["needed"] + 1
    assert result["saturation_of_one"] == pytest.approx(1 / (0.9 / 80 + 0.1 * 0.06))
    mix = Mix([class_from_measurements("x", 0.9, a_run()), a_class(share=0.1, alone_s=0.06, busy_s=0.06)])
    assert needed == asdict(mix.forecast(200, result["needed"]))
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"{result['replicas']} replicas: {result['needed']} for 200 questions/s with p99 within 250 ms" in shown
    assert shown.count("meets the goal") == 1


def test_bursts_and_a_higher_percentile_need_more(capsys):
    def needed(*options):
        assert main(["plan-capacity", "--rate", "180", "--mix", "15", "--goal-ms", "180", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["needed"]

    assert needed("--percentile", "95") < needed()
    assert needed() < needed("--arrival-variation", "3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0", "--mix", "15", "--goal-ms", "100"], "--rate is 0: give a number above 0"),
        (["--rate", "10", "--mix", "15", "--goal-ms", "-1"], "--goal-ms is -1: give a number above 0"),
        (["--rate", "10", "--mix", "0=15", "--goal-ms", "100"], "share and service time must be above 0"),
        (["--rate", "10", "--mix", "nan", "--goal-ms", "100"], "share and service time must be above 0"),
        (["--rate", "10", "--mix", "1e308=15", "--mix", "1e308=9", "--goal-ms", "100"], "no more than 1e+09"),
        (["--rate", "10", "--mix", "1e308", "--goal-ms", "100"], "no more than 1e+09"),
        (["--rate", "10", "--mix", "1e-300", "--goal-ms", "100"], "must be above 0"),
        (["--rate", "10", "--mix", "15", "--goal-ms", "100", "--variation", "1e200"], "the variation is 1e+200"),
        (["--rate", "10", "--mix", "15", "--goal-ms", "100", "--arrival-variation", "1e200"], "arrivals is 1e+200"),
        (["--rate", "10", "--mix", "15", "--goal-ms", "100", "--spare", "1000000000"], "--spare is 1000000000"),
        (["--rate", "10", "--mix", "0.9=15", "--mix", "20", "--goal-ms", "100"], "some of --mix have a share"),
        (["--rate", "10", "--mix", "none.json", "--goal-ms", "100"], "--mix none.json: cannot be read"),
        (
            ["--rate", "10", "--mix", "15", "--goal-ms", "20"],
            "no number of replicas answers 99 % of these within 20 ms",
        ),
        (["--rate", "1e9", "--mix", "15", "--goal-ms", "100"], "needs more replicas than this plans for"),
        (["--rate", "10", "--mix", "15", "--goal-ms", "100", "--spare", "-1"], "--spare is -1"),
        (["--rate", "10", "--mix", "15", "--goal-ms", "100", "--variation", "-1"], "the variation is -1"),
        (
            ["--rate", "10", "--mix", "15", "--goal-ms", "100", "--arrival-variation", "nan"],
            "variation of arrivals is nan",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(options, message, capsys):
    assert main(["plan-capacity", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
