"""The script for whoever has the GPU: its dry run goes to the end, its commands exist, its report reads its files."""

import json
import shlex
import subprocess
import sys

import pytest

from spanqa.cli import COMMANDS

HEADER = "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency\n"


@pytest.fixture(scope="module")
def dry_run(root):
    command = [str(root / "build" / "gpu_check.sh"), "-m", "checkpoint.tlt", "-t", "v100", "-w", "/work/check", "--dry"]
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
    assert report.name == "tesla-v100-sxm2-32gb.md"
    text = report.read_text()
    assert "| tensorrt | 384 | 8 | 205.5 | 38.50 | 39.10 | 208 |" in text
    assert "| onnxruntime | 128 | 1 | 99.5 | 10.50 | 11.10 |  |" in text


def test_the_image_takes_the_container_of_every_target(root):
    text = (root / "build" / "Dockerfile").read_text(encoding="utf-8")
    assert "FROM ${IMAGE} AS serve" in text
    assert text.count("USER triton-server") == 2
