"""A CPU serves the fastest network that answers as the checkpoint does, and the report says what spoke for it."""

from dataclasses import replace

import pytest

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import load_served_tokenizer
from spanqa_build import cpu_build


@pytest.fixture
def build(tiny_model_folder, thirty_questions, tmp_path):
    """Builds a repository; gives its manifest, or the exit status of a failure."""

    def run(*options, output=tmp_path / "repository"):
        command = ["build", "-m", tiny_model_folder, "-o", output, "--data", thirty_questions, "--quiet", *options]
        status = main([str(argument) for argument in command])
        if status:
            return status
        versions = sorted((output / contract.QUESTION_ANSWERING).glob("[0-9]*"), key=lambda path: int(path.name))
        return load_served_tokenizer(versions[-1])[0]

    return run


def timed(monkeypatch, **speeds):
    """Let the networks run as fast as given: the choice is under test, not the machine."""
    monkeypatch.setattr(
        cpu_build, "windows_per_s", lambda networks, _batches: {name: speeds[name] for name in networks}
    )


def scored(monkeypatch, f1_loss):
    """Let int8 lose that many points of F1."""
    of = cpu_build.Comparison._stage

    def stage(self, name, answers, parity):
        made = of(self, name, answers, parity)
        return replace(made, f1=self.reference.f1 - f1_loss) if name == "int8" else made

    monkeypatch.setattr(cpu_build.Comparison, "_stage", stage)


@pytest.mark.parametrize(
    ("speeds", "served"),
    [
        ({"plain": 20.0, "float32": 25.0, "int8": 40.0}, "int8"),
        ({"plain": 20.0, "float32": 45.0, "int8": 40.0}, "float32"),
        ({"plain": 50.0, "float32": 45.0, "int8": 40.0}, "plain"),
    ],
)
def test_the_fastest_network_that_passes_is_served(build, monkeypatch, speeds, served):
    timed(monkeypatch, **speeds)
    scored(monkeypatch, 0.4)
    manifest = build()
    assert manifest.encoder["variant"] == served
    assert manifest.encoder["windows_per_s"] == speeds
    assert manifest.encoder["precision"] == ("int8" if served == "int8" else "float32")
    assert [stage["name"] for stage in manifest.encoder["stages"]] == ["torch float32", "plain", "float32", "int8"]


def test_int8_is_out_where_it_loses_more_than_half_a_point(build, monkeypatch, capsys):
    timed(monkeypatch, plain=20.0, float32=25.0, int8=40.0)
    scored(monkeypatch, 0.6)
    manifest = build()
    assert manifest.encoder["variant"] == "float32"
    assert "int8" not in manifest.encoder["windows_per_s"]
    assert "F1 falls by 0.60 points, at most 0.5 are allowed: float32 is taken" in capsys.readouterr().err


def test_int8_by_name_is_an_error_where_it_loses_too_much(build, monkeypatch, tmp_path, capsys):
    timed(monkeypatch, float32=25.0, int8=40.0)
    assert build("--precision", "float32").encoder["variant"] == "float32"
    before = {path: path.read_bytes() for path in (tmp_path / "repository").rglob("*") if path.is_file()}
    scored(monkeypatch, 10.0)
    assert build("--precision", "int8") == 2
    assert "int8 against torch: F1 falls by 10.00 points" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "repository").rglob("*") if path.is_file()} == before


def test_the_machine_that_builds_is_really_timed(build):
    speeds = build().encoder["windows_per_s"]
    assert set(speeds) == {"plain", "float32", "int8"} or set(speeds) == {"plain", "float32"}
    assert all(speed > 1 for speed in speeds.values())


def test_a_plan_for_a_cpu_needs_no_output(tiny_model_folder, capsys):
    assert main(["build", "-m", str(tiny_model_folder), "--plan"]) == 0
    assert "a CPU with ONNX Runtime" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["-o", "x"], ["-m", "x"]])
def test_what_to_build_must_be_said(options, capsys):
    assert main(["build", *options]) == 2
    assert "-m CHECKPOINT and -o REPOSITORY say what to build" in capsys.readouterr().err
