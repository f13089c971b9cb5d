"""Programs of Debian's that validate, and kustomize as far as deploy/kubernetes uses it."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLACES = tuple(str(Path(sys.prefix) / "debian" / "usr" / folder) for folder in ("bin", "sbin"))
"""Where the Makefile unpacks them."""

Resource = dict[str, Any]
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "env": "name",
    "topologySpreadConstraints": "topologyKey",
}
"""By what elements of lists are told apart (`x-kubernetes-patch-merge-key` of the API); other lists are one value."""
KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images"}


class KustomizeError(Exception):
    """What kustomize would refuse, or what this part of it does not know."""


def _merge_key(path: Sequence[str], elements: Sequence[Any]) -> str | None:
    if path[-1] == "ports":
        return next((key for key in ("containerPort", "port") if all(key in one for one in elements)), None)
    return MERGE_KEYS.get(path[-1])


def _merged_list(base: list[Any], patch: list[Any], path: Sequence[str]) -> list[Any]:
    key = _merge_key(path, [*base, *patch]) if all(isinstance(one, dict) for one in patch) else None
    if key is None or path[-2:] == ("rules", "ports"):
        return patch
    result = list(base)
    new = []
    for one in patch:
        places = [i for i, other in enumerate(result) if other[key] == one[key]]
        if one.get("$patch") == "delete":
            if not places:
                raise KustomizeError(f"{'.'.join(path)}: there is no {one[key]!r} to delete")
            del result[places[0]]
        elif places:
            result[places[0]] = merged(result[places[0]], one, (*path, str(one[key])))
        else:
            new.append(one)
    # kustomize puts what a patch adds first.
    return [*new, *result]


def merged(base: Any, patch: Any, path: Sequence[str] = ()) -> Any:
    """Give a strategic merge: objects key by key, null takes away, lists by the API's merge keys."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = dict(base)
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merged(base[key], value, (*path, key)) if key in base else value
        return result
    if isinstance(base, list) and isinstance(patch, list):
        return _merged_list(base, patch, path)
    return copy.deepcopy(patch)


def documents(path: Path) -> list[Resource]:
    """Give the objects of a YAML file."""
    return [one for one in yaml.safe_load_all(path.read_text("utf-8")) if one]


def name_of(resource: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give an object's kind, namespace and name."""
    return resource["kind"], resource["metadata"].get("namespace", ""), resource["metadata"]["name"]


def _image(image: str, changes: Sequence[Mapping[str, str]]) -> str:
    for change in changes:
        if image == change["name"]:
            return f"{change.get('newName', image)}:{change['newTag']}"
    return image


def kustomized(folder: Path, below: Sequence[Resource] = ()) -> list[Resource]:
    """Build a kustomization: what `kubectl kustomize FOLDER` prints, in another order.

    Raises:
        KustomizeError: Where a patch is for nothing that there is, or a key is not known here.
    """
    (kustomization,) = documents(folder / "kustomization.yaml")
    if unknown := kustomization.keys() - KNOWN:
        raise KustomizeError(f"{folder}: {sorted(unknown)} is not known here")
    resources = [*below]
    for entry in kustomization.get("resources", ()):
        path = folder / entry
        resources += kustomized(path) if path.is_dir() else documents(path)
    for entry in kustomization.get("components", ()):
        resources = kustomized(folder / entry, resources)
    for patch in (one for entry in kustomization.get("patches", ()) for one in documents(folder / entry["path"])):
        places = [i for i, one in enumerate(resources) if name_of(one) == name_of(patch)]
        if len(places) != 1:
            raise KustomizeError(f"{folder}: {name_of(patch)} is patched, and there are {len(places)} of it")
        resources[places[0]] = merged(resources[places[0]], patch)
    for resource in resources:
        spec = resource.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
            container["image"] = _image(container["image"], kustomization.get("images", ()))
    return resources


@pytest.fixture(scope="session")
def kustomize() -> Callable[[Path], list[Resource]]:
    return kustomized


@pytest.fixture(scope="session")
def debian_tool() -> Callable[[str], str]:
    """Find a program that the Makefile unpacks; without it a test is skipped, or fails where CI runs it."""

    def find(name: str) -> str:
        found = shutil.which(name, path=os.pathsep.join((*PLACES, os.environ.get("PATH", ""))))
        if found is None and os.environ.get("CI"):
            pytest.fail(f"there is no {name}: `make test` takes it from Debian")
        return found or pytest.skip(f"there is no {name}: `make test` takes it from Debian")

    return find
