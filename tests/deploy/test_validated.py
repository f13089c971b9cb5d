"""Nothing under deploy/ goes unchecked, and every config.pbtxt is what Triton reads."""

from __future__ import annotations

import fnmatch
import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[2]
CHECKED_BY = {
    "compose/*.yaml": "test_compose.py",
    "kubernetes/*.yaml": "test_kubernetes.py",
    "prometheus/*.yml": "test_alerts.py",
    "grafana/*": "test_dashboard.py",
    "nginx/*": "../integration/test_replicas.py",
    "envoy/*": "../integration/test_replicas.py",
    "README.md": "read by people",
}
CONFIGS = sorted((ROOT / "model_repository").glob("*/config.pbtxt"))


def test_every_file_is_checked_by_some_test() -> None:
    folder = ROOT / "deploy"
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    own = [name for name in files if not name.startswith("compose/secrets/")]
    assert [name for name in own if not any(fnmatch.fnmatch(name, pattern) for pattern in CHECKED_BY)] == []
    assert all((Path(__file__).parent / test).exists() for test in CHECKED_BY.values() if test.endswith(".py"))


def test_every_kustomization_is_built_by_some_test() -> None:
    folder = ROOT / "deploy" / "kubernetes"
    built = {folder / "base", *(folder / "overlays").iterdir(), *(folder / "components").iterdir()}
    assert {path.parent for path in folder.rglob("kustomization.yaml")} == built
    named = {"kustomization.yaml"}
    for place in built:
        text = (place / "kustomization.yaml").read_text("utf-8")
        named |= {path.name for path in place.iterdir() if f" {path.name}\n" in text}
        assert {path.name for path in place.iterdir()} <= named, place


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_triton_s_own_description_takes_every_config(path: Path) -> None:
    config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    assert config.name in ("", path.parent.name)
    assert config.backend or config.platform


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("max_batch_size:", "max_batch_sizes:", 'has no field named "max_batch_sizes"'),
        ("TYPE_STRING", "TYPE_TEXT", "TYPE_TEXT"),
        ("dims: 1", 'dims: "one"', "Couldn't parse integer"),
        ("input {", "input [", 'Expected "{"'),
    ],
)
def test_a_mistake_in_a_config_is_found(right: str, wrong: str, told: str) -> None:
    text = (ROOT / "model_repository" / "question_answering" / "config.pbtxt").read_text("utf-8")
    assert right in text
    with pytest.raises(text_format.ParseError) as caught:
        text_format.Parse(text.replace(right, wrong, 1), model_config_pb2.ModelConfig())
    assert told in str(caught.value)


def test_secrets_of_compose_are_ignored_by_git() -> None:
    done = subprocess.run(
        ["git", "check-ignore", "-q", "deploy/compose/secrets/tls.key"], cwd=ROOT, capture_output=True, timeout=60
    )
    assert done.returncode == 0
