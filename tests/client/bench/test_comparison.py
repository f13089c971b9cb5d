"""Two runs differ where the interval of a change leaves out 0, and the intervals hold what they promise."""

import math
import random

import pytest

from spanqa.errors import InputError
from spanqa_client.bench.comparison import compare, t_quantile, welch_half_width
from spanqa_client.bench.measurement import Level, Round, measurement_from_rounds


def measured(rates, level=None):
    rounds = [
        Round(n_questions=100, questions_per_s=x, mean_ms=1e3 / x, p50_ms=1e3 / x, p95_ms=2e3 / x, p99_ms=3e3 / x)
        for x in rates
    ]
    return measurement_from_rounds(level or Level(concurrency=1), rounds)


# From the tables of Student's t, two-sided.
@pytest.mark.parametrize(
    ("confidence", "freedom", "value"),
    [(0.95, 1, 12.706), (0.95, 4, 2.776), (0.99, 4, 4.604), (0.95, 8, 2.306), (0.998, 8, 4.501), (0.95, 1000, 1.962)],
)
def test_the_quantiles_are_those_of_the_tables(confidence, freedom, value):
    assert t_quantile(confidence, freedom) == pytest.approx(value, rel=1e-3)


def test_the_interval_is_welchs():
    # Variances 2.5 and 10 of five values each: 2.5 / 5 + 10 / 5 = 2.5, and 5.882 degrees of freedom.
    first, second = [1, 2, 3, 4, 5], [2, 4, 6, 8, 10]
    assert welch_half_width(first, second, 0.95) == pytest.approx(2.459 * math.sqrt(2.5), rel=2e-3)
    assert welch_half_width([3, 3], [5, 5], 0.95) == 0


def test_runs_of_one_server_hardly_ever_differ():
    rng = random.Random(3)

    def run():
        return [
            measured([60 * rng.lognormvariate(0, 0.04) for _ in range(5)], Level(concurrency=n)) for n in (1, 4, 16)
        ]

    differing = sum(any(change.differs for change in compare(run(), run())) for _ in range(40))
    assert differing <= 4  # 2 of 40 promised


@pytest.mark.parametrize(("factor", "word"), [(0.8, -20), (1.25, 25)])
def test_a_real_change_is_told_with_its_interval(factor, word):
    old = measured([60, 61, 59, 60, 62])
    new = measured([factor * x for x in (60, 59, 61, 60, 61)])
    throughput, p50, *_ = compare([old], [new])
    assert throughput.differs
    assert throughput.low_percent < throughput.percent < throughput.high_percent
    assert throughput.percent == pytest.approx(word, abs=1)
    assert (throughput.slower_percent > 0) == (p50.slower_percent > 0) == (factor < 1)
    assert p50.percent == pytest.approx(100 * (1 / factor - 1), abs=2)


def test_open_loops_are_compared_round_by_round():
    level = Level(rate=10)
    old = measured([40, 50, 60, 70, 80], level)
    new = measured([40 * 0.89, 50 * 0.9, 60 * 0.91, 70 * 0.9, 80 * 0.9], level)
    (change, *_) = compare([old], [new])
    assert change.differs
    assert change.percent == pytest.approx(-10, abs=0.5)
    # The same values in closed loops, whose rounds have nothing in common, could be chance.
    closed = [measured([one.questions_per_s for one in run.rounds]) for run in (old, new)]
    assert not compare([closed[0]], [closed[1]])[0].differs


def test_other_levels_and_too_few_rounds_are_refused():
    one, two = measured([1, 2, 3]), measured([1, 2, 3], Level(rate=2.5))
    with pytest.raises(InputError, match=r"the old run measured 1 in flight, the new one 1 in flight, 2\.5/s"):
        compare([one], [one, two])
    with pytest.raises(InputError, match="a run of 2 rounds shows too little"):
        compare([one], [measured([1, 2])])
