"""Prometheus takes the rules and configurations; every alert fires on what it is for, and says what to do."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spanqa.cli import COMMANDS
from spanqa.telemetry import FAMILIES, REASONS

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
CASES = Path(__file__).with_name("alerts_test.yml")
RUNBOOK = ROOT / "docs" / "runbook.md"
SEVERITIES = {"critical", "warning", "info"}
OWN = re.compile(r"\bspanqa_\w+")


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules" / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


@pytest.fixture
def promtool(debian_tool: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    program = debian_tool("promtool")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of deploy/prometheus beside a copy of the cases."""
    shutil.copytree(PROMETHEUS, tmp_path / "deploy" / "prometheus")
    cases = tmp_path / "tests" / "deploy" / CASES.name
    cases.parent.mkdir(parents=True)
    shutil.copy(CASES, cases)
    return tmp_path / "deploy" / "prometheus"


def test_prometheus_takes_the_rules_and_the_configuration(promtool: Callable, folder: Path) -> None:
    files = sorted((folder / "rules").iterdir())
    done = promtool("check", "rules", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    # Debian's Prometheus has no discovery by Kubernetes: the rest of that scrape is held, and what it names by hand.
    kubernetes = yaml.safe_load((folder / "kubernetes.yml").read_text("utf-8"))
    (scrape,) = kubernetes["scrape_configs"]
    (discovery,) = scrape.pop("kubernetes_sd_configs")
    assert discovery == {"role": "pod", "selectors": [{"role": "pod", "label": "app.kubernetes.io/name=spanqa"}]}
    scrape["static_configs"] = [{"targets": ["a:8002"]}]
    (folder / "kubernetes.yml").write_text(yaml.safe_dump(kubernetes), "utf-8")
    for name in ("prometheus.yml", "kubernetes.yml"):
        done = promtool("check", "config", folder / name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(files)} rule files found" in done.stdout


@pytest.mark.parametrize(
    ("file", "right", "wrong", "told"),
    [
        ("rules/alerts.yml", "absent(up", "absents(up", 'unknown function with name "absents"'),
        ("rules/alerts.yml", "sum by (job)", "sum by job", "unexpected identifier"),
        ("rules/alerts.yml", "for: 5m", "four: 5m", "field four not found"),
        (
            "rules/recorded.yml",
            "- record: spanqa:questions",
            "- record: spanqa-questions",
            "invalid recording rule name",
        ),
        ("rules/alerts.yml", "$labels.instance }}", "$labels.instance }", "unexpected"),
        ("prometheus.yml", "scrape_interval: 5s", "scrape_interval: 5", "not a valid duration string"),
        ("prometheus.yml", "static_configs", "static_config", "field static_config not found"),
    ],
)
def test_a_mistake_is_found(promtool: Callable, folder: Path, file: str, right: str, wrong: str, told: str) -> None:
    path = folder / file
    text = path.read_text("utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong, 1), "utf-8")
    done = promtool("check", "rules" if file.startswith("rules") else "config", path)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


def scraped(labels: dict[str, str]) -> dict[str, str] | None:
    """What the relabelling for Kubernetes makes of a target, as far as it is used there; None where it is dropped."""
    (scrape,) = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text("utf-8"))["scrape_configs"]
    found = {}
    for rule in scrape["relabel_configs"]:
        value = ";".join(labels.get(name, "") for name in rule["source_labels"])
        action, matches = rule.get("action", "replace"), re.fullmatch(rule.get("regex", ".*"), value)
        assert action in ("keep", "drop", "replace")
        if (action == "keep" and not matches) or (action == "drop" and matches):
            return None
        if action == "replace":
            found[rule["target_label"]] = value
    return found


@pytest.mark.parametrize(
    ("phase", "port", "is_scraped"),
    [
        ("Running", "metrics", True),
        ("Pending", "metrics", True),  # so that one which cannot start is down
        ("Running", "grpc", False),
        ("Running", "", False),
        ("Failed", "metrics", False),
        ("Succeeded", "metrics", False),
    ],
)
def test_what_is_scraped_in_kubernetes(phase: str, port: str, is_scraped: bool) -> None:
    target = {
        "__meta_kubernetes_pod_phase": phase,
        "__meta_kubernetes_pod_container_port_name": port,
        "__meta_kubernetes_namespace": "spanqa",
        "__meta_kubernetes_pod_name": "spanqa-0",
    }
    assert scraped(target) == ({"namespace": "spanqa", "pod": "spanqa-0"} if is_scraped else None)


def test_every_alert_fires_on_what_it_is_for(promtool: Callable) -> None:
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_that_no_longer_fires_is_found(promtool: Callable, folder: Path) -> None:
    path = folder / "rules" / "alerts.yml"
    path.write_text(path.read_text("utf-8").replace("mean2m > 2", "mean2m > 20"), "utf-8")
    cases = folder.parents[1] / "tests" / "deploy" / CASES.name
    document = yaml.safe_load(cases.read_text("utf-8"))
    document["tests"] = [case for case in document["tests"] if "Forty requests wait" in case["name"]]
    assert document["tests"]
    cases.write_text(yaml.safe_dump(document), "utf-8")
    done = promtool("test", "rules", cases)
    assert done.returncode != 0
    assert "SpanqaSlow" in done.stdout + done.stderr


def test_each_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    cases = [one for test in yaml.safe_load(CASES.read_text("utf-8"))["tests"] for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in cases if one["exp_alerts"]} == ALERTS.keys()
    assert {one["alertname"] for one in cases if not one["exp_alerts"]} == ALERTS.keys()


def test_each_alert_says_how_urgent_it_is_what_it_saw_and_what_to_do() -> None:
    sections = re.split(r"^## ", RUNBOOK.read_text("utf-8"), flags=re.MULTILINE)[1:]
    paragraphs = {title: text.strip() for title, _, text in (section.partition("\n") for section in sections)}
    assert {title for title in paragraphs if title.startswith("Spanqa")} == ALERTS.keys()
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in SEVERITIES
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert len(paragraphs[name]) > 200, name


def test_the_runbook_names_commands_and_panels_that_there_are() -> None:
    text = " ".join(RUNBOOK.read_text("utf-8").split())
    panels = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "spanqa.json").read_text("utf-8"))["panels"]
    titles = [panel["title"] for panel in panels]
    quoted = [name for name in re.findall(r'"([^"]+)"', text) if name[0].isupper()]
    assert len(quoted) > 5
    assert [name for name in quoted if not any(title.startswith(name) for title in titles)] == []
    named = set(re.findall(r"`spanqa ([a-z-]+)", text)) | set(re.findall(r"^spanqa ([a-z-]+)", text, re.MULTILINE))
    assert named <= COMMANDS.keys()


