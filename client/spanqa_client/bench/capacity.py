"""How many replicas a load needs: a queueing model of servers that share their questions, from measured times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from spanqa.errors import InputError
from spanqa_client.bench.measurement import Measurement

MOST_REPLICAS = 1000
PERCENTILES = (50, 95, 99)
_N_QUANTILES = 200
"""Points that a distribution of service times is taken at."""
_TAIL = 0.95
_MOST = 1e9
"""Of any number given: seconds, shares and variations beyond it, or below its inverse, are nobody's."""
_STILL_RISING = 1.1
"""Where the last step of concurrency still brought a tenth more, a server may have more to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    """One kind of question, such as those about short texts.

    Args:
        label: What it is called.
        share: Which part of all questions it is; the shares of a mix are made to add up to 1.
        alone_s: Mean seconds until a question is answered that finds the server idle.
        busy_s: Seconds of a whole server that one takes: one by the throughput of a server that is never idle.
        variation: Standard deviation of the former by its mean.
        is_rising: Whether throughput still grew at the highest load measured.

    Raises:
        InputError: A number is none that it can be.
    """

    label: str
    share: float
    alone_s: float
    busy_s: float
    variation: float
    is_rising: bool = False

    def __post_init__(self) -> None:
        if not all(1 / _MOST <= number <= _MOST for number in (self.share, self.busy_s, self.alone_s)):
            raise InputError(
                f"{self.label}: share and service time must be above 0, and no more than {_MOST:g}: give "
                "SHARE=MILLISECONDS, such as 0.9=15"
            )
        if not 0 <= self.variation <= _MOST:
            raise InputError(f"{self.label}: the variation is {self.variation:g}: give 0 or more, up to {_MOST:g}")

    def quantiles_s(self) -> list[float]:
        """Give evenly spread quantiles of the time alone, as of a log-normal distribution."""
        log_variance = math.log1p(self.variation**2)
        normal = NormalDist(math.log(self.alone_s) - log_variance / 2, math.sqrt(log_variance) or 1e-12)
        return [math.exp(normal.inv_cdf((place + 0.5) / _N_QUANTILES)) for place in range(_N_QUANTILES)]


def class_from_measurements(label: str, share: float, measurements: Sequence[Measurement]) -> ServiceClass:
    """Read a class off a run of `spanqa bench`.

    Its time alone is that at one question in flight, its variation that of the log-normal distribution with the
    measured p50 and p95; a server that is never idle gives the most questions/s of all levels.

    Args:
        label: What it is called.
        share: Which part of all questions it is.
        measurements: The run's, one of them at one question in flight.

    Raises:
        InputError: That one is missing.
    """
    closed = sorted((one for one in measurements if one.concurrency is not None), key=lambda one: one.concurrency or 0)
    if len(closed) < 2 or closed[0].concurrency != 1:
        raise InputError(
            f"{label}: needs one question in flight and a load that keeps the server busy: measure with "
            "`spanqa bench --concurrency 1,4,16`"
        )
    alone = closed[0]
    best = max(one.questions_per_s for one in closed)
    if not (best > 0 and alone.p50_ms > 0):
        raise InputError(f"{label}: nothing was answered: measure again")
    log_deviation = math.log(max(alone.p95_ms / alone.p50_ms, 1.0)) / NormalDist().inv_cdf(_TAIL)
    return ServiceClass(
        label=label,
        share=share,
        alone_s=alone.mean_ms / 1e3,
        busy_s=1 / best,
        variation=math.sqrt(math.expm1(log_deviation**2)),
        is_rising=closed[-1].questions_per_s > _STILL_RISING * closed[-2].questions_per_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What to expect of some replicas.

    Args:
        n_replicas: How many answer.
        utilisation: Which part of their time they are busy.
        wait_ms: Mean time that a question waits for its turn.
        mean_ms: Mean latency.
        p50_ms: Latency that half of the questions stay within; so below.
        p95_ms: As `p50_ms`.
        p99_ms: As `p50_ms`.
    """

    n_replicas: int
    utilisation: float
    wait_ms: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    def percentile_ms(self, percent: int) -> float:
        """Give one of `PERCENTILES`."""
        return float(getattr(self, f"p{percent}_ms"))


