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
    """Let the networks run as fast as given, others crawl: the choice is under test, not the machine."""
    monkeypatch.setattr(
        cpu_build, "windows_per_s", lambda networks, _batches: {name: speeds.get(name, 1.0) for name in networks}
    )


def answering_worse(monkeypatch, n_lost, n_lost_of_bundled=0, logit_error=0.04):
    """Let int8 lose that many answers, of the questions that are asked and of the bundled ones."""
    paired = cpu_build.Comparison.paired

    def changed(self, stage):
        real = paired(self, stage)
        if stage.name != "int8":
            return real
        n_questions = len(real.questions)
        lost = n_lost_of_bundled if n_questions == 200 else n_lost
        losses = [-1.0] * lost + [0.0] * (n_questions - lost)
        questions = [replace(question, paragraph=place) for place, question in enumerate(real.questions)]
        return replace(real, questions=questions, exact=losses, f1=losses, logit_error=logit_error)

    monkeypatch.setattr(cpu_build.Comparison, "paired", changed)


@pytest.mark.parametrize(
    ("speeds", "served", "precision"),
    [
        ({"plain": 20.0, "float32": 25.0, "int8": 40.0}, "int8", "int8"),
        ({"plain": 20.0, "float32": 45.0, "int8": 40.0}, "float32", "float32"),
        ({"plain": 50.0, "float32": 45.0, "int8": 40.0}, "plain", "float32"),
    ],
)
def test_the_fastest_network_that_passes_is_served(build, monkeypatch, speeds, served, precision):
    timed(monkeypatch, **speeds)
    answering_worse(monkeypatch, 0)
    manifest = build("--engine", "onnxruntime")
    assert manifest.encoder["variant"] == served
    assert manifest.encoder["engine"] == "onnxruntime"
    assert manifest.encoder["windows_per_s"] == speeds
    assert manifest.encoder["precision"] == precision
    assert [stage["name"] for stage in manifest.encoder["stages"]] == ["torch float32", "plain", "float32", "int8"]


def test_accuracy_takes_the_most_faithful_of_those_within_a_tenth_of_the_fastest(build, monkeypatch):
    answering_worse(monkeypatch, 0)
    timed(monkeypatch, plain=20.0, float32=37.0, int8=40.0)
    assert build("--engine", "onnxruntime", "--prefer", "accuracy").encoder["variant"] == "float32"
    timed(monkeypatch, plain=20.0, float32=35.0, int8=40.0)
    assert build("--engine", "onnxruntime", "--prefer", "accuracy").encoder["variant"] == "int8"


def test_int8_is_out_where_it_answers_worse_and_quiet_says_why_too(build, monkeypatch, capsys):
    timed(monkeypatch, plain=20.0, float32=25.0, int8=40.0)
    answering_worse(monkeypatch, 6, n_lost_of_bundled=4)
    manifest = build("--engine", "onnxruntime")
    assert manifest.encoder["variant"] == "float32"
    assert "int8" not in manifest.encoder["windows_per_s"]
    told = capsys.readouterr().err
    assert "int8 against torch: F1 -20.00 points (95 %:" in told
    assert "on 30 questions, a loss of 0.5 is allowed: it is left out" in told
    assert manifest.encoder["verdicts"]["int8"] in told


def test_int8_is_out_where_its_logits_are_noise_whatever_it_answers(build, monkeypatch, capsys):
    timed(monkeypatch, plain=20.0, float32=25.0, int8=40.0)
    answering_worse(monkeypatch, 0, logit_error=0.3)
    assert build("--engine", "onnxruntime").encoder["variant"] == "float32"
    assert "logits are off by 30.0% of their spread, at most 10% is allowed: it is left out" in capsys.readouterr().err


def test_one_changed_answer_of_thirty_costs_no_int8_and_the_bundled_questions_are_asked(build, monkeypatch, capsys):
    timed(monkeypatch, plain=20.0, float32=25.0, int8=40.0)
    answering_worse(monkeypatch, 1, n_lost_of_bundled=1)
    manifest = build("--engine", "onnxruntime")
    assert manifest.encoder["variant"] == "int8"
    told = capsys.readouterr().err
    assert "30 questions are too few to tell a loss of 0.5 points" in told
    assert "the 200 bundled ones are asked too" in told
    assert "230 questions are too few to tell" in told
    assert "passes, as nothing speaks against it" in told


def test_the_bundled_questions_may_speak_against_it(build, monkeypatch, capsys):
    timed(monkeypatch, plain=20.0, float32=25.0, int8=40.0)
    answering_worse(monkeypatch, 1, n_lost_of_bundled=12)
    assert build("--engine", "onnxruntime").encoder["variant"] == "float32"
    assert "on 230 questions, a loss of 0.5 is allowed: it is left out" in capsys.readouterr().err


def test_int8_by_name_is_an_error_where_it_loses_too_much(build, monkeypatch, tmp_path, capsys):
    timed(monkeypatch, float32=25.0, int8=40.0)
    assert build("--precision", "float32", "--engine", "onnxruntime").encoder["variant"] == "float32"
    before = {path: path.read_bytes() for path in (tmp_path / "repository").rglob("*") if path.is_file()}
    answering_worse(monkeypatch, 10)
    assert build("--precision", "int8", "--engine", "onnxruntime") == 2
    assert "int8 against torch: F1 -33.33 points" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "repository").rglob("*") if path.is_file()} == before


def test_the_machine_that_builds_is_really_timed(build):
    speeds = build().encoder["windows_per_s"]
    assert {"plain", "float32"} <= set(speeds)
    assert all(speed > 1 for speed in speeds.values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--precision", "bfloat16", "--engine", "onnxruntime"], "no network in bfloat16 for onnxruntime"),
        (["--engine", "tensorrt"], "--engine tensorrt is for GPUs"),
        (["--target", "t4", "--engine", "openvino"], "--engine openvino is for --target cpu"),
        (["--target", "t4", "--prefer", "accuracy"], "--prefer accuracy is for --target cpu"),
    ],
)
def test_what_there_is_none_of_is_refused_before_the_work(build, capsys, options, told):
    assert build(*options) == 2
    assert told in capsys.readouterr().err


def test_a_plan_for_a_cpu_needs_no_output(tiny_model_folder, capsys):
    assert main(["build", "-m", str(tiny_model_folder), "--plan"]) == 0
    assert "a CPU with ONNX Runtime" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["-o", "x"], ["-m", "x"]])
def test_what_to_build_must_be_said(options, capsys):
    assert main(["build", *options]) == 2
    assert "-m CHECKPOINT and -o REPOSITORY say what to build" in capsys.readouterr().err
