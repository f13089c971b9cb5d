"""The compose files are what the compose specification takes, every path in them is there, and nothing is open."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
COMPOSE, TLS = FOLDER / "compose.yaml", FOLDER / "compose.tls.yaml"
FILES = [COMPOSE, TLS]


class Loader(yaml.SafeLoader):
    """YAML with compose's own tags, `!override` and `!reset`, which say how files are merged."""


def _plain(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]


Loader.add_multi_constructor("!", _plain)


def load(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), Loader)


def schema() -> Any:
    """The compose specification's schema, as the package check-jsonschema brings it along."""
    # Its own code is not imported: it warns with newer releases of what it is made of.
    package = importlib.metadata.distribution("check-jsonschema")
    vendored = package.locate_file("check_jsonschema/builtin_schemas/vendor/compose-spec.json")
    return json.loads(Path(str(vendored)).read_text("utf-8"))


def problems(compose: Any) -> list[str]:
    validator = jsonschema.Draft7Validator(schema())
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(compose)]


def dangling(compose: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a service names and the file does not have, and files that are not there.

    Secrets' own files are the user's to make.
    """
    for name, service in compose["services"].items():
        for kind in ("networks", "secrets"):
            for one in service.get(kind, ()):
                if one not in compose.get(kind, {}):
                    yield f"{name}: no {kind} {one}"
        for one in service.get("depends_on", ()):
            if one not in compose["services"]:
                yield f"{name}: no service {one}"
        for mount in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).split(":")[0]
            there = (FOLDER / source).exists() if source.startswith(".") else source in compose.get("volumes", {})
            if not there:
                yield f"{name}: no {source}"


def open_doors(compose: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a service may do that it does not need, and where it can be reached from other machines."""
    for name, service in compose["services"].items():
        if service.get("read_only") is not True:
            yield f"{name}: its root can be written to"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
            yield f"{name}: it has capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            yield f"{name}: it may gain privileges"
        if str(service.get("user", "0")).split(":")[0] in ("0", "root"):
            yield f"{name}: it runs as root"
        if "mem_limit" not in service:
            yield f"{name}: its memory has no limit"
        for port in service.get("ports", ()):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: {port} is open to other machines"
        if "build" not in service and not re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"]):
            yield f"{name}: {service['image']} is not pinned by what it holds"
        for key in service.get("environment", {}):
            if re.search("PASSWORD|SECRET|TOKEN", key) and not key.endswith("__FILE"):
                yield f"{name}: {key} is a secret in an environment"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_specification_takes_the_file(path: Path) -> None:
    assert problems(load(path)) == []


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda c: c["services"]["spanqa"].update(imagee="x"), "'imagee' does not match"),
        (lambda c: c["services"]["spanqa"].update(read_only=[]), "services.spanqa.read_only: []"),
        (lambda c: c["services"]["grafana"].update(ports="3000"), "services.grafana.ports: '3000'"),
        (lambda c: c["services"]["spanqa"]["healthcheck"].update(retires=3), "'retires' does not match"),
        (lambda c: c["secrets"].update(x={"fil": "y"}), "'fil' does not match"),
        (lambda c: c.update(service={}), "'service'"),
    ],
)
def test_a_mistake_in_the_file_is_found(mistake: Any, told: str) -> None:
    compose = load(COMPOSE)
    mistake(compose)
    assert any(told in problem for problem in problems(compose)), problems(compose)


def test_everything_that_is_named_is_there() -> None:
    compose, tls = load(COMPOSE), load(TLS)
    assert list(dangling(compose)) == []
    assert list(dangling({**tls, "networks": compose["networks"]})) == []
    assert tls["services"].keys() <= compose["services"].keys()
    build = compose["services"]["spanqa"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()


def test_what_is_named_and_not_there_is_found() -> None:
    compose = load(COMPOSE)
    broken = copy.deepcopy(compose)
    del broken["networks"]["metrics"], broken["secrets"]["grafana_admin_password"]
    broken["services"]["grafana"]["volumes"][0] = "../grafana/provision:/x"
    found = list(dangling(broken))
    assert "spanqa: no networks metrics" in found
    assert "grafana: no secrets grafana_admin_password" in found
    assert "grafana: no ../grafana/provision" in found


def test_nothing_is_open() -> None:
    assert list(open_doors(load(COMPOSE))) == []


def test_what_is_open_is_found() -> None:
    compose = load(COMPOSE)
    compose["services"]["spanqa"].update(ports=["8001:8001"], user="0", cap_add=["NET_ADMIN"])
    compose["services"]["prometheus"].update(image="prom/prometheus:latest", read_only=False, security_opt=[])
    compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] = "admin"
    del compose["services"]["grafana"]["mem_limit"]
    assert len(list(open_doors(compose))) == 8


def test_files_of_secrets_never_get_into_git() -> None:
    ignored = (FOLDER.parents[1] / ".gitignore").read_text("utf-8").splitlines()
    assert "/deploy/compose/secrets/" in ignored
    files = [secret["file"] for path in FILES for secret in load(path)["secrets"].values()]
    assert len(files) == 4
    assert all(file.startswith("secrets/") for file in files)


def test_the_server_is_told_what_its_commands_know() -> None:
    from spanqa.cli import COMMANDS

    for path in FILES:
        service = load(path)["services"]["spanqa"]
        probe = service["healthcheck"]["test"]
        assert probe[0] == "CMD"
        for command in (service["command"], probe[1:]):
            assert command[0] == "spanqa"
            require_known_options(COMMANDS[command[1]].module, command[2:])


def require_known_options(module: str, arguments: list[str]) -> None:
    import argparse
    import importlib

    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(module).configure(parser)
    parser.parse_args(arguments)
