"""A run of `spanqa bench` as a file, and as tables to read."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import pstdev
from typing import Any

from spanqa.errors import InputError, SpanqaError
from spanqa_client.bench.breakdown import STAGES, ModelTimes, merged_stages, merged_times
from spanqa_client.bench.comparison import Change
from spanqa_client.bench.measurement import METRICS, Measurement, measurement_from_json

_NAMES = {"questions_per_s": "questions/s", "p50_ms": "p50 ms", "p95_ms": "p95 ms", "p99_ms": "p99 ms"}
_TIMES = ("server_ms", "queue_ms", "input_ms", "compute_ms", "output_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What was measured, where and how.

    Args:
        date: When, in UTC.
        server: Triton's name and version.
        model: The model.
        model_version: Its version.
        machine: This machine: processor, cores, system.
        command: The command.
        dataset: The file, and how many of its questions were asked.
        requests_sha256: Of all that was asked and how: runs with another one are not comparable.
        window_s: Length of a window.
    """

    date: str
    server: str
    model: str
    model_version: str
    machine: str
    command: str
    dataset: str
    requests_sha256: str
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A header and the measurements below it, by level."""

    header: Header
    measurements: tuple[Measurement, ...]


def machine() -> str:
    """Name this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {names[0] if names else platform.machine()}, {platform.system()} {platform.release()}"


def json_from_run(run: Run) -> str:
    """Give a run as JSON; `measurements` is the list that older versions wrote alone."""
    return json.dumps(asdict(run), indent=2, ensure_ascii=False)


