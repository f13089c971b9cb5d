"""Learning rates: each schedule's values are those that the old toolkit's formula gives, worked out by hand."""

import pytest

from spanqa_training.errors import SpecError
from spanqa_training.optimization.schedules import SCHEDULES, Schedule, ScheduleSpec, unread_settings


def rates(name, steps, *, lr=1.0, n_steps=100, width=64, **keys):
    schedule = Schedule(spec=ScheduleSpec(name=name, **keys), lr=lr, n_steps=n_steps, width=width)
    return [schedule.at(step) for step in steps]


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        # over all steps, the warm-up included
        ("SquareRootAnnealing", {}, {0: 1.0, 19: 0.9, 36: 0.8, 75: 0.5, 96: 0.2, 101: 0.0}),
        ("SquareRootAnnealing", {"warmup_steps": 10}, {0: 1 / 11, 10: 1.0, 36: 0.8}),
        ("SquareAnnealing", {}, {0: 1.0, 50: 0.25, 90: 0.01, 100: 1e-5}),
        ("SquareAnnealing", {"warmup_ratio": 0.2, "min_lr": 0.1}, {20: 1.0, 60: 0.25, 95: 0.1, 101: 0.1}),
        ("WarmupAnnealing", {}, {0: 1.0, 25: 0.75, 99: 0.01}),
        ("WarmupAnnealing", {"warmup_ratio": 0.1}, {0: 1 / 11, 4: 5 / 11, 10: 1.0, 55: 0.5, 100: 0.0}),
        ("WarmupAnnealing", {"warmup_steps": 20, "min_lr": 0.5}, {20: 1.0, 60: 0.75}),
        ("CosineAnnealing", {}, {0: 1.0, 50: 0.5, 100: 0.0}),
        ("CosineAnnealing", {"warmup_steps": 20, "min_lr": 0.2}, {20: 1.0, 60: 0.6, 100: 0.2}),
        ("CosineAnnealing", {"warmup_steps": 10, "constant_steps": 30}, {0: 0.0, 5: 0.5, 40: 0.5, 70: 0.0, 99: 0.0}),
        ("PolynomialDecayAnnealing", {"power": 2.0}, {0: 1.0, 50: 0.25, 90: 0.01}),
        ("PolynomialDecayAnnealing", {"warmup_steps": 20, "min_lr": 0.1}, {20: 1.0, 60: 0.55, 100: 0.1}),
        ("PolynomialHoldDecayAnnealing", {"warmup_steps": 10, "hold_steps": 30}, {10: 1.0, 39: 1.0, 70: 0.5}),
        ("InverseSquareRootAnnealing", {"warmup_steps": 3}, {0: 0.25, 3: 1.0, 15: 0.5, 63: 0.25}),
        ("NoamAnnealing", {"warmup_steps": 25}, {0: 1 / 8 / 125, 25: 1 / 8 / 5, 100: 1 / 8 / 10}),
        ("NoamAnnealing", {"d_model": 16}, {1: 0.25, 4: 0.125}),
        ("NoamHoldAnnealing", {"warmup_steps": 4, "hold_steps": 0}, {4: 1.0, 16: 0.5, 64: 0.25}),
        ("WarmupPolicy", {"warmup_steps": 1}, {0: 0.5, 1: 1.0, 99: 1.0}),
        ("WarmupHoldPolicy", {"hold_ratio": 0.5}, {0: 1.0, 99: 1.0}),
    ],
)  # fmt: skip
def test_the_rate_at_a_step_is_the_formulas(name, keys, expected):
    assert rates(name, expected, **keys) == pytest.approx(list(expected.values()), abs=1e-12)


def test_the_default_lowest_rate_is_never_above_the_highest():
    assert rates("SquareAnnealing", [0, 50, 99], lr=5e-6) == [5e-6] * 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_setting_is_unread_exactly_where_it_changes_no_rate(name):
    keys = {"warmup_steps": 10}
    other = {"min_lr": 0.6, "hold_steps": 20, "hold_ratio": 0.2, "constant_steps": 20, "constant_ratio": 0.2}
    for setting, value in {**other, "power": 3.0, "decay_rate": 0.9, "d_model": 9}.items():
        if name == "WarmupHoldPolicy" and setting.startswith("hold"):
            continue  # it holds the rate that follows as well
        changes = rates(name, range(100), **keys, **{setting: value}) != rates(name, range(100), **keys)
        assert unread_settings(ScheduleSpec(name=name, **keys, **{setting: value})) == [setting] * (not changes), (
            setting
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_positive_and_scales_with_the_highest_rate(name):
    steps = range(100)
    keys = {"warmup_steps": 10, "min_lr": 0.0}
    low, high = rates(name, steps, lr=1e-5, **keys), rates(name, steps, lr=3e-5, **keys)
    assert high == pytest.approx([3 * rate for rate in low])
    assert all(rate > 0 for rate in high)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("keys", [{"warmup_ratio": 1.0}, {"warmup_steps": 200}, {"warmup_steps": 1, "hold_steps": 500}])
def test_a_warm_up_as_long_as_the_run_or_longer_is_no_division_by_zero(name, keys):
    assert all(0 <= rate <= 1 for rate in rates(name, range(120), **keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "StepLR"}, "must be one of"),
        ({"warmup_steps": -1}, "optim.sched.warmup_steps: must be at least 0"),
        ({"warmup_ratio": 1.5}, "optim.sched.warmup_ratio: must be in 0..1"),
        ({"name": "NoamHoldAnnealing"}, "needs a warm-up"),
        ({"hold_steps": 3, "hold_ratio": 0.5}, "contradict each other"),
    ],
)
def test_what_makes_no_schedule_is_refused(keys, message):
    with pytest.raises(SpecError, match=message):
        ScheduleSpec(**keys)
