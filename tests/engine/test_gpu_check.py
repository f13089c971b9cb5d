"""The script for whoever has the GPU: its dry run goes to the end, its commands exist, its report reads its files."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from spanqa.cli import COMMANDS
from spanqa_build.plan_commands import SERVE
from spanqa_build.targets import target_from_name

HEADER = "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency\n"


@pytest.fixture(scope="module")
def dry_run(root):
    command = [str(root / "build" / "gpu_check.sh"), "-m", "checkpoint.tlt", "-t", "v100", "-w", "/my/check", "--dry"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("+ ") for line in lines)
    return [shlex.split(line.removeprefix("+ ")) for line in lines]


def test_the_dry_run_names_every_step_of_both_engines(dry_run):
    programs = [command[0] for command in dry_run]
    assert programs.count("tritonserver") == 2
    assert programs.count("perf_analyzer") == 2 * 4 * 3
    builds = [command for command in dry_run if command[:2] == ["spanqa", "build"] and "--engine" in command]
    assert [command[command.index("--engine") + 1] for command in builds] == ["tensorrt", "onnxruntime"]
    assert dry_run[-1][1].endswith("gpu_report.py")


def test_every_spanqa_command_in_it_exists_and_takes_its_options(dry_run, monkeypatch):
    import importlib

    from spanqa import cli

    seen = set()
    for _, name, *arguments in (command for command in dry_run if command[0] == "spanqa"):
        parser = cli._Parser(prog=name)
        importlib.import_module(COMMANDS[name].module).configure(parser)
        parser.parse_intermixed_args(arguments)
        seen.add(name)
    assert seen == {"build", "bench", "predict", "score"}


FAKES = {
    "nvidia-smi": 'echo "Tesla V100-SXM2-32GB, 7.0, 535.183.01, 32768 MiB"',
    # As the real one: what Triton says of graphs is in its log before it is ready.
    "curl": "test -s {work}/server.log",
    "tritonserver": 'echo "$@" >> {work}/served; echo "{says}"; exec sleep 60',
    "perf_analyzer": 'while [ "$1" != -f ]; do shift; done; printf "{header}1,99.5,0,10500,0,0,11100,10600\\n" > "$2"',
    "spanqa": 'case "$*" in *"--engine {broken}"*) exit 2 ;; esac',
    "python3": 'case "$2" in inputs) echo 128; echo 384 ;; *) exec {python} "$@" ;; esac',
}


@pytest.fixture
def checked(root, tmp_path):
    """The script among programs that do nothing, in a copy of the project whose results can be written or not."""

    def run(broken="nothing", says="ready"):
        programs, work = tmp_path / "bin", tmp_path / "work"
        for folder in (programs, work, tmp_path / "build", tmp_path / "benchmarks"):
            folder.mkdir(exist_ok=True)
        for name, script in FAKES.items():
            values = {
                "{work}": work,
                "{python}": sys.executable,
                "{header}": HEADER.rstrip() + "\\n",
                "{broken}": broken,
                "{says}": says,
            }
            for key, value in values.items():
                script = script.replace(key, str(value))
            (programs / name).write_text(f"#!/bin/bash\n{script}\n")
            (programs / name).chmod(0o755)
        shutil.copy(root / "build" / "gpu_check.sh", tmp_path / "build")
        shutil.copy(root / "benchmarks" / "gpu_report.py", tmp_path / "benchmarks")
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        command = [str(tmp_path / "build" / "gpu_check.sh"), "-m", "my model.tlt", "-t", "v100", "-w", str(work)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        return done, work

    return run


@pytest.mark.parametrize(("broken", "other"), [("tensorrt", "onnxruntime"), ("onnxruntime", "tensorrt")])
def test_an_engine_that_fails_costs_neither_the_other_nor_the_report(checked, broken, other):
    done, work = checked(broken)
    assert done.returncode == 1
    assert done.stderr.endswith(f"gpu_check: error: failed: {broken}\n")
    report = (work / "tesla-v100-sxm2-32gb.md").read_text()
    assert f"| {other} | 128 | 1 | 99.5 |" in report
    assert f"| {broken} |" not in report
    assert f"missing or incomplete: {broken}." in report


def test_only_the_lengths_of_the_built_repository_are_measured(checked):
    done, work = checked()
    assert done.returncode == 0, done.stderr
    assert {path.name.split("-")[1] for path in work.glob("*-*-*.csv")} == {"128", "384"}
    assert len(list(work.glob("*-*-*.csv"))) == 2 * 2 * 3


def test_the_server_that_runs_is_the_one_that_is_told(checked):
    done, work = checked()
    told = [line.removeprefix("+ tritonserver ") for line in done.stdout.splitlines() if "+ tritonserver" in line]
    assert (work / "served").read_text().splitlines() == told
    assert len(told) == 2


def test_the_report_is_in_the_work_folder_and_copied_where_that_can_be_written(checked, tmp_path):
    done, work = checked()
    assert done.returncode == 0
    assert "the report stays in" in done.stderr  # there is no folder of results
    (tmp_path / "benchmarks" / "results").mkdir()
    done, work = checked()
    assert "the report stays in" not in done.stderr
    (copied,) = (tmp_path / "benchmarks" / "results").iterdir()
    assert copied.read_text() == (work / copied.name).read_text()


@pytest.mark.parametrize(
    "says",
    [
        "W0101 unable to record CUDA graph for encoder_128_0_0",
        "E0101 Failed to set cuda graph shape for encoder_128_0_0trt failed to set input shape",
        "W0101 Detected shape tensor, CUDA graph is not captured forencoder_128_0_0",
    ],
)
def test_nothing_is_measured_where_a_graph_was_not_captured(checked, says):
    done, work = checked(says=says)
    assert done.returncode == 1
    assert done.stderr.count(f"{says}\ngpu_check: error: a CUDA graph was not captured") == 2
    assert not list(work.glob("*-*-*.csv"))


def test_the_server_completes_no_configuration_as_it_is_started_everywhere(root, dry_run):
    (served,) = {tuple(command[:3]) for command in dry_run if command[0] == "tritonserver"}
    assert served == ("tritonserver", "--disable-auto-complete-config", "--exit-on-error=true")
    assert f" {shlex.join(SERVE)} --repository repository\n" in (root / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["-m", "-t", "-d", "-w"])
def test_an_option_without_its_value_is_one_sentence(root, option):
    command = [str(root / "build" / "gpu_check.sh"), option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpu_check: error: {option} has no value: give -m CHECKPOINT")
    assert done.stderr.count("\n") == 1


def test_without_a_checkpoint_it_says_so_and_does_nothing(root):
    done = subprocess.run([str(root / "build" / "gpu_check.sh"), "--dry"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_check: error: -m is missing: give the checkpoint to build\n"


def test_the_report_lays_out_what_was_measured_beside_what_is_published(root, tmp_path):
    work, results = tmp_path / "work", tmp_path / "results"
    for folder in (work / "tensorrt-service", results):
        folder.mkdir(parents=True)
    (work / "gpu.csv").write_text("Tesla V100-SXM2-32GB, 7.0, 535.183.01, 32768 MiB\n")
    (work / "tensorrt-384-8.csv").write_text(HEADER + "1,205.5,0,38500,0,0,39100,38600\n")
    (work / "onnxruntime-128-1.csv").write_text(HEADER + "1,99.5,0,10500,0,0,11100,10600\n")
    (work / "tensorrt-service" / "bench.json").write_text(json.dumps({"questions_per_s": 100}))
    command = [sys.executable, str(root / "benchmarks" / "gpu_report.py"), "report", "--work", str(work)]
    done = subprocess.run([*command, "--results", str(results)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (report,) = results.iterdir()
    assert (work / report.name).read_text() == report.read_text()
    assert report.name == "tesla-v100-sxm2-32gb.md"
    text = report.read_text()
    assert "| tensorrt | 384 | 8 | 205.5 | 38.50 | 39.10 | 208 |" in text
    assert "| onnxruntime | 128 | 1 | 99.5 | 10.50 | 11.10 |  |" in text


def test_the_image_takes_the_container_of_every_target(root):
    text = (root / "build" / "Dockerfile").read_text(encoding="utf-8")
    assert "FROM ${IMAGE} AS serve" in text
    assert text.count("USER 1000:1000\n") == 2  # triton-server, by its number


def test_the_image_has_its_packages_in_an_environment_of_its_own_where_tritons_python_finds_them(root):
    text = (root / "build" / "Dockerfile").read_text(encoding="utf-8")
    places = [text.index(part) for part in ("ENV PATH=/opt/python/bin:$PATH", "virtualenv /opt/python", "pip install")]
    assert places == sorted(places)


def test_the_image_that_builds_gets_the_versions_of_the_target_and_those_of_volta_by_default(root):
    text = (root / "build" / "Dockerfile").read_text(encoding="utf-8")
    v100 = target_from_name("v100")
    stage = text.partition("FROM serve AS build")[2]
    assert f"ARG TENSORRT_BINDINGS={v100.tensorrt_bindings}\n" in stage
    assert f"ARG ONNXRUNTIME={v100.onnxruntime}\n" in stage
    # The CPU's would overwrite the library of the GPU's, whose last place in the stage is all that makes it count.
    assert stage.index('"onnxruntime==${ONNXRUNTIME}"') < stage.index('"onnxruntime-gpu==${ONNXRUNTIME}"')
    assert stage.rindex("pip install") == stage.index('pip install --no-cache-dir --no-deps "${TENSORRT_BINDINGS}"')
