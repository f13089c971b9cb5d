"""A real Prometheus scrapes a real server: every query of the dashboard and of every alert finds its series there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tritonclient.grpc import service_pb2_grpc

from spanqa_server.server import Server

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCRAPE_S = 0.5
EMPTY_HERE = {
    "nv_gpu_memory_used_bytes": "no GPU",
    "nv_gpu_memory_total_bytes": "no GPU",
    "nv_gpu_utilization": "no GPU",
    "ALERTS": "nothing is wrong",
}
"""Series that are not there on a machine without a GPU where all is well."""
SELECTOR = re.compile(r"(?<![\w:.])((?:spanqa[_:]|nv_|up\b|ALERTS\b)[\w:]*)(\{[^}]*\})?")

Query = Callable[[str], list[dict[str, Any]]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def dashboard_queries() -> dict[str, str]:
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "spanqa.json").read_text("utf-8"))["panels"]
    queries = {f"{one['title']} {t['refId']}": t["expr"] for one in panels for t in one.get("targets", ())}
    return {key: expr.replace("$instance", ".*").replace("$__rate_interval", "1m") for key, expr in queries.items()}


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules" / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def configuration(folder: Path, target: str) -> Path:
    """Write the configuration of compose, with this server in the place of compose's, and all intervals short."""
    document = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    document["global"] = {"scrape_interval": f"{SCRAPE_S * 1000:.0f}ms", "evaluation_interval": "500ms"}
    (scrape,) = document["scrape_configs"]
    scrape["scrape_interval"] = f"{SCRAPE_S * 1000:.0f}ms"
    # As in a cluster, where series have these labels too.
    scrape["static_configs"] = [{"targets": [target], "labels": {"namespace": "spanqa", "pod": "spanqa-0"}}]
    shutil.copytree(DEPLOY / "prometheus" / "rules", folder / "rules")
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


@pytest.fixture(scope="module")
def program() -> str:
    places = (str(Path(sys.prefix) / "debian" / "usr" / "bin"), os.environ.get("PATH", ""))
    found = shutil.which("prometheus", path=os.pathsep.join(places))
    if found is None and os.environ.get("CI"):
        pytest.fail("there is no prometheus: `make test` takes it from Debian")
    return found or pytest.skip("there is no prometheus: `make test` takes it from Debian")


@pytest.fixture(scope="module")
def query(
    program: str, server: Server, tools: Any, good: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Query]:
    """Ask a Prometheus that has watched the server answer, refuse and find nothing."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = urllib.parse.urlsplit(server.metrics_url).netloc
    port = free_port()
    options = {
        "config.file": configuration(folder, target),
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *(f"--{k}={v}" for k, v in options.items())], stdout=log, stderr=log)

    def ask(expression: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def there(expression: str) -> bool:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return bool(ask(expression))
        return False

    try:
        tools.wait_until(lambda: there('up{job="spanqa"} == 1'), 60)
        ask_all_kinds(server, tools, good)
        # Rates need two scrapes with something between them.
        tools.wait_until(lambda: there("sum(increase(spanqa_questions_total[1m])) > 5"), 60)
        tools.wait_until(lambda: there('sum(increase(spanqa_rejected_requests_total{reason="bad_input"}[1m])) > 0'), 60)
        tools.wait_until(lambda: there("spanqa:answer_seconds:mean2m") and there("spanqa:no_answer_share:rate1h"), 60)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask_all_kinds(server: Server, tools: Any, good: Any) -> None:
    """Ask both entries questions, and one that is refused; the second time in the next scrapes."""
    for _ in range(2):
        channel, stub = tools.connect(server.url)
        with channel:
            assert isinstance(stub, service_pb2_grpc.GRPCInferenceServiceStub)
            for entry in tools.ENTRIES:
                for question, context, _right in good[:4]:
                    stub.ModelInfer(tools.request_of(entry, question, context))
            with pytest.raises(Exception, match=r"(?i)question"):
                stub.ModelInfer(tools.request_of(tools.ENTRIES[0], "", "Cats live in Paris."))
        time.sleep(2 * SCRAPE_S + 0.6)


def known_empty(expression: str) -> bool:
    return any(name in expression for name in EMPTY_HERE)


def test_every_query_of_the_dashboard_finds_data(query: Query) -> None:
    empty = {title: expr for title, expr in dashboard_queries().items() if not query(expr)}
    assert {title for title, expr in empty.items() if not known_empty(expr)} == set()
    assert {title.rpartition(" ")[0] for title in empty} == {"GPU memory", "GPU", "Alerts that fire"}


def test_every_selector_of_every_rule_finds_data_and_no_alert_fires(query: Query) -> None:
    for rule in (*rules("recorded.yml"), *rules("alerts.yml")):
        found = [(name, labels) for name, labels in SELECTOR.findall(rule["expr"])]
        assert found, rule
        for name, labels in found:
            assert bool(query(f"{name}{labels}")) != (name in EMPTY_HERE), f"{name}{labels}"
    for rule in rules("alerts.yml"):
        # A fifth of what was asked was bad, for a moment; how long an answer takes depends on what else runs.
        if rule["alert"] not in ("SpanqaBadInput", "SpanqaSlow"):
            assert query(rule["expr"]) == [], rule["alert"]
    assert query('ALERTS{alertstate="firing"}') == []


def test_a_metric_that_there_is_not_is_found(query: Query) -> None:
    assert query("spanqa_question_total") == []
    with pytest.raises(urllib.error.HTTPError):
        query("sum by job (up)")


def test_the_autoscaler_s_metric_has_a_value_for_each_pod(query: Query) -> None:
    (rule,) = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yml").read_text("utf-8"))["rules"]
    series, _, labels = rule["seriesQuery"].partition("{")
    assert query(rule["seriesQuery"])
    asked = rule["metricsQuery"]
    values = {"<<.Series>>": series, "<<.LabelMatchers>>": labels.rstrip("}"), "<<.GroupBy>>": "pod"}
    for part, value in values.items():
        asked = asked.replace(part, value)
    (found,) = query(asked)
    assert found["metric"] == {"pod": "spanqa-0"}
    assert 0 <= float(found["value"][1]) < 60  # seconds, however busy the machine is


def test_the_recorded_rate_is_that_of_the_counters(query: Query) -> None:
    (recorded,) = query("sum(spanqa:questions:rate5m)")
    (counted,) = query("sum(rate(spanqa_questions_total[5m]))")
    assert float(recorded["value"][1]) == pytest.approx(float(counted["value"][1]), rel=0.5)
    assert float(counted["value"][1]) > 0
