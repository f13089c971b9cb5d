"""Triton's interfaces that load code, map memory and write files are locked; the secret is in no list of processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from spanqa import contract
from spanqa_server import deathsig
from spanqa_server.checks import free_port
from spanqa_server.environment import Triton, find_triton
from spanqa_server.errors import InstallationError
from spanqa_server.hidden_arguments import hidden_variables, start_hidden
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
CALLS = {
    "list models": lambda client: client.get_model_repository_index(),
    "load a model": lambda client: client.load_model(contract.ENCODER),
    "unload a model": lambda client: client.unload_model(contract.ENCODER),
    "list shared memory": lambda client: client.get_system_shared_memory_status(),
    "map shared memory": lambda client: client.register_system_shared_memory("mine", "/mine", 64),
    "give shared memory up": lambda client: client.unregister_system_shared_memory(),
    "list a GPU's shared memory": lambda client: client.get_cuda_shared_memory_status(),
    "map a GPU's shared memory": lambda client: client.register_cuda_shared_memory("mine", b"", 0, 64),
    "give a GPU's shared memory up": lambda client: client.unregister_cuda_shared_memory(),
    "read trace settings": lambda client: client.get_trace_settings(),
    "change trace settings": lambda client: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}),
    "read log settings": lambda client: client.get_log_settings(),
    "change log settings": lambda client: client.update_log_settings({"log_file": "/tmp/mine"}),
}
PATHS = (
    ("POST", "/v2/repository/index"),
    ("POST", f"/v2/repository/models/{contract.ENCODER}/load"),
    ("POST", f"/v2/repository/models/{contract.ENCODER}/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/mine/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", f"/v2/models/{contract.ENCODER}/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
)
NOBODY = "model-repository,shared-memory,trace,logging:no body=\n"
"""A lock for a plain `tritonserver` that nothing opens: HTTP carries no such value, gRPC no such name."""
ALLOWED_S = 60.0


@pytest.fixture(scope="module")
def image_s_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Triton in a folder as NVIDIA's images have it in /opt/tritonserver, made of links to the installed one."""
    installed, folder = find_triton(), tmp_path_factory.mktemp("opt") / "tritonserver"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tritonserver").symlink_to(installed.binary)
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for path in installed.backend.iterdir():
        (python / path.name).symlink_to(path)
    (python / installed.stub.name).symlink_to(installed.stub)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPANQA_TRITON", str(folder))
        patch.setenv("LD_LIBRARY_PATH", str(installed.libraries))  # as the image sets it
        yield folder


