"""The periods of a long run, and what grew over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spanqa_client.bench.generator import Outcome
from spanqa_client.bench.measurement import Level, percentiles
from spanqa_client.bench.processes import SHARED, Memory

MB = 1e6
_SETTLING = 10
"""The first of so many parts of the run is left out of growth: caches fill."""
_LEAST_PERIODS = 4
_MOST_SHOWN = 100
"""Characters of an error; the file has it whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A stretch of a long run.

    Args:
        at_s: When it ended, in seconds since the start.
        n_questions: Questions answered in it.
        questions_per_s: Throughput.
        p50_ms, p99_ms: Latency; None where nothing was answered.
        n_errors: Requests that failed.
        error: What failed most; "" where nothing did.
        resident_mb, shared_mb: The server's memory and its files in /dev/shm; None where it cannot be seen.
        n_processes: Its processes.
    """

    at_s: float
    n_questions: int
    questions_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    n_errors: int
    error: str
    resident_mb: float | None
    shared_mb: float | None
    n_processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A long run as a whole.

    Args:
        seconds: How long it was.
        n_questions: Questions answered.
        questions_per_s: Throughput.
        n_errors: Requests that failed.
        p99_ms: Of the periods, the worst; None where nothing was answered.
        resident_growth_percent, shared_growth_percent: From `growth_percent`.
    """

    seconds: float
    n_questions: int
    questions_per_s: float
    n_errors: int
    p99_ms: float | None
    resident_growth_percent: float | None
    shared_growth_percent: float | None


def period_from_outcomes(outcomes: Sequence[Outcome], at_s: float, seconds: float, found: Memory | None) -> Period:
    """Sum a period up.

    Args:
        outcomes: What came in it.
        at_s: When it ended.
        seconds: How long it was.
        found: The server's memory at its end.
    """
    latencies = [one.latency_ms for one in outcomes if not one.error]
    errors = Counter(one.error for one in outcomes if one.error)
    p50_ms, _, p99_ms = percentiles(latencies) if latencies else (None, None, None)
    return Period(
        at_s=at_s,
        n_questions=len(latencies),
        questions_per_s=len(latencies) / seconds,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        n_errors=len(outcomes) - len(latencies),
        error=errors.most_common(1)[0][0] if errors else "",
        resident_mb=found.resident_bytes / MB if found else None,
        shared_mb=found.shared_bytes / MB if found else None,
        n_processes=found.n_processes if found else 0,
    )


def summary_from_periods(periods: Sequence[Period]) -> Summary:
    """Sum a run up; the last period may be cut short."""
    seconds = periods[-1].at_s if periods else 0.0
    n_questions = sum(one.n_questions for one in periods)
    return Summary(
        seconds=seconds,
        n_questions=n_questions,
        questions_per_s=n_questions / seconds if seconds else 0.0,
        n_errors=sum(one.n_errors for one in periods),
        p99_ms=max((one.p99_ms for one in periods if one.p99_ms is not None), default=None),
        resident_growth_percent=growth_percent([(one.at_s, one.resident_mb) for one in periods]),
        shared_growth_percent=growth_percent([(one.at_s, one.shared_mb) for one in periods]),
    )


def growth_percent(points: Sequence[tuple[float, float | None]]) -> float | None:
    """Give by how much a line of least squares rises from its first point to its last, of its first.

    The first tenth of the points is left out, since caches fill there.

    Args:
        points: (time, value) pairs in order; those without a value count as not there.

    Returns:
        None for fewer than four points, or where the line begins at 0.
    """
    known = [(at, value) for at, value in points if value is not None]
    known = known[-(-len(known) // _SETTLING) :]
    if len(known) < _LEAST_PERIODS:
        return None
    n_points = len(known)
    mean_at, mean_value = sum(at for at, _ in known) / n_points, sum(value for _, value in known) / n_points
    spread = sum((at - mean_at) ** 2 for at, _ in known)
    slope = sum((at - mean_at) * (value - mean_value) for at, value in known) / spread
    first = mean_value + slope * (known[0][0] - mean_at)
    return 100 * slope * (known[-1][0] - known[0][0]) / first if first > 0 else None


def period_head(level: Level, found: Memory | None) -> str:
    """Say what is pressed and what the columns are."""
    where = (
        f"memory of the server's processes, of which there are {found.n_processes}"
        if found
        else "the server's memory is not seen: it is on another machine, or another user's"
    )
    return f"{level}; {where}\n      time  questions/s    p50 ms    p99 ms    errors  memory MB  /dev/shm MB"


def period_line(one: Period) -> str:
    """Lay a period out to read."""
    cells = [
        f"{_clock(one.at_s):>10}",
        f"{one.questions_per_s:11.1f}",
        *(f"{_known(value):>8}" for value in (one.p50_ms, one.p99_ms)),
        f"{one.n_errors:8d}",
        f"{_known(one.resident_mb):>9}",
        f"{_known(one.shared_mb):>11}",
    ]
    return "  ".join(cells) + (f"  {one.error[:_MOST_SHOWN]}" if one.error else "")


def summary_text(one: Summary) -> str:
    """Lay a run out to read."""
    rate, worst = f"{one.questions_per_s:.1f}/s", f"worst p99 {_known(one.p99_ms)} ms"
    lines = [f"{one.n_questions:,} questions in {_clock(one.seconds)}: {rate}, {worst}, {one.n_errors:,} errors"]
    growths = {"memory": one.resident_growth_percent, SHARED: one.shared_growth_percent}
    found = [f"{name} {growth:+.1f} %" for name, growth in growths.items() if growth is not None]
    if found:
        lines.append(f"growth, by a line through all but the first tenth: {', '.join(found)}")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
