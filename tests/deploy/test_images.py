"""The images: linted, pinned, never root, without weights; and the server runs where nothing can be written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVING = ("Dockerfile", "Dockerfile.cpu")
DOCKERFILES = (*SERVING, "Dockerfile.repository")
HADOLINT = Path(sys.prefix) / "bin" / "hadolint"
SOME_PACKAGES = ("spanqa", "numpy", "tokenizers", "onnxruntime", "nvidia-pytriton")
WEIGHTS = (".tlt", ".safetensors", ".onnx", ".bin", ".pt", ".plan")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a Dockerfile: its name, what it is from, and its instructions, each a word and the rest."""

    name: str
    source: str
    lines: tuple[tuple[str, str], ...]

    def last(self, word: str) -> str | None:
        return next((rest for one, rest in reversed(self.lines) if one == word), None)


def stages(text: str) -> list[Stage]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    lines = [tuple(line.strip().split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    found: list[Stage] = []
    arguments: dict[str, str] = {}
    for word, rest in lines:
        if word == "ARG" and not found:
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            source, _, name = rest.partition(" AS ")
            source = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], source)
            found.append(Stage(name=name, source=source, lines=()))
        else:
            found[-1] = Stage(name=found[-1].name, source=found[-1].source, lines=(*found[-1].lines, (word, rest)))
    return found


def faults(text: str) -> Iterator[str]:
    """Yield what a linter does not see: who runs, what runs, what is asked for health, and where it comes from."""
    all_stages = stages(text)
    names = {stage.name for stage in all_stages}
    for stage in all_stages:
        tag = re.fullmatch(r"[\w./-]+:(?P<tag>[\w.-]+)(@sha256:[0-9a-f]{64})?", stage.source)
        if stage.source not in names and (not tag or not re.match(r"\d+\.\d+", tag["tag"])):
            yield f"{stage.source} is no exact release"
        for word, rest in stage.lines:
            if word == "ADD" or re.search(r"\b(curl|wget|git clone)\b", rest):
                yield f"{word} {rest.split()[0]} fetches what nothing holds"
            if word in ("ENV", "ARG") and re.search(r"(?i)(password|secret|token|key)=", rest):
                yield f"{word} {rest} is a secret in the image"
    served = next((stage for stage in all_stages if stage.name == "serve"), all_stages[-1])
    for stage in {served, all_stages[-1]} if served.source not in names else {served}:
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage.last("USER") or ""):
            yield f"{stage.name}: it runs as {stage.last('USER')}"
    if 'CMD ["spanqa", "health", "--or-busy"' not in (served.last("HEALTHCHECK") or ""):
        yield "its health is not an answer"
    if json.loads(served.last("CMD") or "[]")[:2] != ["spanqa", "serve"]:
        yield "its command locks no interface"
    if "org.opencontainers.image.version" not in (served.last("LABEL") or ""):
        yield "it does not say what it is"
    if "packages" not in names or not any(word == "COPY" and "--from=packages" in rest for word, rest in served.lines):
        yield "what installs is in the image"
    if "cyclonedx-py" not in text:
        yield "nobody knows what is in it"
    if any("install" in rest for word, rest in served.lines if word == "RUN"):
        yield "it installs beside what was told"


def text_of(name: str) -> str:
    return (ROOT / "build" / name).read_text("utf-8")


def linted(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "info", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_linter_finds_nothing(name: str) -> None:
    done = linted(ROOT / "build" / name)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("FROM ${IMAGE} AS serve", "FROM python AS serve", "DL3006"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("WORKDIR /work\n", "WORKDIR work\n", "DL3000"),
        ("/opt/cyclonedx/bin/pip install --no-cache-dir", "pip install", "DL3042"),
        ('CMD ["spanqa", "serve"', 'CMD spanqa serve #"', "DL3025"),
        ("EXPOSE 8000", "EXPOSED 8000", "missing whitespace"),
        ("HEALTHCHECK --start", "HEALTHCHECK --interval=1s CMD true\nHEALTHCHECK --start", "DL3012"),
        ("COPY . .", "ADD . .", "DL3020"),
        ("RUN python3 -m venv --without-pip", "RUN apt-get install -y gcc; python3 -m venv", "DL3008"),
    ],
)
def test_the_linter_finds_a_mistake(tmp_path: Path, right: str, wrong: str, told: str) -> None:
    text = text_of("Dockerfile.cpu")
    assert right in text
    path = tmp_path / "Dockerfile"
    path.write_text(text.replace(right, wrong), "utf-8")
    done = linted(path)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVING)