def run_from_file(path: Path, *, option: str = "--compare") -> Run:
    """Read a run.

    Args:
        path: Its bench.json.
        option: What named it, for the error.

    Raises:
        InputError: There is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, list):
            raise InputError("an older version wrote it, without repeated rounds")
        measurements = tuple(measurement_from_json(entry) for entry in content["measurements"])
        return Run(header=Header(**content["header"]), measurements=measurements)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, SpanqaError) as error:
        raise InputError(
            f"{option} {path}: is not the bench.json of a run ({error}): measure with `spanqa bench -o FOLDER`"
        ) from error


def csv_from_run(run: Run) -> str:
    """Give a run as CSV: a line for each level; milliseconds are means of one question."""
    text = io.StringIO()
    models = list(dict.fromkeys(times.model for one in run.measurements for times in _times(one)))
    columns = [f"{model}.{name}" for model in models for name in ("executions", *_TIMES)]
    stages = [f"{stage}_ms" for stage in STAGES]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["concurrency", "rate", *METRICS, "stable", "rounds", "questions", "errors", "sent_late", *columns, *stages]
    )
    for one in run.measurements:
        cells: dict[str, object] = {}
        for times in _times(one):
            cells[f"{times.model}.executions"] = times.n_executions
            cells |= {f"{times.model}.{name}": f"{getattr(times, name):.4f}" for name in _TIMES}
        found = merged_stages(each.stages for each in one.rounds)
        counts = [sum(getattr(each, name) for each in one.rounds) for name in ("n_questions", "n_errors", "n_late")]
        writer.writerow(
            [
                *("" if value is None else value for value in (one.concurrency, one.rate)),
                *(f"{getattr(one, name):.4f}" for name in METRICS),
                *(one.stable, len(one.rounds), *counts),
                *(cells.get(column, "") for column in columns),
                *(f"{getattr(found, name):.4f}" if found else "" for name in stages),
            ]
        )
    return text.getvalue()


def bench_table(measurements: Sequence[Measurement]) -> str:
    """Lay latency and throughput out to read, one line for each level; +- is the spread of the rounds."""
    lines = ["load             questions/s          p50 ms    p95 ms    p99 ms"]
    for one in measurements:
        spread = pstdev([each.questions_per_s for each in one.rounds])
        line = (
            f"{one.level!s:<14}  {one.questions_per_s:10.1f} +- {spread:<5.1f}  {one.p50_ms:8.2f}  {one.p95_ms:8.2f}"
            f"  {one.p99_ms:8.2f}"
        )
        lines.append("  ".join([line, *_remarks(one)]))
    return "\n".join(lines)


def _remarks(one: Measurement) -> list[str]:
    n_errors, n_late = (sum(getattr(each, name) for each in one.rounds) for name in ("n_errors", "n_late"))
    n_cached = sum(times.n_cache_hits for times in _times(one))
    remarks = {
        "(not stable)": not one.stable and one.rate is None,
        "(cannot keep up)": not all(each.keeps_up for each in one.rounds),
        f"({n_errors:,} errors)": n_errors,
        f"({n_late:,} sent late)": n_late,
        f"({n_cached:,} from Triton's response cache)": n_cached,
    }
    return [text for text, applies in remarks.items() if applies]


def breakdown_table(measurements: Sequence[Measurement]) -> str:
    """Lay out where the time of a question goes: mean milliseconds; nothing where the server keeps no statistics."""
    rows = []
    for one in measurements:
        for times in _times(one):
            numbers = "".join(f"{getattr(times, name):10.2f}" for name in _TIMES)
            batch = times.n_requests / times.n_executions if times.n_executions else 0.0
            rows.append(f"{one.level!s:<14}  {times.model:<28}{numbers}{batch:10.1f}")
        stages = merged_stages(each.stages for each in one.rounds)
        if stages:
            waiting = one.mean_ms - stages.tokenise_ms - stages.network_ms - stages.decode_ms
            rows.append(
                f"{'':<14}  stages: tokenise {stages.tokenise_ms:.2f}, network {stages.network_ms:.2f}, decode "
                f"{stages.decode_ms:.2f}; waiting and the way there and back {waiting:.2f}"
            )
    if not rows:
        return ""
    head = "".join(f"{name:>10}" for name in ("ms", "queue", "input", "compute", "output", "a batch"))
    return "\n".join([f"{'load':<14}  {'Triton, mean of a request':<28}{head}", *rows])


def _times(one: Measurement) -> list[ModelTimes]:
    return merged_times(each.models for each in one.rounds)


def comparison_table(changes: Sequence[Change]) -> str:
    """Lay changes out to read, with a sentence below."""
    lines = [f"{'load':<14}  {'':<12}{'old':>10}{'new':>10}  change"]
    for one in changes:
        interval = f"{one.percent:+.1f} % ({one.low_percent:+.1f} to {one.high_percent:+.1f})"
        verdict = ("slower" if one.slower_percent > 0 else "faster") if one.differs else "no difference"
        lines.append(
            f"{one.level!s:<14}  {_NAMES[one.metric]:<12}{one.old:10.2f}{one.new:10.2f}  {interval}: {verdict}"
        )
    n_different = sum(one.differs for one in changes)
    widest = max(one.high_percent - one.percent for one in changes if one.metric == "questions_per_s")
    lines.append(
        f"{n_different} of {len(changes)} figures differ"
        if n_different
        else f"no difference: every interval holds 0 (a throughput {widest:.1f} % higher or lower would have shown)"
    )
    return "\n".join(lines)


def check_comparable(old: Header, new: Header) -> str | None:
    """Refuse runs that did not ask the same; say what else differs.

    Returns:
        A sentence about what else differs, or None.

    Raises:
        InputError: They asked other questions, or with windows of another length.
    """
    if old.requests_sha256 != new.requests_sha256:
        raise InputError(
            f"the runs asked different things ({old.dataset}; {new.dataset}): compare runs with the same --dataset, "
            "--questions and options of the answers"
        )
    if old.window_s != new.window_s:
        raise InputError(
            f"the old run had windows of {old.window_s:g} s, the new one of {new.window_s:g} s: give the same "
            "--window-s"
        )
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(old, name), getattr(new, name)) for name in ("machine", "server", "model", "model_version")
    }
    others = [f"{name} {first} / {second}" for name, (first, second) in pairs.items() if first != second]
    return f"beside the runs, this differs: {'; '.join(others)}" if others else None
