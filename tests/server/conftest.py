"""A small real repository: an entry with the contract's tensors that calls an encoder, and an ensemble of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spanqa import contract
from spanqa_server.server import Server

ENCODER_CODE = '''
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Measures a text; a text that begins with "slow" takes 0.4 s."""

    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            if text[0, 0].startswith(b"slow"):
                time.sleep(0.4)
            length = np.array([[len(row[0])] for row in text], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("LENGTH", length)]))
        return responses
'''

ENTRY_CODE = '''
import numpy as np
import triton_python_backend_utils as pb_utils


def answer(request):
    context = pb_utils.get_input_tensor_by_name(request, "CONTEXT").as_numpy()
    call = pb_utils.InferenceRequest(
        model_name="encoder", requested_output_names=["LENGTH"], inputs=[pb_utils.Tensor("TEXT", context)]
    ).exec()
    if call.has_error():
        error = pb_utils.TritonError(call.error().message(), pb_utils.TritonError.UNAVAILABLE)
        return pb_utils.InferenceResponse(error=error)
    length = pb_utils.get_output_tensor_by_name(call, "LENGTH").as_numpy()
    number = length.astype(np.float32)
    outputs = {
        "ANSWER": np.array([[str(int(row[0])).encode()] for row in length], np.object_),
        "SCORE": number, "CHAR_START": length * 0, "CHAR_END": length, "LOGIT": number, "NO_ANSWER_MARGIN": number,
        "HAS_ANSWER": np.array([[not row[0].startswith(b"nothing")] for row in context]),
        "QUESTION_TRUNCATED": length < 0, "NO_ANSWER_SCORE": number,
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


class TritonPythonModel:
    """Answers with the length of the context, which the encoder measures."""

    def execute(self, requests):
        return [answer(request) for request in requests]
'''

ENSEMBLE_CONFIG = """
platform: "ensemble"
max_batch_size: 8
input [{ name: "TEXT" data_type: TYPE_STRING dims: [1] }]
output [{ name: "LENGTH" data_type: TYPE_INT32 dims: [1] }]
ensemble_scheduling { step [{
  model_name: "encoder" model_version: -1
  input_map { key: "TEXT" value: "TEXT" } output_map { key: "LENGTH" value: "LENGTH" }
}] }
"""

ENCODER_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "TEXT" data_type: TYPE_STRING dims: [1] }]
output [{ name: "LENGTH" data_type: TYPE_INT32 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


def _entry_config() -> str:
    types = {"BYTES": "TYPE_STRING"}
    lines = ['backend: "python"', "max_batch_size: 8", "dynamic_batching {}"]
    lines.append("instance_group [{ kind: KIND_CPU count: 1 }]")
    for kind, tensors in (("input", contract.INPUTS), ("output", contract.OUTPUTS)):
        for tensor in tensors:
            optional = "optional: true" if tensor.optional and kind == "input" else ""
            data_type = types.get(tensor.dtype, f"TYPE_{tensor.dtype}")
            lines.append(
                f'{kind} [{{ name: "{tensor.name}" data_type: {data_type} dims: {list(tensor.dims)} {optional} }}]'
            )
    return "\n".join(lines)


def write_repository(folder: Path) -> Path:
    """Write the three models into a folder and return it."""
    models = {
        contract.ENCODER: (ENCODER_CONFIG, ENCODER_CODE),
        contract.QUESTION_ANSWERING: (_entry_config(), ENTRY_CODE),
        contract.ENSEMBLE: (ENSEMBLE_CONFIG, None),
    }
    for name, (config, code) in models.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config, "utf-8")
        if code:
            (folder / name / "1" / "model.py").write_text(code, "utf-8")
    return folder


def ask_with(client: Any, context: str, timeout_s: float = 30.0) -> str:
    """Ask the entry one question over an open connection and return the answer's text."""
    import tritonclient.grpc as grpc_client

    inputs = []
    for name, text in (("QUESTION", "How long is it?"), ("CONTEXT", context)):
        tensor = grpc_client.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()]], np.object_))
        inputs.append(tensor)
    result = client.infer(contract.QUESTION_ANSWERING, inputs, client_timeout=timeout_s)
    return result.as_numpy("ANSWER")[0, 0].decode()


def ours_in_shared_memory(pid: int) -> list[str]:
    """Return what a server process has in /dev/shm."""
    return sorted(path.name for path in Path("/dev/shm").glob(f"spanqa_{pid}_*"))


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], timeout_s: float) -> float:
    """Wait until a condition holds and return the seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            pytest.fail(f"{condition} did not hold within {timeout_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - start


class ServeCommand:
    """`spanqa serve` in a process of its own, on free ports."""

    def __init__(self, repository: Path, *options: str) -> None:
        command = [sys.executable, "-m", "spanqa.cli", "serve", "--repository", str(repository)]
        ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
        self.process = subprocess.Popen(
            [*command, *ports, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def wait_until_ready(self) -> str:
        """Return the gRPC endpoint once it has been printed."""
        lines: list[str] = []
        while not lines or not lines[-1].startswith("  gRPC"):
            line = self.process.stdout.readline() if self.process.stdout else ""
            if not line:
                pytest.fail(f"`spanqa serve` ended: {self.process.communicate()}")
            lines.append(line)
        return lines[-1].split()[1]

    def family(self) -> list[int]:
        """Return the process ids of Triton and its Python processes."""
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        children = [pid for pid, parent in parents.items() if parent == self.pid]
        return children + [pid for pid, parent in parents.items() if parent in children]

    def end(self) -> tuple[int, str]:
        """Return the exit status and what was said on stderr."""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "models")


@pytest.fixture(scope="module")
def reports() -> list[str]:
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, reports: list[str]) -> Iterator[Server]:
    folder = write_repository(tmp_path_factory.mktemp("served") / "models")
    with Server(folder, report=reports.append, canary_interval_s=0.5, canary_timeout_s=2.0) as server:
        yield server


@pytest.fixture
def serve(repository: Path) -> Iterator[Callable[..., ServeCommand]]:
    started: list[ServeCommand] = []

    def start(*options: str) -> ServeCommand:
        started.append(ServeCommand(repository, *options))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            os.kill(command.pid, signal.SIGTERM)
        command.process.communicate(timeout=60)


@pytest.fixture(scope="session")
def tools() -> Any:
    """The helpers of this file, which tests cannot import."""
    return sys.modules[__name__]