def test_rules_name_metrics_and_reasons_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules("recorded.yml")}
    for rule in (*rules("recorded.yml"), *ALERTS.values()):
        assert set(OWN.findall(rule["expr"])) <= FAMILIES.keys()
        assert set(re.findall(r"\bspanqa:\w+:\w+", rule["expr"])) <= recorded
        for reasons in re.findall(r'reason=~?"([^"]+)"', rule["expr"]):
            assert set(reasons.split("|")) <= set(REASONS)


def test_every_reason_is_somebody_s() -> None:
    text = (PROMETHEUS / "rules" / "alerts.yml").read_text("utf-8")
    text += (PROMETHEUS / "rules" / "recorded.yml").read_text("utf-8")
    missing = [reason for reason in REASONS if reason not in text]
    assert missing == ["cancelled"]  # the sender has given up, which is nobody's fault here


def test_the_adapter_s_rule_has_the_keys_that_it_reads() -> None:
    # Those of the adapter's documentation, "Metrics Discovery and Presentation Configuration".
    (rule,) = yaml.safe_load((PROMETHEUS / "adapter.yml").read_text("utf-8"))["rules"]
    assert rule.keys() == {"seriesQuery", "resources", "name", "metricsQuery"}
    known = copy.deepcopy(rule["resources"]["overrides"])
    assert known == {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
    assert {f"<<.{part}>>" for part in ("GroupBy", "Series", "LabelMatchers")} == set(
        re.findall(r"<<[^>]+>>", rule["metricsQuery"])
    )