def test_images_are_pinned_nobody_s_root_and_locked(name: str) -> None:
    assert list(faults(text_of(name))) == []


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("python:3.11.13-slim-bookworm", "python:slim", "python:slim@sha256:"),
        ("USER 1000:1000", "USER spanqa", "serve: it runs as spanqa"),
        (
            '"health", "--or-busy", "--timeout", "10"]',
            '"health"]\nHEALTHCHECK CMD ["true"]',
            "its health is not an answer",
        ),
        ('CMD ["spanqa", "serve"', 'CMD ["tritonserver", "serve"', "its command locks no interface"),
        ("org.opencontainers.image.version", "version", "it does not say what it is"),
        ("COPY --from=packages /opt/python /opt/python", "RUN pip install spanqa", "it installs beside what was told"),
        ("MALLOC_ARENA_MAX=1", "MODEL_KEY=abc", "is a secret in the image"),
        ("WORKDIR /work\n", "RUN curl -O http://a.example/b\n", "fetches what nothing holds"),
        ("cyclonedx-py", "cyclonedx", "nobody knows what is in it"),
    ],
)
def test_what_the_linter_does_not_see_is_found(right: str, wrong: str, told: str) -> None:
    text = text_of("Dockerfile.cpu")
    assert right in text
    assert any(told in fault for fault in faults(text.replace(right, wrong)))


def test_the_cpu_s_base_is_pinned_by_what_it_holds() -> None:
    assert {stage.source.partition("@")[2][:7] for stage in stages(text_of("Dockerfile.cpu"))} == {"sha256:"}
    # Nobody but NVIDIA's registry tells the digests of theirs: the file says how to give one.
    assert "buildx imagetools inspect nvcr.io/nvidia/tritonserver" in text_of("Dockerfile")


@pytest.mark.parametrize("name", SERVING)
def test_the_health_check_knows_its_options(name: str) -> None:
    import argparse

    from spanqa_server.commands import health, serve

    served = next(stage for stage in stages(text_of(name)) if stage.name == "serve")
    probe = json.loads((served.last("HEALTHCHECK") or "").partition("CMD ")[2])
    for module, command in ((health, probe), (serve, json.loads(served.last("CMD") or ""))):
        parser = argparse.ArgumentParser(exit_on_error=False)
        module.configure(parser)
        parser.parse_args(command[2:])


def test_the_gpu_image_s_compilers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    served = next(stage for stage in stages(text_of("Dockerfile")) if stage.name == "serve")
    run = next(rest for word, rest in served.lines if word == "RUN")
    compilers = [
        "gcc",
        "g++",
        "cc",
        "c++",
        "clang",
        "clang-14",
        "clang++-14",
        "x86_64-linux-gnu-gcc-12",
        "as",
        "ld",
        "nvcc",
    ]
    others = ["grep", "bash", "ldconfig", "cat", "clangd-doc", "python3.10", "class"]
    folders = [tmp_path / "usr" / "bin", tmp_path / "usr" / "lib" / "llvm-14" / "bin", tmp_path / "opt" / "a" / "bin"]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in (*compilers, *others):
            (folder / name).touch()
    (tmp_path / "usr" / "lib" / "gcc").mkdir()
    find = run.partition("&&")[0].replace("/usr /opt", f"{tmp_path}/usr {tmp_path}/opt")
    subprocess.run(["/bin/sh", "-c", find], check=True, timeout=60)
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == sorted(others)
    assert (tmp_path / "usr" / "lib" / "gcc").is_dir()


