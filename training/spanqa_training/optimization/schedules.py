"""Learning rates over the steps of a run: the schedules that the old toolkits knew by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from spanqa_training.errors import SpecError

_INVERSE_SQUARE_ROOT = -0.5
_NOAM_WARMUP = -1.5
_SQUARE_MIN_LR = 1e-5
CONSTANT = {"name": "WarmupPolicy"}
"""The section of a schedule that, without a warm-up, changes nothing."""


_READERS = {
    "min_lr": ("SquareRoot", "SquareAnnealing", "WarmupAnnealing", "Cosine", "Polynomial", "Noam"),
    "hold_steps": ("PolynomialHold", "NoamHold", "WarmupHold"),
    "hold_ratio": ("PolynomialHold", "NoamHold", "WarmupHold"),
    "constant_steps": ("Cosine",),
    "constant_ratio": ("Cosine",),
    "power": ("Polynomial",),
    "decay_rate": ("NoamHold",),
    "d_model": ("NoamAnnealing",),
}
"""How the names of the schedules begin that read a setting; all read the warm-up."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """The learning rate over the steps (`optim.sched`)."""

    name: str = "SquareRootAnnealing"
    """One of SCHEDULES. An optim section without sched, or sched: null, keeps the rate constant, as in NeMo."""
    warmup_steps: int | None = None
    """Steps of the linear warm-up; give this or warmup_ratio."""
    warmup_ratio: float | None = None
    """Warm-up as a share of all steps."""
    min_lr: float | None = None
    """Lowest learning rate; 0, and 1e-5 (at most lr) for SquareAnnealing, where not given."""
    hold_steps: int | None = None
    """Steps at the highest rate after the warm-up (the Hold schedules); give this or hold_ratio."""
    hold_ratio: float | None = None
    """The same as a share of all steps."""
    constant_steps: int | None = None
    """Last steps at min_lr (CosineAnnealing); give this or constant_ratio."""
    constant_ratio: float | None = None
    """The same as a share of all steps."""
    power: float = 1.0
    """Exponent of the polynomial schedules."""
    decay_rate: float = 0.5
    """Exponent of NoamHoldAnnealing's decay."""
    d_model: int | None = None
    """Width of the model in NoamAnnealing's factor; the encoder's own where not given."""

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise SpecError(f"optim.sched.name: must be one of {', '.join(SCHEDULES)}, got {self.name!r}")
        for steps, ratio in (("warmup_steps", "warmup_ratio"), ("hold_steps", "hold_ratio")):
            n_steps, share = getattr(self, steps), getattr(self, ratio)
            if n_steps is not None and share:
                raise SpecError(f"optim.sched: {steps} {n_steps} and {ratio} {share} contradict each other: give one")
        for name in ("warmup_steps", "hold_steps", "constant_steps", "min_lr"):
            if (getattr(self, name) or 0) < 0:
                raise SpecError(f"optim.sched.{name}: must be at least 0, got {getattr(self, name)}")
        for name in ("warmup_ratio", "hold_ratio", "constant_ratio"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise SpecError(f"optim.sched.{name}: must be in 0..1, got {getattr(self, name)}")
        if self.name == "NoamHoldAnnealing" and not (self.warmup_steps or self.warmup_ratio):
            raise SpecError("optim.sched: NoamHoldAnnealing needs a warm-up: give warmup_steps or warmup_ratio")


def unread_settings(spec: ScheduleSpec) -> list[str]:
    """Names of settings that are given and that the schedule does not read."""
    defaults = ScheduleSpec()
    given = (name for name in _READERS if getattr(spec, name) != getattr(defaults, name))
    return [name for name in given if not spec.name.startswith(_READERS[name])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule with its numbers worked out.

    Args:
        spec: What was asked for.
        lr: Highest learning rate.
        n_steps: Steps of the whole run.
        width: The encoder's hidden size.
    """

    spec: ScheduleSpec
    lr: float
    n_steps: int
    width: int

    @property
    def n_warmup(self) -> int:
        """Steps of the warm-up."""
        return _n_steps(self.spec.warmup_steps, self.spec.warmup_ratio, self.n_steps)

    @property
    def n_hold(self) -> int:
        """Steps at the highest rate after the warm-up."""
        return _n_steps(self.spec.hold_steps, self.spec.hold_ratio, self.n_steps)

    @property
    def n_constant(self) -> int:
        """Steps at the lowest rate at the end."""
        return _n_steps(self.spec.constant_steps, self.spec.constant_ratio, self.n_steps)

    @property
    def min_lr(self) -> float:
        """The lowest learning rate."""
        if self.spec.min_lr is not None:
            return self.spec.min_lr
        return min(_SQUARE_MIN_LR, self.lr) if self.spec.name == "SquareAnnealing" else 0.0

    def at(self, step: int) -> float:
        """Learning rate of a step, counted from 0.

        The formulas are those of NeMo 1.x (`nemo/core/optim/lr_scheduler.py`): a linear warm-up from
        lr / (warm-up + 1), the named decay, and min_lr after the last step.
        """
        name = self.spec.name
        if name == "NoamAnnealing":
            return _noam(self, max(1, step))
        if name == "CosineAnnealing" and self.n_constant:
            return _cosine_then_constant(self, step)
        if self.n_warmup and step <= self.n_warmup:
            return self.lr * (step + 1) / (self.n_warmup + 1)
        if "Hold" in name and step < self.n_warmup + self.n_hold:
            return self.lr
        if step > self.n_steps:
            return self.min_lr
        return SCHEDULES[name](self, step)


def _n_steps(steps: int | None, ratio: float | None, n_steps: int) -> int:
    return steps if steps is not None else int((ratio or 0.0) * n_steps)


def _share(done: int, whole: int) -> float:
    """`done / whole`, and 1 for the end of an empty stretch."""
    return done / whole if whole > 0 else 1.0


def _square_root(schedule: Schedule, step: int) -> float:
    # Over all steps, the warm-up included, as NeMo has it; the other schedules decay over what comes after it.
    left = 1 - _share(step, schedule.n_steps)
    return max(schedule.lr * math.sqrt(max(0.0, left)), schedule.min_lr)


def _square(schedule: Schedule, step: int) -> float:
    return max(schedule.lr * (1 - _after_warmup(schedule, step)) ** 2, schedule.min_lr)


def _after_warmup(schedule: Schedule, step: int) -> float:
    return min(1.0, _share(step - schedule.n_warmup, schedule.n_steps - schedule.n_warmup))


def _between(schedule: Schedule, share: float) -> float:
    """A rate between min_lr (0) and lr (1)."""
    return schedule.min_lr + share * (schedule.lr - schedule.min_lr)


def _linear(schedule: Schedule, step: int) -> float:
    return _between(schedule, 1 - _after_warmup(schedule, step))


def _cosine(schedule: Schedule, step: int) -> float:
    return _between(schedule, (1 + math.cos(math.pi * _after_warmup(schedule, step))) / 2)


def _cosine_then_constant(schedule: Schedule, step: int) -> float:
    n_warmup = schedule.n_warmup
    if n_warmup and step <= n_warmup:
        return schedule.lr * step / n_warmup
    n_decay = schedule.n_steps - n_warmup - schedule.n_constant
    share = min(1.0, _share(step - n_warmup, n_decay))
    return _between(schedule, (1 + math.cos(math.pi * share)) / 2)


def _polynomial(schedule: Schedule, step: int) -> float:
    n_before = schedule.n_warmup + (schedule.n_hold if "Hold" in schedule.spec.name else 0)
    done, n_decay = step - n_before, schedule.n_steps - n_before
    return _between(schedule, (1 - min(1.0, _share(done, n_decay))) ** schedule.spec.power)


def _inverse_square_root(schedule: Schedule, step: int) -> float:
    return schedule.lr * ((step + 1) / (schedule.n_warmup + 1)) ** _INVERSE_SQUARE_ROOT


def _noam(schedule: Schedule, step: int) -> float:
    """Vaswani et al. 2017, section 5.3, times lr."""
    n_warmup = schedule.n_warmup
    factor = step**_INVERSE_SQUARE_ROOT
    if n_warmup:
        factor = min(factor, step * n_warmup**_NOAM_WARMUP)
    rate = schedule.lr * (schedule.spec.d_model or schedule.width) ** _INVERSE_SQUARE_ROOT * factor
    return max(rate, schedule.min_lr) if step > n_warmup else rate


def _noam_hold(schedule: Schedule, step: int) -> float:
    rate = schedule.spec.decay_rate
    rise = max(1.0, schedule.n_warmup**rate)
    return max(schedule.lr * rise / max(1.0, max(0, step - schedule.n_hold) ** rate), schedule.min_lr)


def _constant(schedule: Schedule, _step: int) -> float:
    return schedule.lr


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "SquareRootAnnealing": _square_root,
    "SquareAnnealing": _square,
    "WarmupAnnealing": _linear,
    "CosineAnnealing": _cosine,
    "PolynomialDecayAnnealing": _polynomial,
    "PolynomialHoldDecayAnnealing": _polynomial,
    "InverseSquareRootAnnealing": _inverse_square_root,
    "NoamAnnealing": _noam,
    "NoamHoldAnnealing": _noam_hold,
    "WarmupPolicy": _constant,
    "WarmupHoldPolicy": _constant,
}
"""The decay of each schedule after its warm-up."""
