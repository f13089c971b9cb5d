"""The operations guide: its commands run, its options exist, and it tells of every metric that a server has."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spanqa.cli import COMMANDS, main
from spanqa_server.checks import free_port
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"# (untried|run by (?P<test>tests/\S+\.py))\b.*\n")
SHORTER = "--rounds 1 --window-s 0.2 --warm-up-s 0.1 --questions 20"
ALLOWED_S = 240.0


def commands() -> Iterator[str]:
    """Every command line of ours that the guide names, in blocks and in sentences."""
    for text in [*BLOCKS, *re.findall(r"`(spanqa [^`]+)`", GUIDE)]:
        for line in text.replace("\\\n", " ").splitlines():
            yield from (f"spanqa {found}" for found in re.findall(r"(?:^|[\s(])spanqa ([a-z][^#&|;]*)", line))


@pytest.mark.parametrize("command", list(dict.fromkeys(commands())))
def test_every_option_that_the_guide_names_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, name, *words = command.split()
    assert name in COMMANDS, command
    with pytest.raises(SystemExit):
        main([name, "--help"])
    known = set(re.findall(r"--?[a-z][a-z-]*", capsys.readouterr().out))
    given = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z].*", word)}
    assert given <= known, given - known


def test_what_is_not_run_says_why() -> None:
    assert len(BLOCKS) >= 10
    reasons = [match for block in BLOCKS if (match := NOT_RUN.match(block))]
    assert 0 < len(reasons) < len(BLOCKS) / 2
    for match in reasons:
        assert match["test"] is None or (ROOT / match["test"]).is_file()


def _as_run_here(block: str, ports: dict[str, int]) -> str:
    """A block on free ports; what it measures is measured once, and in a shorter time."""
    serve = " ".join(
        f"--{name}-port {port}" for name, port in zip(("grpc", "http", "metrics"), ports.values(), strict=True)
    )
    block = block.replace("spanqa serve ", f"spanqa serve {serve} ")
    for port, here in ports.items():
        block = block.replace(f"localhost:{port}", f"localhost:{here}")
    block = block.replace("; do sleep 1; done", "; do sleep 0.2; done")
    block = re.sub(r"spanqa bench .* -o long", "cp -r short long", block)
    return re.sub(r"(spanqa bench .*)--concurrency 1,4,16", rf"\1--concurrency 1,4 {SHORTER}", block)


def _roll_overs_awaited(script: str) -> str:
    """A script that goes on after each SIGHUP when the server has told of one roll-over more."""
    first, *others = script.split('kill -HUP "$server"\n')
    told = 'until [ "$(grep -c "answers, loaded in" said)" -ge {} ]; do sleep 0.1; done'
    waits = (f'kill -HUP "$server"; {told.format(number)}\n{other}' for number, other in enumerate(others, start=1))
    return "".join([first, *waits])


@pytest.fixture
def folder(tmp_path: Path, table: Path, benchmark: Any, heldout: Any) -> Path:
    """What the guide's commands find: a repository with two versions, two datasets, a checkpoint."""
    shutil.copytree(table, tmp_path / "repository")
    benchmark("table_model").add_same_version(tmp_path / "repository")
    (tmp_path / "training").symlink_to(ROOT / "training")
    for name in ("short", "long"):
        paragraphs = [
            {"context": one.context, "qas": [{"id": one.id, "question": one.question, "answers": []}]}
            for one in heldout[:40]
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": [{"title": name, "paragraphs": paragraphs}]}))
    return tmp_path


@contextlib.contextmanager
def _running(folder: Path, blocks: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run blocks in their order; what they say goes into a file of that folder."""
    ports = {str(port): free_port("127.0.0.1") for port in (8001, 8000, 8002)}
    told = (f"echo '== {n}'\n{_as_run_here(block, ports)}" for n, block in enumerate(blocks))
    script = _roll_overs_awaited("\n".join(["set -euo pipefail", *told, "wait"]))
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "said").open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # a server that a failed command left behind
            os.killpg(process.pid, signal.SIGTERM)


def test_the_guide_s_commands_run_in_their_order(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    blocks = [block for block in BLOCKS if not NOT_RUN.match(block)]
    # From the making of certificates on, another server is asked: it has no need to wait for the first one's end.
    second = next(place for place, block in enumerate(blocks) if "openssl " in block)
    beside = tmp_path_factory.mktemp("tls")
    shutil.copytree(folder / "repository", beside / "repository")
    with _running(folder, blocks[:second]) as one, _running(beside, blocks[second:]) as other:
        statuses = [process.wait(ALLOWED_S) for process in (one, other)]
    said = (folder / "said").read_text()
    assert statuses == [0, 0], said[-3000:] + (beside / "said").read_text()[-3000:]
    for told in (
        "that may be away",
        "meets the goal",
        "healthy: ",
        "spanqa_questions_total{",
        "answers, loaded in",
    ):
        assert told in said, (told, said[-3000:])
    assert "healthy: " in (beside / "said").read_text()


def test_every_metric_of_a_server_is_told_of(table_server: Server) -> None:
    with urllib.request.urlopen(table_server.metrics_url, timeout=30) as response:
        lines = response.read().decode().splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    assert {"spanqa_questions_total", "nv_inference_count"} <= names
    assert not {name for name in names if f"`{name}`" not in GUIDE}
    ours = set(re.findall(r"`(spanqa_[a-z_]+(?:_total|_requests))`", GUIDE))
    assert ours == {name for name in names if name.startswith("spanqa_")}