def pattern_of(line: str) -> re.Pattern[str]:
    """Give a line of .dockerignore as docker reads it: anchored at the context's root; what lies below a match matches.

    Source: Docker's documentation, ".dockerignore files": Go's filepath.Match, and ** for any number of folders.
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/"))
    words = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def in_context(paths: Sequence[str]) -> list[str]:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [pattern_of(line) for line in lines if line.strip() and not line.startswith("#")]
    assert not any(line.startswith("!") for line in lines)
    return [path for path in paths if not any(pattern.fullmatch(path) for pattern in patterns)]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return [path for path in done.stdout.split("\0") if path and (ROOT / path).is_file()]


def test_weights_tests_keys_and_environments_stay_out_of_images() -> None:
    paths = tracked()
    kept = in_context(paths)
    assert any(path.endswith(WEIGHTS) for path in paths)
    assert not [path for path in kept if path.endswith(WEIGHTS)]
    assert not [path for path in kept if path.split("/")[0] in ("tests", "benchmarks", "deploy", ".git", ".ci")]
    strange = [
        *("results/a/model.safetensors", "training/checkpoints/own/weights.h5", "repository-v2/encoder/1/model.plan"),
        *("a/b/own.tlt", "deploy/compose/secrets/tls.key", "own.pem", ".venv/bin/python", "client/x/__pycache__/a.pyc"),
        *(".env", "model_repository/encoder/2/network.bin", "model_repository/question_answering/1/tokenizer.json"),
    ]
    assert in_context(strange) == []
    assert sum((ROOT / path).stat().st_size for path in kept) < 6e6


def test_what_the_images_install_is_in_their_context() -> None:
    import tomllib

    kept = set(in_context(tracked()))
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source in wheel["force-include"]:
        assert any(path == source or path.startswith(f"{source}/") for path in kept), source
    sources = [path for path in tracked() if any(path.startswith(f"{one}/") for one in wheel["packages"])]
    assert [path for path in sources if path not in kept] == []
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "requirements/serve.lock",
        "requirements/dev.lock",
    } <= kept


def environment_like_the_image_s(folder: Path) -> Path:
    """Make an environment without pip, where some packages are as far as their descriptions go."""
    import venv

    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for name in SOME_PACKAGES:
        files = importlib.metadata.files(name) or ()
        described = next(Path(str(one.locate())).parent for one in files if one.match("*.dist-info/METADATA"))
        shutil.copytree(described, packages / described.name)
    return folder


def test_the_list_of_what_an_image_holds_is_valid_and_whole(tmp_path: Path) -> None:
    command = re.search(
        r"/opt/cyclonedx/bin/(cyclonedx-py environment .*) --output-file \S+ /opt/python", text_of("Dockerfile.cpu")
    )
    assert command
    path = tmp_path / "sbom.cdx.json"
    program, *options = command[1].split()
    environment = environment_like_the_image_s(tmp_path / "python")
    arguments = [str(Path(sys.prefix) / "bin" / program), *options, "--output-file", str(path), str(environment)]
    # It holds what it writes against CycloneDX's own schema.
    subprocess.run(arguments, check=True, timeout=300, capture_output=True)
    document = json.loads(path.read_text("utf-8"))
    assert document["bomFormat"] == "CycloneDX"
    assert {one["name"] for one in document["components"]} == set(SOME_PACKAGES)


LIKE_THE_IMAGE = """
set -e
base=$1 root=$2 checkout=$3
repository=$checkout/model_repository
mount -t tmpfs -o size=512m tmpfs /dev/shm
# /tmp is the image's own, and nobody else may enter /root: what is needed of the two stays in its place.
mount -t tmpfs tmpfs /mnt
number=0
for path in "$base" "$root" "$checkout"; do
    number=$((number + 1)); mkdir /mnt/$number; mount --bind "$path" /mnt/$number
done
mount -t tmpfs tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /root
number=0
for path in "$base" "$root" "$checkout"; do
    number=$((number + 1))
    case "$path" in /tmp/*|/root/*) mkdir -p "$path"; mount --bind /mnt/$number "$path";; esac
done
mount -o remount,ro,bind /
mount -t proc proc /proc
ip link set lo up
cd /
exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    env -i PATH="$root/bin:/usr/bin:/bin" HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 sh -c '
        touch "$0/written" /written 2>/dev/null && exit 9
        spanqa check-repository "$0" >/dev/null || exit 8
        spanqa serve --repository "$0" --host 0.0.0.0 >/tmp/said 2>&1 &
        until grep -qs ^ready /tmp/said; do kill -0 $! || break; sleep 0.1; done
        spanqa health --timeout 30
        cat /proc/[0-9]*/cmdline | tr "\\0" "\\n" >/tmp/told
        echo "seen $(grep -c -- --http-restricted-api= /tmp/told), secrets $(grep -cE "spanqa=[0-9a-f]{32}" /tmp/told)"
        kill -TERM $!; wait $!; status=$?
        cat /tmp/said; echo "status $status"; ls /dev/shm' "$repository"
"""


def namespaces_are_to_be_had() -> bool:
    programs = ("unshare", "setpriv", "ip", "mount")
    if os.getuid() != 0 or not all(map(shutil.which, programs)):
        return False
    return subprocess.run(["unshare", "-m", "-p", "-f", "-n", "true"], capture_output=True, timeout=30).returncode == 0


@pytest.mark.triton
@pytest.mark.skipif(not namespaces_are_to_be_had(), reason="namespaces of one's own need root")
def test_the_server_runs_as_nobody_in_particular_where_nothing_can_be_written() -> None:
    """What the containers are given: a root that is read-only, /tmp, /dev/shm, no capabilities, and the user 1000."""
    arguments = [sys.base_prefix, sys.prefix, str(ROOT)]
    command = ["unshare", "-m", "-p", "-f", "--kill-child", "-n", "sh", "-c", LIKE_THE_IMAGE, "sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "healthy: localhost:8001 answered in" in said
    assert re.search(r"^seen [1-9]\d*, secrets 0$", said, re.MULTILINE), said
    assert said.rstrip().endswith("status 0"), said  # and nothing is left in /dev/shm


def test_a_library_s_folder_that_cannot_be_looked_into_is_passed_over(tmp_path: Path) -> None:
    """As the user of an image may not enter the home where Python was built."""
    from spanqa_server.environment import find_libpython
    from spanqa_server.errors import InstallationError

    # A name that is too long fails for root, too.
    with pytest.raises(InstallationError, match="was not found in"):
        find_libpython([tmp_path / ("x" * 300)])
