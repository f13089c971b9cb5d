"""Every object of every overlay is what the cluster's API takes, restricted as it says, and sized as the plan says."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
RELEASES = ("1.30", "1.33", "1.37")
"""The oldest release whose pods can sleep before they stop, the newest that there are schemas of, and one between."""

Resource = dict[str, Any]
Kustomize = Callable[[Path], list[Resource]]


SCHEMAS = Path(str(importlib.metadata.distribution("kubernetes-validate").locate_file("kubernetes_validate")))
"""The strict schemas, which know every key, as that package brings them along."""


@cache
def _definitions(release: str) -> Registry[Any]:
    path = SCHEMAS / "kubernetes-json-schema" / f"v{release}.0-local-strict" / "_definitions.json"
    resource = DRAFT202012.create_resource(json.loads(path.read_text("utf-8")))
    return Registry().with_resource("_definitions.json", resource).crawl()


@cache
def _validator(release: str, kind: str, api: str) -> jsonschema.Draft202012Validator:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    path = SCHEMAS / "kubernetes-json-schema" / f"v{release}.0-local-strict" / f"{kind.lower()}-{group}.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text("utf-8")), registry=_definitions(release))


def problems(resource: Resource, release: str) -> list[str]:
    validator = _validator(release, resource["kind"], resource["apiVersion"])
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(resource)]


def overlay_with(tmp_path: Path, component: str) -> Path:
    """Write an overlay of the base and one component, beside copies of both."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes" / "overlays" / "own"
    folder.mkdir()
    images = [
        {"name": "spanqa", "newName": "a", "newTag": "1"},
        {"name": "spanqa-repository", "newName": "b", "newTag": "2"},
    ]
    kustomization = {"resources": ["../../base"], "components": [f"../../components/{component}"], "images": images}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), "utf-8")
    return folder


