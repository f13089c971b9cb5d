"""Closed loops, driven by perf_analyzer."""

from __future__ import annotations

import base64
import csv
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from spanqa import contract
from spanqa.squad import Example
from spanqa_client.bench.binary import environment_with_libraries, missing_library, perf_analyzer_path
from spanqa_client.bench.interruption import interruptions_held
from spanqa_client.bench.load import Load, served_version
from spanqa_client.bench.measurement import Round
from spanqa_client.errors import BenchError
from spanqa_client.options import Options
from spanqa_client.security import ConnectionSettings
from spanqa_client.wire import raw_options

N_WINDOWS = 3
"""Windows of one measurement: perf_analyzer gives no report of fewer."""
# It gives no report either where three windows differ by more than this: whether they agree is judged by us.
_ANY_PERCENT = 100_000
_WINDOW_STRETCH = 1.2
"""What perf_analyzer makes of the length of a window."""
_TAIL_LINES = 4
_NONE_ANSWERED = "No valid requests recorded"
_REFUSED = "had error"
_PASS = re.compile(r"Pass \[\d+\] throughput: ([\d.]+) infer/sec")
_COUNT = re.compile(r"Client:\s+Request count: (\d+)")


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


def measure(load: Load, input_data: str, concurrency: int) -> Round:
    """Measure one level of concurrency once, over three windows.

    Args:
        load: What is measured.
        input_data: From `input_data_from_examples`.
        concurrency: Requests in flight.

    Raises:
        BenchError: perf_analyzer is not installed, cannot run or connect so, or failed.
        ClientError: The server does not tell the model's version.
    """
    with tempfile.TemporaryDirectory(prefix="spanqa-bench-") as folder_name:
        folder = Path(folder_name)
        (folder / "input.json").write_text(input_data, encoding="utf-8")
        report = folder / "report.csv"
        command = [
            *[perf_analyzer_path(), "-m", load.model_name, "-x", served_version(load), "-u", load.url, "-i", "grpc"],
            *["--async", "--input-data", str(folder / "input.json"), "--concurrency-range", str(concurrency)],
            *["--measurement-interval", str(max(round(load.window_s * 1000), 1)), "--max-trials", str(N_WINDOWS)],
            *connection_arguments(load.connection),
            *["--stability-percentage", str(_ANY_PERCENT), "-v", "--verbose-csv", "-f", str(report)],
        ]
        status, output = _run(command, folder, N_WINDOWS * _WINDOW_STRETCH * load.window_s * 2 + 60)
        if status or not report.is_file():
            tail = " | ".join(output.strip().splitlines()[-_TAIL_LINES:])
            if _NONE_ANSWERED in output and _REFUSED not in output:
                raise BenchError(
                    f"no question was answered within a window of {load.window_s:g} s at concurrency {concurrency}: "
                    "give a longer --window-s"
                )
            raise BenchError(
                missing_library(output)
                or f"perf_analyzer failed at concurrency {concurrency} with status {status}: {tail}"
            )
        return round_from_report(report.read_text(), output)


def _run(command: Sequence[str], folder: Path, limit_s: float) -> tuple[int, str]:
    """Run to the end, and give the status and the output; whatever ends the wait for it kills it first."""
    environment = environment_with_libraries(folder / "lib")
    process: subprocess.Popen[str] | None = None
    try:
        # Of an interruption while a process is started nobody would know which one to kill.
        with interruptions_held():
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=folder,
                # A session of its own: Ctrl-C is ours to handle, and it must not go on by itself for its last requests.
                start_new_session=True,
            )
        output, _ = process.communicate(timeout=limit_s)
        return process.returncode, output
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"perf_analyzer did not end within {limit_s:.0f} s: is the server answering?") from error
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be run: {error.strerror}") from error
    finally:
        with interruptions_held():
            if process is not None and process.returncode is None:
                process.kill()
                process.communicate()


def connection_arguments(connection: ConnectionSettings) -> list[str]:
    """Give the options with which perf_analyzer connects.

    Args:
        connection: How to connect.

    Raises:
        BenchError: It has no option for that.
    """
    if connection.token is not None or connection.authority is not None:
        raise BenchError(
            "perf_analyzer can send no token and no other name of the server over gRPC: measure with --rates or "
            "--soak, which do without it"
        )
    files = {
        "--ssl-grpc-root-certifications-file": connection.ca_file,
        "--ssl-grpc-private-key-file": connection.key_file,
        "--ssl-grpc-certificate-chain-file": connection.certificate_file,
    }
    given = [["--grpc-compression-algorithm", connection.compression]]
    given += [["--ssl-grpc-use-ssl", "true"]] if connection.is_secure else []
    # It runs in a folder of its own.
    given += [[name, str(Path(path).resolve())] for name, path in files.items() if path is not None]
    return [part for option in given for part in option]


def round_from_report(report: str, output: str) -> Round:
    """Read what perf_analyzer wrote of one level.

    Args:
        report: Its CSV, with all columns.
        output: What it printed with `-v`.

    Raises:
        BenchError: It is not understood.
    """
    try:
        row = next(csv.DictReader(report.splitlines()))
        count = _COUNT.search(output)
        return Round(
            n_questions=int(count[1]) if count else 0,
            questions_per_s=float(row["Inferences/Second"]),
            mean_ms=float(row["Avg latency"]) / 1e3,
            p50_ms=float(row["p50 latency"]) / 1e3,
            p95_ms=float(row["p95 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
            window_questions_per_s=tuple(float(rate) for rate in _PASS.findall(output)),
        )
    except (StopIteration, KeyError, ValueError) as error:
        raise BenchError(f"perf_analyzer's report is not understood: {report[:200]!r}") from error