class Mix:
    """Questions of several classes that come to servers which share them.

    The servers are the stations of an M/G/c queue, one queue before all (our client asks the one with the fewest
    questions under way, which comes close), each as fast as a server that is never idle. The mean wait is that of
    M/M/c, Erlang's C formula, times half the sum of the squared variations of the pauses between questions and of the
    service (A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd edition, 1990: Allen and Cunneen's
    approximation; for one server that of J. F. C. Kingman, The single server queue in heavy traffic, 1961). Who waits
    does so for an exponentially distributed time, which is exact for M/M/c.

    Args:
        classes: At least one.
        arrival_variation: Standard deviation of the pauses between questions by their mean: 1 for questions that come
            independently (Poisson), more for bursts.

    Raises:
        InputError: The variation is none, or there is no class.
    """

    def __init__(self, classes: Sequence[ServiceClass], *, arrival_variation: float = 1.0) -> None:
        if not classes or not 0 <= arrival_variation <= _MOST:
            raise InputError(
                f"the variation of arrivals is {arrival_variation:g}: give 0 or more, up to {_MOST:g}; 1 is for random "
                "moments"
            )
        total = math.fsum(one.share for one in classes)
        self.classes = tuple(classes)
        self._parts = [(one.share / total, one) for one in classes]
        self._busy_s = math.fsum(share * one.busy_s for share, one in self._parts)
        square = math.fsum(share * one.busy_s**2 * (1 + one.variation**2) for share, one in self._parts)
        self.variation = math.sqrt(max(square / self._busy_s**2 - 1, 0.0))
        self._spread = (arrival_variation**2 + self.variation**2) / 2
        self._alone = [(share / _N_QUANTILES, second) for share, one in self._parts for second in one.quantiles_s()]

    @property
    def saturation(self) -> float:
        """Questions a second that keep one server always busy."""
        return 1 / self._busy_s

    @property
    def alone_s(self) -> float:
        """Mean seconds until a question is answered that finds a server idle."""
        return math.fsum(share * one.alone_s for share, one in self._parts)

    def forecast(self, rate: float, n_replicas: int) -> Forecast | None:
        """Say what to expect; None where more questions come than can be answered.

        Args:
            rate: Questions a second, to all replicas together.
            n_replicas: How many answer.
        """
        load = rate * self._busy_s
        if load >= n_replicas:
            return None
        waits = erlang_c(n_replicas, load)
        wait_s = waits * self._busy_s / (n_replicas - load) * self._spread
        latencies = [1e3 * self._percentile_s(percent / 100, waits, wait_s) for percent in PERCENTILES]
        return Forecast(
            n_replicas=n_replicas,
            utilisation=load / n_replicas,
            wait_ms=1e3 * wait_s,
            mean_ms=1e3 * (self.alone_s + wait_s),
            **dict(zip((f"p{percent}_ms" for percent in PERCENTILES), latencies, strict=True)),
        )

    def forecasts(self, rate: float) -> Iterator[Forecast]:
        """Give what to expect of ever more replicas, from the fewest that keep up."""
        for n_replicas in range(math.floor(rate * self._busy_s) + 1, MOST_REPLICAS + 1):
            found = self.forecast(rate, n_replicas)
            if found is not None:
                yield found

    def _percentile_s(self, share: float, waits: float, wait_s: float) -> float:
        """The time that a share of the questions stay within: their time alone and, independent of it, their wait."""
        decay = waits / wait_s if wait_s > 0 else math.inf

        def share_within(time_s: float) -> float:
            return math.fsum(
                part * (1 - waits * math.exp(-decay * (time_s - alone_s)) if time_s > alone_s else 0.0)
                for part, alone_s in self._alone
            )

        low, high = 0.0, max(second for _, second in self._alone)
        while share_within(high) < share:
            high *= 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if share_within(middle) >= share else (middle, high)
        return fmean((low, high))


def erlang_c(n_servers: int, load: float) -> float:
    """Give the share of questions that find all servers busy (A. K. Erlang, 1917, by the recursion of his B formula).

    Args:
        n_servers: At least one.
        load: Questions that arrive in a mean service time; below `n_servers`.
    """
    blocked = 1.0
    for number in range(1, n_servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / n_servers * (1 - blocked))
