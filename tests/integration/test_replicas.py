"""Two servers share the questions: through faults of either, and behind gateways with the shipped configurations."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tritonclient.grpc as grpc_client
import yaml
from tritonclient.utils import InferenceServerException

from spanqa_client.client import QAClient
from spanqa_client.security import ConnectionSettings
from spanqa_server.checks import free_port

pytestmark = pytest.mark.triton
ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = ROOT / "tests" / "client" / "certificates.py"
SPEC = importlib.util.spec_from_file_location("certificates", CERTIFICATES)
certificates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(certificates)
N_QUESTIONS = 200
PACE_S = 0.012
ALLOWED_S = 60.0
HOST = "127.0.0.1"
CONFIGURATIONS = {"nginx": ROOT / "deploy" / "nginx" / "nginx.conf", "envoy": ROOT / "deploy" / "envoy" / "envoy.yaml"}


@pytest.fixture(scope="module")
def replicas(benchmark: Any, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with benchmark("replicas").two_replicas(table, tmp_path_factory.mktemp("replicas")) as two:
        yield two


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


def program(name: str) -> str:
    """A gateway: where the Makefile puts it, or on PATH."""
    places = [Path(sys.prefix) / "debian" / "usr" / "sbin", Path(sys.prefix) / "envoy" / "envoy" / "_bin"]
    found = shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed here: `make test` fetches it")
    return found


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx_command(folder: Path, port: int, servers: list[tuple[str, str]]) -> list[str]:
    """Write the shipped configuration for these servers, and give what runs it."""
    changes = {
        "listen 8443": f"listen {HOST}:{port}",
        "/etc/nginx/tls/": f"{folder}/",
        "/tmp/nginx-": f"{folder}/nginx-",
    }
    for number, (grpc_url, http_url) in enumerate(servers):
        changes |= {f"spanqa-{number}:8001": grpc_url, f"spanqa-{number}:8000": http_url}
    (folder / "nginx.conf").write_text(replaced(CONFIGURATIONS["nginx"].read_text("utf-8"), changes))
    user = "user root;" if os.geteuid() == 0 else ""  # or its workers could not enter the test's folder
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", f"daemon off; {user}"]


def envoy_command(folder: Path, port: int, servers: list[tuple[str, str]]) -> list[str]:
    config = yaml.safe_load(replaced(CONFIGURATIONS["envoy"].read_text("utf-8"), {"/etc/envoy/tls/": f"{folder}/"}))
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"].update(address=HOST, port_value=port)
    for place, cluster in enumerate(config["static_resources"]["clusters"]):
        for urls, endpoint in zip(servers, cluster["load_assignment"]["endpoints"][0]["lb_endpoints"], strict=True):
            host, _, number = urls[place].rpartition(":")
            endpoint["endpoint"]["address"]["socket_address"].update(address=host, port_value=int(number))
    (folder / "envoy.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    once = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    return [program("envoy"), "-c", str(folder / "envoy.yaml"), *once]


COMMANDS = {"nginx": (nginx_command, ["-t"]), "envoy": (envoy_command, ["--mode", "validate"])}


@contextlib.contextmanager
def gateway(kind: str, authority: Any, folder: Path, servers: list[tuple[str, str]]) -> Iterator[str]:
    """Run a gateway before some servers; gives its address."""
    certificate, key = authority.issue("tls")
    shutil.copy(certificate, folder / "tls.crt")
    shutil.copy(key, folder / "tls.key")
    port = free_port(HOST)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(COMMANDS[kind][0](folder, port, servers), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + ALLOWED_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                break
            time.sleep(0.05)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(ALLOWED_S)


@pytest.fixture(scope="module", params=COMMANDS)
def served(
    request: pytest.FixtureRequest, replicas: Any, authority: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    servers = [(one.url, one.http_url) for one in replicas]
    with gateway(request.param, authority, tmp_path_factory.mktemp(request.param), servers) as url:
        yield url


@pytest.fixture
def trusting(authority: Any) -> ConnectionSettings:
    return ConnectionSettings(ca_file=authority.file)


def https(url: str, authority: Any) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(authority.file))
    return http.client.HTTPSConnection(url, timeout=ALLOWED_S, context=context)


def test_questions_pass_over_grpc(served: str, trusting: Any, table_good: Any) -> None:
    with QAClient(served, connection=trusting) as client:
        answers = list(client.ask_many([(question, context) for question, context, _ in table_good]))
        for answer, (_, _, right) in zip(answers, table_good, strict=True):
            right.require_answer(answer)


def test_a_long_text_passes_and_questions_pass_over_http(
    served: str, authority: Any, trusting: Any, table_good: Any
) -> None:
    question, context, right = table_good[0]
    with QAClient(served, connection=trusting) as client:
        assert len(client.ask(question, context * 150, top_n=1).spans) == 1
    connection = https(served, authority)
    connection.request(
        "POST",
        "/v2/models/question_answering/generate",
        body=json.dumps({"QUESTION": question, "CONTEXT": context}),
    )
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["CHAR_START"] == right.places[0][1]
    connection.close()


def test_nothing_else_passes_over_grpc(served: str, authority: Any) -> None:
    calls: dict[str, Callable[[Any], Any]] = {
        "models": lambda client: client.get_model_repository_index(),
        "load": lambda client: client.load_model("encoder"),
        "memory": lambda client: client.get_system_shared_memory_status(),
        "trace": lambda client: client.get_trace_settings(),
        "logging": lambda client: client.update_log_settings({"log_file": "/tmp/mine"}),
        "configuration": lambda client: client.get_model_config("question_answering"),
    }
    with grpc_client.InferenceServerClient(served, ssl=True, root_certificates=str(authority.file)) as client:
        assert client.is_server_ready()
        for name, call in calls.items():
            with pytest.raises(InferenceServerException) as caught:
                call(client)
            assert "PERMISSION_DENIED" in str(caught.value.status()), name


PATHS = (
    "/v2/repository/index",
    "/v2/repository/models/encoder/load",
    "/v2/systemsharedmemory/status",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/models/encoder/infer",
    "/v2/models/question_answering/config",
    "/v2/models/question_answering/trace/setting",
    "/v2//repository/index",
    "/v2/models/question_answering/../../repository/index",
    "/v2/models/question_answering/%2e%2e/%2e%2e/repository/index",
    "/v2/models/question_answering%2f..%2f..%2frepository/index",
    "/v2/models/question_answering/generate%0a",
    "/metrics",
)


def test_nothing_else_passes_over_http(served: str, authority: Any) -> None:
    statuses = {}
    for path in PATHS:
        connection = https(served, authority)
        connection.putrequest("POST", path, skip_host=False, skip_accept_encoding=True)
        connection.putheader("Content-Length", "2")
        connection.endheaders(b"{}")
        statuses[path] = connection.getresponse().status
        connection.close()
    assert set(statuses.values()) <= {400, 403}, statuses
    connection = https(served, authority)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200
    connection.close()


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers everything, and keeps the headers and the body of what was posted."""

    protocol_version = "HTTP/1.1"
    posted: ClassVar[list[tuple[Any, bytes]]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.posted.append((self.headers, self.rfile.read(int(self.headers.get("Content-Length", 0)))))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_request_in_many_pieces_reaches_a_server_in_one_and_one_too_large_none(
    kind: str, authority: Any, tmp_path: Path
) -> None:
    # Triton 24.09 overflows its stack on a body in very many chunks.
    Upstream.posted.clear()
    server = http.server.ThreadingHTTPServer((HOST, 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here, path = f"{HOST}:{server.server_port}", "/v2/models/question_answering/generate"
    try:
        with gateway(kind, authority, tmp_path, [(here, here)] * 2) as url:
            connection = https(url, authority)
            headers = {"Transfer-Encoding": "chunked", "triton-grpc-protocol-spanqa": "guess", "spanqa": "guess"}
            connection.request("POST", path, iter([b"x"] * 100), headers, encode_chunked=True)
            assert connection.getresponse().read() == b""
            connection.close()
            connection = https(url, authority)
            with contextlib.suppress(OSError):  # it may be refused before all is sent
                connection.request("POST", path, bytes(34 << 20))
            assert connection.getresponse().status == 413
            connection.close()
    finally:
        server.shutdown()
        server.server_close()
    ((sent, body),) = Upstream.posted
    assert (body, sent["Content-Length"], sent["Transfer-Encoding"]) == (b"x" * 100, "100", None)
    assert sent["spanqa"] is None
    assert sent["triton-grpc-protocol-spanqa"] is None


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_server_that_is_not_there_costs_no_question(
    kind: str, replicas: Any, authority: Any, trusting: Any, table_good: Any, tmp_path: Path
) -> None:
    away = f"{HOST}:{free_port(HOST)}"
    with (
        gateway(kind, authority, tmp_path, [(replicas[0].url, replicas[0].http_url), (away, away)]) as url,
        QAClient(url, connection=trusting) as client,
    ):
        for question, context, right in table_good:
            right.require_answer(client.ask(question, context))


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("nginx", "keepalive_requests", "keepalive_request"), ("envoy", "num_retries: 2", "retries: 2")],
)
def test_a_mistake_in_a_configuration_is_found(
    kind: str, old: str, new: str, authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, suffix in zip(authority.issue("tls"), ("crt", "key"), strict=True):
        shutil.copy(path, tmp_path / f"tls.{suffix}")
    shipped = CONFIGURATIONS[kind]
    mistaken = tmp_path / f"mistaken-{shipped.name}"
    mistaken.write_text(replaced(shipped.read_text("utf-8"), {old: new}))
    monkeypatch.setitem(CONFIGURATIONS, kind, mistaken)
    command, check = COMMANDS[kind]
    servers = [(f"{HOST}:8001", f"{HOST}:8000"), (f"{HOST}:9001", f"{HOST}:9000")]
    done = subprocess.run([*command(tmp_path, 8443, servers), *check], capture_output=True, timeout=ALLOWED_S)
    assert done.returncode != 0
    assert new.partition(":")[0] in done.stderr.decode()


def test_of_two_servers_one_is_killed_drained_rolled_over_and_slow_and_no_question_is_lost(
    benchmark: Any, replicas: Any, heldout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, setting = benchmark("replicas"), benchmark("fault_setting")
    monkeypatch.setattr(module, "SLOW_S", 1.0)
    monkeypatch.setattr(module, "AFTER", 8)

    def drain_while_the_other_rolls_over(replica: Any) -> None:
        with ThreadPoolExecutor() as pool:
            rolled_over = pool.submit(replicas[0].roll_over)
            replica.drain()
            rolled_over.result()

    (_, killed), (_, slow) = module.EVENTS["killed"], module.EVENTS["slow"]
    both = (1, drain_while_the_other_rolls_over)  # the worse for it, and the sooner done
    events = {"killed": (0, killed), "drained, the other rolled over": both, "slow": (1, slow)}
    monkeypatch.setattr(module, "EVENTS", events)
    items = [(one.question, one.context) for one in heldout[:: len(heldout) // N_QUESTIONS]]
    with QAClient(replicas[0].url) as client:
        expected = list(client.ask_many(items))
    verdict = setting.Verdict(name="two replicas")
    found = module.disturbed(replicas, items, expected, verdict, pace_s=PACE_S, endless=True)
    assert verdict.failures == []
    assert found.keys() == {"nothing", "all", *events}
    assert all(found.values())
