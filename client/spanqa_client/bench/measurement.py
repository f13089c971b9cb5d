"""What a benchmark measured: rounds of load at one level, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from spanqa.errors import DataError
from spanqa_client.bench.breakdown import ModelTimes, StageTimes

_STABLE_RATIO = 1.15
_KEEPING_UP = 0.05
_FEW_WAITING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How hard a server is pressed: exactly one of the two.

    Args:
        concurrency: Requests in flight: a new one is sent when one is answered (closed loop).
        rate: Requests a second that come whether or not others are answered (open loop).
    """

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.concurrency} in flight" if self.concurrency is not None else f"{self.rate:g}/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One stretch of load.

    Args:
        n_questions: Questions answered.
        questions_per_s: Throughput.
        mean_ms: Mean latency.
        p50_ms: Latency that half of the requests stay within.
        p95_ms: Latency that 95 % stay within.
        p99_ms: Latency that 99 % stay within.
        window_questions_per_s: Throughput of the windows of this stretch, where it was measured in some.
        n_errors: Requests that were not answered.
        n_late: Requests that were sent more than 10 ms after they were due (open loop).
        n_waiting: Requests that were not answered yet when the last was sent (open loop).
        models: What Triton's statistics say of each model that worked.
        stages: What the metrics of this project say of the main entry's stages.
    """

    n_questions: int
    questions_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    window_questions_per_s: tuple[float, ...] = ()
    n_errors: int = 0
    n_late: int = 0
    n_waiting: int = 0
    models: tuple[ModelTimes, ...] = ()
    stages: StageTimes | None = None

    @property
    def stable(self) -> bool:
        """Whether the throughput of its windows agreed within 15 %."""
        return _agree(self.window_questions_per_s)

    @property
    def keeps_up(self) -> bool:
        """Whether the server answered about as fast as requests came."""
        return self.n_waiting <= _FEW_WAITING + _KEEPING_UP * (self.n_questions + self.n_errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured at one level: means over its rounds.

    Args:
        concurrency, rate: As in `Level`.
        questions_per_s, mean_ms, p50_ms, p95_ms, p99_ms: As in `Round`.
        stable: Whether the throughput of the rounds, or of the windows of a single round, agreed within 15 %.
        rounds: The rounds, at least one.
    """

    concurrency: int | None
    rate: float | None
    questions_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    stable: bool
    rounds: tuple[Round, ...]

    @property
    def level(self) -> Level:
        """How hard the server was pressed."""
        return Level(concurrency=self.concurrency, rate=self.rate)


METRICS = ("questions_per_s", "mean_ms", "p50_ms", "p95_ms", "p99_ms")
"""The fields that rounds and measurements share."""


def measurement_from_rounds(level: Level, rounds: Sequence[Round]) -> Measurement:
    """Put the rounds of a level together.

    Args:
        level: How hard the server was pressed.
        rounds: At least one.
    """
    means = {name: fmean(getattr(one, name) for one in rounds) for name in METRICS}
    return Measurement(
        concurrency=level.concurrency,
        rate=level.rate,
        stable=rounds[0].stable if len(rounds) == 1 else _agree([one.questions_per_s for one in rounds]),
        rounds=tuple(rounds),
        **means,
    )


def percentiles(latencies_ms: Sequence[float]) -> tuple[float, float, float]:
    """Give the 50th, 95th and 99th percentile: the smallest value that this share stays within (nearest rank).

    Args:
        latencies_ms: At least one.
    """
    ordered = sorted(latencies_ms)
    low, high, highest = (ordered[max(math.ceil(len(ordered) * share / 100), 1) - 1] for share in (50, 95, 99))
    return low, high, highest


def measurement_from_json(entry: Any) -> Measurement:
    """Read a measurement as `dataclasses.asdict` gives it.

    Raises:
        DataError: It is none.
    """
    try:
        rounds = tuple(_round_from_json(one) for one in entry["rounds"])
        return Measurement(**{**entry, "rounds": rounds})
    except (KeyError, TypeError) as error:
        raise DataError(f"it has no measurement of repeated rounds ({error})") from error


def _agree(rates: Sequence[float]) -> bool:
    return not rates or max(rates) <= _STABLE_RATIO * min(rates)


def _round_from_json(entry: dict[str, Any]) -> Round:
    models = tuple(ModelTimes(**one) for one in entry["models"])
    stages = StageTimes(**entry["stages"]) if entry["stages"] else None
    windows = tuple(entry["window_questions_per_s"])
    return Round(**{**entry, "models": models, "stages": stages, "window_questions_per_s": windows})
