"""Grafana's dashboard and provisioning against Grafana's own types, and what Prometheus and compose have."""

from __future__ import annotations

import copy
import enum
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from spanqa.telemetry import FAMILIES

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "spanqa.json"
WIDTH = 24
"""Columns of Grafana's grid."""


def value_problems(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Yield where a value is not of the type that an annotation of Grafana's types asks for."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [list(value_problems(value, one, path)) for one in inner]
        if all(found):
            yield min(found, key=len)[0]
    elif origin is typing.Literal:
        if value not in inner:
            yield f"{path}: {value!r} is not one of {inner}"
    elif origin is list:
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield from value_problems(item, inner[0], f"{path}[{i}]")
        else:
            yield f"{path}: {value!r} is no list"
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no object"
    elif hasattr(value, "to_json"):
        # Also where `object` is asked for: options of panels whose plugin has types of its own.
        for name, one in typing.get_type_hints(type(value)).items():
            yield from value_problems(getattr(value, name), one, f"{path}.{name}")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [member.value for member in hint]:
            yield f"{path}: {value!r} is not one of {[member.value for member in hint]}"
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{path}: {value!r} is no number"
    elif isinstance(hint, type) and not (isinstance(value, hint) and (hint is not int or not isinstance(value, bool))):
        yield f"{path}: {value!r} is no {hint.__name__}"


def lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    """Yield what Grafana's types do not know: what was given and is not there after reading and writing."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key}: Grafana knows no such key"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for i, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}[{i}]")
    elif given != kept:
        yield f"{path}: {given!r} becomes {kept!r}"


def problems(dashboard: Any) -> list[str]:
    """Hold a dashboard against the types that Grafana generates from its own schemas (grafana-foundation-sdk)."""
    sdk = pytest.importorskip("grafana_foundation_sdk", reason="it needs Python 3.11")
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    assert sdk
    plugins.register_default_plugins()
    read = Dashboard.from_json(copy.deepcopy(dashboard))
    kept = json.loads(JSONEncoder().encode(read))
    return [*value_problems(read, Dashboard, "dashboard"), *lost(dashboard, kept, "dashboard")]


def load() -> Any:
    return json.loads(DASHBOARD.read_text("utf-8"))


def test_grafana_takes_the_dashboard() -> None:
    assert problems(load()) == []


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda d: d["panels"][1].update(titel="x"), "titel: Grafana knows no such key"),
        (lambda d: d.update(title=5), "title: 5 is no str"),
        (lambda d: d["panels"][1].update(gridPos={"h": "4", "w": 4, "x": 0, "y": 0}), "'4' is no int"),
        (lambda d: d.update(graphTooltip=7), "graph_tooltip: 7 is not one of"),
        (lambda d: d["panels"][1]["options"].update(colorMode="loud"), "color_mode: 'loud' is not one of"),
        (
            lambda d: d["panels"][8]["fieldConfig"]["defaults"]["custom"].update(lineWith=2),
            "lineWith: Grafana knows no",
        ),
        (lambda d: d["panels"][1]["targets"][0].update(expression="up"), "expression: Grafana knows no such key"),
        (lambda d: d["panels"][1]["fieldConfig"]["defaults"].update(decimals="1"), "decimals: '1' is no number"),
        (lambda d: d["templating"]["list"][0].update(refresh=9), "refresh: 9 is not one of"),
    ],
)
def test_a_mistake_in_the_dashboard_is_found(mistake: Any, told: str) -> None:
    dashboard = load()
    mistake(dashboard)
    assert any(told in problem for problem in problems(dashboard)), problems(dashboard)


def test_panels_have_a_number_and_a_place_of_their_own() -> None:
    panels = load()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    text = DASHBOARD.read_text("utf-8")
    assert [name for name in FAMILIES if name not in text] == []


def test_every_query_goes_to_the_source_that_is_provisioned_and_minds_the_chosen_server() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text("utf-8"))
    (source,) = sources["datasources"]
    assert sources["apiVersion"] == 1
    assert source["type"] == "prometheus"
    for panel in load()["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": source["type"], "uid": source["uid"]}
            whole = ("spanqa:failed_share", "ALERTS")  # of all servers together
            assert 'instance=~"$instance"' in target["expr"] or target["expr"].replace("max(", "").startswith(whole)


def test_what_is_provisioned_lies_where_compose_mounts_it() -> None:
    # The keys are those of Grafana's documentation, "Provision Grafana": dashboards and data sources.
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "spanqa.yml").read_text("utf-8"))
    (one,) = provider["providers"]
    assert one.keys() <= {
        "name",
        "type",
        "disableDeletion",
        "allowUiUpdates",
        "options",
        "folder",
        "updateIntervalSeconds",
    }
    compose = yaml.safe_load((GRAFANA.parent / "compose" / "compose.yaml").read_text("utf-8"))
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    folder = next(source for source, place in mounts.items() if place == one["options"]["path"])
    assert (GRAFANA.parent / "compose" / folder / "spanqa.json").resolve() == DASHBOARD
    assert "/etc/grafana/provisioning" in mounts.values()
    names = re.findall(r"http://(\w+):(\d+)", (GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8"))
    assert names == [("prometheus", "9090")]
    assert "prometheus" in compose["services"]