def one_of(resources: list[Resource], kind: str, name: str = "spanqa") -> Resource:
    (found,) = [one for one in resources if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pod_of(resources: list[Resource]) -> Resource:
    spec: Resource = one_of(resources, "Deployment")["spec"]["template"]["spec"]
    return spec


def unrestricted(pod: Resource) -> Iterator[str]:
    """Yield what the pod security standard "restricted" forbids, and what else ours do not need.

    Source: Kubernetes' documentation, "Pod Security Standards".
    """
    own = pod.get("securityContext", {})
    if own.get("runAsNonRoot") is not True or not own.get("runAsUser") or not own.get("runAsGroup"):
        yield "it may run as root"
    if own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "its system calls are not filtered"
    yield from (f"it has {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    if pod.get("automountServiceAccountToken") is not False:
        yield "it gets a token of the cluster's API"
    kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for volume in pod["volumes"]:
        if strange := volume.keys() - kinds - {"name"}:
            yield f"its volume {volume['name']} is {sorted(strange)}"
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            yield f"its volume {volume['name']} has no size"
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{container['name']} may gain privileges"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} has capabilities"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']} writes to its root"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"the memory of {container['name']} has no limit"
        names = {volume["name"] for volume in pod["volumes"]}
        yield from (f"no volume {one['name']}" for one in container["volumeMounts"] if one["name"] not in names)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("release", RELEASES)
def test_the_cluster_takes_every_object(kustomize: Kustomize, overlay: str, release: str) -> None:
    resources = kustomize(KUBERNETES / "overlays" / overlay)
    assert {
        f"{one['kind']} {one['metadata']['name']}": found for one in resources if (found := problems(one, release))
    } == {}
    kinds = ["Deployment", "HorizontalPodAutoscaler", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "Service"]
    assert {one["kind"] for one in resources} == {*kinds, "ServiceAccount"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_cluster_takes_every_component(kustomize: Kustomize, tmp_path: Path, component: str) -> None:
    resources = kustomize(overlay_with(tmp_path, component))
    assert [found for one in resources for found in problems(one, RELEASES[-1])] == []
    assert list(unrestricted(pod_of(resources))) == []


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda d: d["spec"].update(replica=2), "'replica' was unexpected"),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0].update(livenesProbe={}),
            "'livenesProbe' was unexpected",
        ),
        (lambda d: d["spec"]["template"]["spec"].update(terminationGracePeriodSeconds="60s"), "'60s' is not of type"),
        (lambda d: d["spec"]["template"]["spec"]["containers"][0].pop("name"), "'name' is a required property"),
        (lambda d: d["spec"].pop("selector"), "'selector' is a required property"),
    ],
)
def test_a_mistake_in_an_object_is_found(kustomize: Kustomize, mistake: Any, told: str) -> None:
    deployment = copy.deepcopy(one_of(kustomize(KUBERNETES / "base"), "Deployment"))
    assert problems(deployment, RELEASES[0]) == []
    mistake(deployment)
    assert any(told in problem for problem in problems(deployment, RELEASES[0])), problems(deployment, RELEASES[0])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_may_do_nothing_that_they_need_not(kustomize: Kustomize, overlay: str) -> None:
    resources = kustomize(KUBERNETES / "overlays" / overlay)
    assert list(unrestricted(pod_of(resources))) == []
    labels = one_of(resources, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_a_pod_may_do_and_need_not_is_found(kustomize: Kustomize) -> None:
    pod = copy.deepcopy(pod_of(kustomize(KUBERNETES / "base")))
    pod["securityContext"].pop("seccompProfile")
    pod["securityContext"]["runAsUser"] = 0
    pod["hostNetwork"] = True
    pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    pod["containers"][0]["securityContext"] = {"capabilities": {"add": ["SYS_ADMIN"]}, "readOnlyRootFilesystem": False}
    pod["containers"][0]["volumeMounts"][0]["name"] = "gone"
    assert len(list(unrestricted(pod))) == 8


def test_a_patch_for_what_is_not_there_is_found(kustomize: Kustomize, tmp_path: Path) -> None:
    folder = overlay_with(tmp_path, "tls")
    services = tmp_path / "kubernetes" / "components" / "tls" / "services.yaml"
    text = services.read_text("utf-8")
    services.write_text(text.replace("name: spanqa\n", "name: spanka\n", 1), "utf-8")
    with pytest.raises(Exception, match=r"\('Service', 'spanqa', 'spanka'\) is patched, and there are 0 of it"):
        kustomize(folder)
    services.write_text(text.replace("port: 8000", "port: 8080"), "utf-8")
    with pytest.raises(Exception, match="there is no 8080 to delete"):
        kustomize(folder)


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_it_is_what_kustomize_makes_of_it(kustomize: Kustomize, folder: str) -> None:
    """Where a kubectl is at hand that brings a newer kustomize: this reading of it is kustomize's own."""
    kubectl = shutil.which("kubectl") or pytest.skip("there is no kubectl")
    done = subprocess.run([kubectl, "kustomize", KUBERNETES / folder], capture_output=True, text=True, timeout=60)
    if "unknown field" in done.stderr:
        pytest.skip("its kustomize is too old")
    assert done.returncode == 0, done.stderr

    def by_name(resources: list[Resource]) -> dict[Any, Resource]:
        return {(one["kind"], one["metadata"]["name"]): one for one in resources}

    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(kustomize(KUBERNETES / folder))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_pods_finds_them_and_ports_have_names(kustomize: Kustomize, overlay: str) -> None:
    resources = kustomize(KUBERNETES / "overlays" / overlay)
    deployment = one_of(resources, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    policy, services = one_of(resources, "NetworkPolicy"), [one for one in resources if one["kind"] == "Service"]
    budget, scaler = one_of(resources, "PodDisruptionBudget"), one_of(resources, "HorizontalPodAutoscaler")
    spread = pod_of(resources)["topologySpreadConstraints"]
    matched = [one["spec"]["selector"]["matchLabels"] for one in (deployment, budget)]
    matched += [policy["spec"]["podSelector"]["matchLabels"], *(one["labelSelector"]["matchLabels"] for one in spread)]
    matched += [one["spec"]["selector"] for one in services]
    assert all(one.items() <= labels.items() for one in matched)
    assert len(spread) == 2
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    named = {one["name"] for one in pod_of(resources)["containers"][0]["ports"]}
    used = {one["targetPort"] for service in services for one in service["spec"]["ports"]}
    used |= {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert used == named
    assert policy["spec"]["egress"] == []
    assert {one["metadata"].get("namespace") for one in resources if one["kind"] != "Namespace"} == {"spanqa"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_time_to_answer_what_it_has_accepted(kustomize: Kustomize, overlay: str) -> None:
    from spanqa_server.launch import STOP_GRACE_S
    from spanqa_server.settings import ServerSettings

    pod = pod_of(kustomize(KUBERNETES / "overlays" / overlay))
    (server,) = pod["containers"]
    sleep = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep >= 5
    drained = sleep + ServerSettings(repository=Path()).drain_timeout_s + STOP_GRACE_S
    assert pod["terminationGracePeriodSeconds"] >= drained + 5
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = server[probe]["exec"]["command"]
        assert command[:2] == ["spanqa", "health"]
        assert float(command[command.index("--timeout") + 1]) < server[probe]["timeoutSeconds"]
    started = server["startupProbe"]
    assert started["periodSeconds"] * started["failureThreshold"] > ServerSettings(repository=Path()).start_timeout_s


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("component", ["tls", "mutual-tls"])
def test_commands_and_probes_know_their_options(
    kustomize: Kustomize, tmp_path: Path, overlay: str, component: str
) -> None:
    import argparse
    import importlib

    from spanqa.cli import COMMANDS

    folder = KUBERNETES / "overlays" / overlay if component == "tls" else overlay_with(tmp_path, component)
    pod = pod_of(kustomize(folder))
    (server,) = pod["containers"]
    probes = [server[probe]["exec"]["command"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    for command in (server["command"], *probes, *(one["command"] for one in pod["initContainers"])):
        assert command[0] == "spanqa"
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(COMMANDS[command[1]].module).configure(parser)
        parser.parse_args(command[2:])
        files = [part for part in command if part.startswith("/etc/spanqa/tls/")]
        assert bool(files) == (command[1] in ("serve", "health"))
    # Under load, pods that leave the service or are started anew leave it to fewer.
    assert all("--or-busy" in command for command in probes[1:])
    (secret,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
    assert secret["secretName"] == "spanqa-tls"
    assert secret["defaultMode"] == 0o440


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_get_what_the_plan_says(kustomize: Kustomize, overlay: str) -> None:
    from spanqa_build.plan import plan_from
    from spanqa_build.targets import target_from_name
    from spanqa_training.checkpoints.checkpoint import read_checkpoint

    target = target_from_name(overlay)
    plan = plan_from(read_checkpoint(ROOT / "training" / "checkpoints" / "spanqa-minilm"), target)
    pod = pod_of(kustomize(KUBERNETES / "overlays" / overlay))
    (server,) = pod["containers"]
    gibibytes = int(server["resources"]["limits"]["memory"].removesuffix("Gi"))
    # Every process of Python and Triton itself hold less than a GiB together, and networks lie in memory once.
    assert gibibytes * 2**30 >= sum(one.size_bytes for one in plan.artefacts) + 2**30
    assert server["image"].split("/")[-1].startswith(f"spanqa-{overlay}:")
    if plan.gpu_memory is None:
        assert "nodeSelector" not in pod
        assert "nvidia.com/gpu" not in json.dumps(pod)
    else:
        assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
        selector = pod["nodeSelector"]
        capability = ".".join(selector[f"nvidia.com/gpu.compute.{part}"] for part in ("major", "minor"))
        assert capability in target.compute_capabilities
        # Both have 16 GB; a roll-over holds two versions.
        assert 2 * plan.gpu_memory.total_bytes < 16e9


def test_the_autoscaler_asks_for_what_the_adapter_gives(kustomize: Kustomize) -> None:
    (metric,) = one_of(kustomize(KUBERNETES / "base"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yml").read_text("utf-8"))["rules"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    recorded = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules" / "recorded.yml").read_text("utf-8"))
    series = {rule["record"] for group in recorded["groups"] for rule in group["rules"]}
    assert rule["seriesQuery"].partition("{")[0] in series
