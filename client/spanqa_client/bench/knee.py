"""The knee of a server's curve: the load beyond which requests wait more than the server gains."""

from __future__ import annotations

from collections.abc import Sequence

from spanqa_client.bench.measurement import Measurement


def knee(measurements: Sequence[Measurement]) -> Measurement | None:
    """Give the level with the most power: throughput divided by mean latency.

    Kleinrock's rule (Power and deterministic rules of thumb for probabilistic problems in computer communications,
    ICC 1979): below the level of most power throughput grows faster than latency, above it latency does. For one
    server with random arrivals it lies at half its capacity, where latency is twice that of an idle server.

    Args:
        measurements: One for each level, all of closed or all of open loops.

    Returns:
        None for fewer than two levels: one point has no knee.
    """
    if len(measurements) < 2:
        return None
    return max(measurements, key=lambda one: one.questions_per_s / one.mean_ms)


def knee_sentence(measurements: Sequence[Measurement]) -> str | None:
    """Name the knee in a sentence; None for fewer than two levels."""
    found = knee(measurements)
    if found is None:
        return None
    rule = "the most questions/s for their mean latency"
    best = max(measurements, key=lambda one: one.questions_per_s)
    beyond = ""
    if best.level != found.level:
        more = 100 * (best.questions_per_s / found.questions_per_s - 1)
        times = best.mean_ms / found.mean_ms
        beyond = f"; {best.level} gives {more:.0f} % more questions/s at {times:.1f} times the latency"
    edge = ""
    if found.level == measurements[-1].level:
        edge = "; it is the highest load measured, so the knee may lie higher"
    elif found.level == measurements[0].level and found.concurrency != 1:
        edge = "; it is the lowest load measured, so the knee may lie lower"
    figures = f"{found.questions_per_s:.1f} questions/s, p95 {found.p95_ms:.0f} ms"
    return f"knee: {found.level} ({figures}), {rule}{beyond}{edge}"
