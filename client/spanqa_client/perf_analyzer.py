"""Driving perf_analyzer, the load generator that tritonclient's wheel installs."""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import service_pb2

from spanqa import contract
from spanqa.squad import Example
from spanqa_client.connection import Connection
from spanqa_client.errors import BenchError
from spanqa_client.options import Options
from spanqa_client.wire import raw_options

# The binary's libraries that a bare machine lacks; nvidia-pytriton carries them under names with a hash.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
_MAX_TRIALS = 8
_STABLE_PERCENT = 15
_ANY_PERCENT = 100_000
_UNSTABLE = "Failed to obtain stable measurement"
_TAIL_LINES = 4
_METADATA_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is measured.

    Args:
        url: host:port of the server's gRPC endpoint.
        model_name: The model to ask.
        window_s: Length of one measurement; perf_analyzer repeats it until three agree.
    """

    url: str
    model_name: str
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What perf_analyzer measured at one concurrency.

    Args:
        concurrency: Requests in flight.
        questions_per_s: Throughput.
        p50_ms: Latency that half of the requests stay within.
        p95_ms: Latency that 95 % stay within.
        p99_ms: Latency that 99 % stay within.
        stable: Whether three measurements in a row agreed within 15 %; otherwise it is the mean of three that did not.
    """

    concurrency: int
    questions_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    stable: bool


def input_data_from_examples(examples: Sequence[Example], options: Options) -> str:
    """Give perf_analyzer's `--input-data` document: the requests that our own client would send.

    Args:
        examples: The questions, in the order in which they are asked, over and over.
        options: How each is to be answered.
    """
    # As bytes: JSON has no number that says NaN.
    optional = {tensor.name: {"b64": base64.b64encode(raw).decode()} for tensor, raw in raw_options(options)}
    requests = [
        {contract.QUESTION.name: [example.question], contract.CONTEXT.name: [example.context], **optional}
        for example in examples
    ]
    return json.dumps({"data": requests})


def measure(load: Load, input_data: str, concurrency: int) -> Measurement:
    """Measure one level of concurrency.

    Args:
        load: What is measured.
        input_data: From `input_data_from_examples`.
        concurrency: Requests in flight.

    Raises:
        BenchError: perf_analyzer is not installed, cannot run, or failed.
        ClientError: The server does not tell the model's version.
    """
    with tempfile.TemporaryDirectory(prefix="spanqa-bench-") as folder_name:
        folder = Path(folder_name)
        (folder / "input.json").write_text(input_data, encoding="utf-8")
        command = [
            *[_binary(), "-m", load.model_name, "-x", _model_version(load), "-u", load.url, "-i", "grpc", "--async"],
            *["--input-data", str(folder / "input.json"), "--concurrency-range", str(concurrency)],
            *["--measurement-interval", str(round(load.window_s * 1000)), "--max-trials", str(_MAX_TRIALS)],
            *["-f", str(folder / "report.csv")],
        ]
        limit_s = _MAX_TRIALS * load.window_s * 2 + 60
        done = _run([*command, "--stability-percentage", str(_STABLE_PERCENT)], folder, limit_s)
        stable = _UNSTABLE not in done.stdout + done.stderr
        if not stable:
            done = _run([*command, "--stability-percentage", str(_ANY_PERCENT)], folder, limit_s)
        report = folder / "report.csv"
        if done.returncode or not report.is_file():
            tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL_LINES:])
            raise BenchError(f"perf_analyzer failed at concurrency {concurrency} with status {done.returncode}: {tail}")
        return _measurement_from_csv(report.read_text(), stable=stable)


def _run(command: Sequence[str], folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": _library_path(folder / "lib")}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"perf_analyzer did not end within {limit_s:.0f} s: is the server answering?") from error
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error.strerror}") from error


def _model_version(load: Load) -> str:
    """The version that answers, named to perf_analyzer so that it need not guess one from the statistics."""
    connection = Connection(load.url, connect_timeout_s=_METADATA_TIMEOUT_S)
    try:
        request = service_pb2.ModelMetadataRequest(name=load.model_name)
        metadata = connection.call(
            lambda stub, left_s: stub.ModelMetadata(request, timeout=left_s()), timeout_s=_METADATA_TIMEOUT_S
        )
    finally:
        connection.close()
    if not metadata.versions:
        raise BenchError(f"{load.url} has no version of the model {load.model_name}: is it loaded?")
    return max(metadata.versions, key=int)


def _binary() -> str:
    beside = Path(sysconfig.get_path("scripts"), "perf_analyzer")
    found = str(beside) if beside.is_file() else shutil.which("perf_analyzer")
    if not found:
        raise BenchError("perf_analyzer is not installed: pip install 'spanqa[client]' brings it with tritonclient")
    return found


def _library_path(folder: Path) -> str:
    """Link the libraries that nvidia-pytriton carries into a folder under their plain names, and put it first."""
    try:
        site = Path(str(importlib.metadata.distribution("nvidia-pytriton").locate_file("nvidia_pytriton.libs")))
    except importlib.metadata.PackageNotFoundError:
        site = folder  # nothing to link; the machine may have them
    folder.mkdir(exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        for library in sorted(site.glob(pattern))[:1]:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(library)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def _measurement_from_csv(text: str, *, stable: bool) -> Measurement:
    rows = list(csv.DictReader(text.splitlines()))
    try:
        row = rows[0]
        return Measurement(
            concurrency=int(row["Concurrency"]),
            questions_per_s=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / 1e3,
            p95_ms=float(row["p95 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
            stable=stable,
        )
    except (IndexError, KeyError, ValueError) as error:
        raise BenchError(f"perf_analyzer's report is not understood: {text[:200]!r}") from error