@pytest.fixture(scope="module")
def supervised(image_s_triton: Path, tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Iterator[Server]:
    """What the images' command starts."""
    with Server(tools.write_repository(tmp_path_factory.mktemp("image") / "models")) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A `tritonserver` that nobody supervises, with the lock that nothing opens; its gRPC and HTTP addresses."""
    triton: Triton = find_triton()
    ports = [free_port("127.0.0.1") for _ in range(2)]
    options = [
        f"--model-repository={tmp_path_factory.mktemp('empty')}",
        *("--model-control-mode=explicit", "--allow-metrics=false"),  # explicit: or loading would be refused anyway
        *("--grpc-address=127.0.0.1", f"--grpc-port={ports[0]}"),
        *("--http-address=127.0.0.1", f"--http-port={ports[1]}"),
        *(f"--grpc-restricted-protocol={NOBODY}", f"--http-restricted-api={NOBODY}"),
    ]
    variables = os.environ | {"LD_LIBRARY_PATH": str(triton.libraries)}
    process = subprocess.Popen(
        [str(triton.binary), *options], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        grpc_url, http_url = (f"127.0.0.1:{port}" for port in ports)
        deadline = time.monotonic() + ALLOWED_S
        with grpc_client.InferenceServerClient(grpc_url) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(InferenceServerException, OSError):
                    if client.is_server_live() and status_of(http_url, "GET", "/v2/health/live")[0] == 200:
                        break
                time.sleep(0.05)
        yield grpc_url, http_url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["spanqa serve", "tritonserver"])
def addresses(request: pytest.FixtureRequest) -> tuple[str, str]:
    if request.param == "tritonserver":
        return request.getfixturevalue("plain")
    server = request.getfixturevalue("supervised")
    return server.url, server.http_url


def status_of(url: str, method: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url, timeout=ALLOWED_S)
    try:
        connection.request(method, path, body="{}" if method == "POST" else None, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_grpc_refuses_each_of_them(addresses: tuple[str, str]) -> None:
    with grpc_client.InferenceServerClient(addresses[0]) as client:
        answered = {}
        for name, call in CALLS.items():
            try:
                call(client)
                answered[name] = "answered"
            except InferenceServerException as error:
                answered[name] = str(error)
        assert not {name: said for name, said in answered.items() if "restricted" not in said}


def test_http_refuses_each_of_them(addresses: tuple[str, str]) -> None:
    statuses = {f"{method} {path}": status_of(addresses[1], method, path)[0] for method, path in PATHS}
    assert set(statuses.values()) == {403}, statuses


def test_no_other_spelling_of_a_path_goes_around_the_lock(addresses: tuple[str, str]) -> None:
    statuses = {}
    for method, path in PATHS:
        for other in (
            f"{path}/",
            f"/{path}",
            f"{path}?a=1",
            f"{path}%0a",
            path.upper(),
            path.replace("/v2/", "/v2/./"),
        ):
            statuses[other] = status_of(addresses[1], method, other)[0]
    assert set(statuses.values()) <= {400, 403, 404}, statuses


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def grpc_status_of(url: str, name: bytes, value: bytes) -> bytes:
    """The status of a call that lists the models, with a header that no library would send."""
    fields = [
        *((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x")),
        (b":path", b"/inference.GRPCInferenceService/RepositoryIndex"),
        *((b"content-type", b"application/grpc"), (b"te", b"trailers"), (name, value)),
    ]
    headers = b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)
    opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    host, _, port = url.partition(":")
    said = b""
    with socket.create_connection((host, int(port)), ALLOWED_S) as connection:
        connection.sendall(opening + frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5)))
        connection.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(4096):
                said += part
                if b"grpc-status" in said:
                    break
    after = said.partition(b"grpc-status")[2]
    return after[1 : 1 + after[0]] if after else b""


def test_the_very_header_does_not_open_the_lock_of_a_plain_triton(plain: tuple[str, str]) -> None:
    host, _, port = plain[1].partition(":")
    for header in (b"no body: \n", b"no body:\n", b"no body:\r\n \r\n", b"no body:"):
        with socket.create_connection((host, int(port)), ALLOWED_S) as connection:
            connection.sendall(
                b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\n" + header + b"\r\nContent-Length: 2\r\n\r\n{}"
            )
            said = b""
            with contextlib.suppress(OSError):  # it may have ended the connection already
                connection.shutdown(socket.SHUT_WR)
                said = connection.recv(4096)
        assert b" 200 " not in said, header
    assert grpc_status_of(plain[0], b"triton-grpc-protocol-no body", b"\n") not in (b"", b"0")


def test_a_probe_of_that_test_opens_a_lock_whose_header_can_be_sent(supervised: Server) -> None:
    ((name, secret),) = supervised._supervisor._process.administration_headers.items()
    assert grpc_status_of(supervised.url, name.encode(), secret.encode()) == b"0"
    key = name.rpartition("-")[2]
    assert status_of(supervised.http_url, "POST", "/v2/repository/index", **{key: secret})[0] == 200


def test_an_image_s_own_triton_answers_with_its_own_backends(
    supervised: Server, tools: Any, image_s_triton: Path
) -> None:
    with grpc_client.InferenceServerClient(supervised.url) as client:
        assert tools.ask_with(client, "seven77") == "7"
    command = Path(f"/proc/{supervised.triton_pid}/cmdline").read_bytes().split(b"\0")
    assert command[0] == str(image_s_triton / "bin" / "tritonserver").encode()
    assert f"--backend-directory={image_s_triton / 'backends'}".encode() in command


def test_the_secret_stands_in_no_list_of_processes_and_in_no_child(supervised: Server) -> None:
    secret = next(iter(supervised._supervisor._process.administration_headers.values())).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert secret not in path.read_bytes(), path
    assert b"--hidden-argument" in Path(f"/proc/{supervised.triton_pid}/cmdline").read_bytes()
    for stub in supervised.stubs():
        assert secret not in Path(f"/proc/{stub.pid}/environ").read_bytes()
    assert Path(f"/proc/{supervised.triton_pid}/environ").stat().st_mode & 0o077 == 0


def started(arguments: list[str], hidden: list[str]) -> tuple[subprocess.Popen, bool]:
    wrapper = [sys.executable, "-I", "-S", deathsig.__file__, str(os.getpid())]
    process = subprocess.Popen(
        [*wrapper, sys.executable, *arguments], env=os.environ | hidden_variables(hidden), stdout=subprocess.PIPE
    )
    return process, start_hidden(process)


def test_a_program_gets_its_hidden_arguments_where_they_stand() -> None:
    code = "import os, sys; print(sys.argv[1:], [name for name in os.environ if 'HIDDEN' in name])"
    process, is_hidden = started(["-c", code, "a", deathsig.HIDDEN, "b", deathsig.HIDDEN], ["--x=1=2", "y" * 5000])
    said, _ = process.communicate(timeout=ALLOWED_S)
    assert is_hidden
    assert said.decode().split(" ", 3)[:3] == ["['a',", "'--x=1=2',", "'b',"]
    assert "y" * 5000 in said.decode()
    assert said.decode().endswith("[]\n")


def test_where_ptrace_is_forbidden_arguments_are_given_openly_and_that_is_said() -> None:
    code = (
        "import ctypes, runpy, sys; libc = ctypes.CDLL(None); sys.argv = sys.argv[1:];"
        "forbidding = {'prctl': lambda _, *all: libc.prctl(*all), 'ptrace': lambda _, *all: -1};"
        "ctypes.CDLL = lambda *_, **__: type('Forbidding', (), forbidding)();"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, deathsig.__file__, str(os.getpid()), "/usr/bin/env", deathsig.HIDDEN]
    process = subprocess.Popen(command, env=os.environ | hidden_variables(["--version"]), stdout=subprocess.PIPE)
    assert not start_hidden(process)
    said, _ = process.communicate(timeout=ALLOWED_S)
    assert said.startswith(b"env (GNU coreutils)")


def test_a_triton_of_another_python_is_refused(
    image_s_triton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    other = shutil.copytree(image_s_triton, tmp_path / "other", symlinks=True)
    stub = other / "backends" / "python" / "triton_python_backend_stub"
    stub.unlink()
    stub.write_bytes(b"\x7fELF libpython3.99.so.1.0")
    monkeypatch.setenv("SPANQA_TRITON", str(other))
    with pytest.raises(InstallationError, match=r"is not of this Python, which would need libpython3"):
        Server(repository).start()
    stub.unlink()
    with pytest.raises(InstallationError, match=r"lacks .*stub: name another with SPANQA_TRITON"):
        Server(repository).start()


def test_a_backend_is_taken_where_the_triton_has_it(
    image_s_triton: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path
) -> None:
    from spanqa_server.repository import models_of

    config = repository / contract.ENCODER / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "python"', 'platform: "tensorrt_plan"'))
    other = shutil.copytree(image_s_triton, tmp_path / "other", symlinks=True)
    (other / "backends" / "tensorrt").mkdir()
    monkeypatch.setenv("SPANQA_TRITON", str(other))
    assert {model.name: model.n_processes for model in models_of(repository)}[contract.ENCODER] == 0
