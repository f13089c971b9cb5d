"""Where a question's time goes: Triton's statistics of every model, and this project's own metrics of its stages."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from spanqa.errors import InputError

STAGES = ("tokenise", "network", "decode")
_TIMEOUT_S = 5.0
_DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output")
_SAMPLE = re.compile(r"^(spanqa_questions_total|spanqa_stage_seconds_total)\{([^}]*)\}\s+(\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Snapshot = Mapping[tuple[str, str], Mapping[str, int]]
"""Counters of every (model, version) since the server started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTimes:
    """What Triton's statistics say of one model over a stretch of time; milliseconds are means of its requests.

    Args:
        model: Its name.
        version: Its version.
        n_requests: Requests answered.
        n_executions: Batches run.
        server_ms: From receiving a request until the model is done with it.
        queue_ms: Waiting for a batch.
        input_ms: Handing the inputs over.
        compute_ms: Running. A model that answers after it has returned, as `question_answering` does, shows only its
            taking in.
        output_ms: Handing the outputs over.
        n_cache_hits: Answers that came out of Triton's response cache.
    """

    model: str
    version: str
    n_requests: int
    n_executions: int
    server_ms: float
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float
    n_cache_hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Mean milliseconds of one question in each stage of the main entry, from `spanqa_stage_seconds_total`."""

    tokenise_ms: float
    network_ms: float
    decode_ms: float


def model_snapshot(stub: Any) -> Snapshot:
    """Read Triton's statistics of all models; nothing where it keeps none.

    Args:
        stub: Triton's gRPC service.
    """
    try:
        response = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=_TIMEOUT_S)
    except grpc.RpcError:
        return {}
    return {(one.name, one.version): _counters(one) for one in response.model_stats}


def _counters(statistics: service_pb2.ModelStatistics) -> dict[str, int]:
    times = statistics.inference_stats
    counters = {name: getattr(times, name).ns for name in _DURATIONS}
    return counters | {
        "requests": times.success.count,
        "executions": statistics.execution_count,
        "cache_hits": times.cache_hit.count,
    }


def times_between(before: Snapshot, after: Snapshot) -> tuple[ModelTimes, ...]:
    """Give what happened between two snapshots, for every model that answered; the busiest first.

    A model whose counters went down was loaded anew meanwhile, and is left out.
    """
    found = []
    for (model, version), late in after.items():
        early = before.get((model, version), dict.fromkeys(late, 0))
        gone = {name: late[name] - early[name] for name in late}
        if gone["requests"] <= 0 or min(gone.values()) < 0:
            continue
        means = {name: gone[name] / gone["requests"] / 1e6 for name in _DURATIONS}
        found.append(
            ModelTimes(
                model=model,
                version=version,
                n_requests=gone["requests"],
                n_executions=gone["executions"],
                server_ms=means["success"],
                queue_ms=means["queue"],
                input_ms=means["compute_input"],
                compute_ms=means["compute_infer"],
                output_ms=means["compute_output"],
                n_cache_hits=gone["cache_hits"],
            )
        )
    return tuple(sorted(found, key=lambda times: -times.n_requests * times.server_ms))


def merged_times(rounds: Iterable[Sequence[ModelTimes]]) -> list[ModelTimes]:
    """Put the times of several rounds together, weighted by their requests; one entry a model and version."""
    groups: dict[tuple[str, str], list[ModelTimes]] = {}
    for one in rounds:
        for times in one:
            groups.setdefault((times.model, times.version), []).append(times)
    merged = []
    for (model, version), group in groups.items():
        n_requests = sum(times.n_requests for times in group)
        counts = {name: sum(getattr(times, name) for times in group) for name in ("n_executions", "n_cache_hits")}
        means = {
            name: sum(getattr(times, name) * times.n_requests for times in group) / n_requests
            for name in ("server_ms", "queue_ms", "input_ms", "compute_ms", "output_ms")
        }
        merged.append(ModelTimes(model=model, version=version, n_requests=n_requests, **counts, **means))
    return merged


def merged_stages(rounds: Iterable[StageTimes | None]) -> StageTimes | None:
    """Give the means of several rounds' stages; None where no round has any."""
    found = [one for one in rounds if one]
    if not found:
        return None
    means = {name: sum(getattr(one, name) for one in found) / len(found) for name in (f"{s}_ms" for s in STAGES)}
    return StageTimes(**means)


def stage_snapshot(metrics_url: str, model: str) -> dict[str, float]:
    """Read the counters of the main entry's stages, summed over its versions and processes.

    Args:
        metrics_url: Triton's metrics endpoint.
        model: The model.

    Raises:
        InputError: Nothing can be read there.
    """
    try:
        with urllib.request.urlopen(metrics_url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - checked by its caller
            text = response.read().decode("utf-8", "replace")
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"--metrics-url {metrics_url}: cannot be read ({reason}): give the server's metrics endpoint, such as "
            "localhost:8002"
        ) from error
    sums = dict.fromkeys(("questions", *STAGES), 0.0)
    for name, labels_text, value in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(labels_text))
        key = "questions" if name == "spanqa_questions_total" else labels.get("stage", "")
        if labels.get("model") == model and key in sums:
            sums[key] += float(value)
    return sums


def stages_between(before: Mapping[str, float], after: Mapping[str, float]) -> StageTimes | None:
    """Give the mean times of the questions between two snapshots; None where none was counted."""
    gone = {name: after[name] - before[name] for name in after}
    if gone["questions"] <= 0 or min(gone.values()) < 0:
        return None
    return StageTimes(**{f"{stage}_ms": gone[stage] / gone["questions"] * 1e3 for stage in STAGES})
