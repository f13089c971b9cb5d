"""The scripts that measure training go their whole road on a CPU, with a small model."""

import json
import sys
import time
from pathlib import Path

import pytest

from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.weights.hugging_face import write_hugging_face

NEEDS_A_GPU = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    assert {holds}, "what a GPU said"

def test_elsewhere():
    raise AssertionError
"""
FIGURES = ("questions_per_s", "windows_per_s", "tokens_per_s", "peak_mb")


@pytest.fixture
def benchmarks(root, monkeypatch):
    """The folder of the scripts, to import from."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))


@pytest.fixture
def few_tests(benchmarks, tmp_path, monkeypatch):
    """A folder of two tests, one marked gpu, in place of all of ours, which take half a minute to collect."""
    import gpu_training_commands

    folder = tmp_path / "few-tests"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs a GPU\n", encoding="utf-8")
    (folder / "test_few.py").write_text(NEEDS_A_GPU.format(holds=True), encoding="utf-8")
    monkeypatch.setattr(gpu_training_commands, "TESTS", folder)
    return folder


@pytest.fixture
def stand_in(benchmarks, tmp_path, monkeypatch):
    """Put a script in the recipe's place; gives the options that name its DATA and HELD_OUT."""
    import gpu_training_commands

    def put(lines):
        script = tmp_path / "recipe.sh"
        script.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{lines}\n", encoding="utf-8")
        script.chmod(0o755)
        monkeypatch.setattr(gpu_training_commands, "RECIPE", script)
        held_out = tmp_path / "held out.json"
        held_out.touch()
        return ["--recipe", str(tmp_path), "--held-out", str(held_out), str(script)]

    return put


@pytest.fixture
def run_script(benchmarks, tmp_path, monkeypatch):
    """Run the whole script on a CPU; gives its exit status."""
    import gpu_training

    def run(*options):
        arguments = ["-o", str(tmp_path), "--device", "cpu", "--tiny", *options]
        monkeypatch.setattr("sys.argv", ["gpu_training.py", *arguments])
        return gpu_training.main()

    return run


def test_the_gpu_script_does_every_part_and_writes_what_it_found(run_script, few_tests, stand_in, tmp_path, capsys):
    assert run_script(*stand_in('printf "%s\\n" "$@" "trained with $(command -v python)"')) == 0
    parts = json.loads((tmp_path / "gpu_training.json").read_text(encoding="utf-8"))
    assert list(parts) == ["dense rate", "rates", "loss curves", "loss scaling", "tests", "recipe"]
    assert parts["dense rate"]["found"]["bf16"] > 0
    rows = parts["rates"]["found"]
    assert {(row["precision"], row["lengths"]) for row in rows} == {
        (precision, lengths) for precision in ("16", "bf16") for lengths in ("fixed", "bucketed")
    }
    for row in rows:
        assert row["windows_per_s"] > 0
        assert row["share_of_dense"] > 0
        assert row["padding_share"] == 0 or row["lengths"] == "bucketed"
    curves = parts["loss curves"]["found"]
    assert len({len(losses) for losses in curves["losses"].values()}) == 1
    assert curves["mean_difference"]["bf16"] < 0.1
    scaling = parts["loss scaling"]["found"]
    assert scaling["finite"]
    assert scaling["skipped_steps"] > 0, "a scale of 2 ** 28 is far too high for float16"
    shown = capsys.readouterr().out
    assert "TFLOP/s" in shown
    assert "bucketed" in shown
    assert f"{scaling['skipped_steps']} steps skipped, weights finite" in shown
    assert parts["tests"]["found"]["exit"] == 0
    assert "1/2 tests collected" in shown
    given, results, *held_out, last = parts["recipe"]["found"]["said"]
    assert (given, results) == (str(tmp_path), str(tmp_path / "recipe"))
    assert held_out == [str(tmp_path / "held out.json"), str(tmp_path / "recipe.sh")]
    assert last == f"trained with {Path(sys.executable).parent / 'python'}"
    assert "trained with " in shown


def test_tests_and_a_recipe_that_do_not_end_well_fail_the_script(
    run_script, few_tests, stand_in, tmp_path, monkeypatch, capsys
):
    import gpu_training

    for name, found in (("dense_rates", {}), ("rates", []), ("curves", {}), ("loss_scaling", {"failed": "not finite"})):
        monkeypatch.setattr(gpu_training, name, lambda *_, found=found: found)
    (few_tests / "test_few.py").write_text("def test_elsewhere(): pass", encoding="utf-8")
    assert run_script(*stand_in("echo first; echo the last word >&2; exit 3")) == 1
    shown = capsys.readouterr()
    assert "loss scaling: not finite\n" in shown.err
    assert "recipe: exit 3: first / the last word\n" in shown.err
    assert "tests: exit 5: " in shown.err, "no test was collected"
    rows = {line.split("  ")[0]: line for line in shown.out.splitlines()}
    assert "not finite" in rows["loss scaling"]
    assert "exit 5" in rows["tests"]
    assert "exit 3: the last word" in rows["recipe"]
    assert (tmp_path / "recipe.log").read_text(encoding="utf-8") == "first\nthe last word\n"


def test_a_test_that_fails_on_a_gpu_is_told(few_tests, tmp_path):
    import gpu_training_commands

    good = gpu_training_commands.gpu_tests("cuda", tmp_path, 60)
    assert "failed" not in good
    assert "1 passed, 1 deselected" in good["said"][-1]
    (few_tests / "test_few.py").write_text(NEEDS_A_GPU.format(holds=False), encoding="utf-8")
    bad = gpu_training_commands.gpu_tests("cuda", tmp_path, 60)
    assert bad["exit"] == 1
    assert bad["failed"].startswith("exit 1: ")
    assert "test_few.py::test_on_a_gpu" in bad["failed"]
    assert "1 failed, 1 deselected" in bad["failed"]
    assert "what a GPU said" in (tmp_path / "tests.log").read_text(encoding="utf-8")


def test_a_recipe_whose_time_is_over_leaves_what_was_done_and_no_process(stand_in, tmp_path, monkeypatch):
    import gpu_training_commands as commands

    stand_in(f"""
        mkdir "$2"
        cd {tmp_path}
        echo stage 1
        bash -c 'trap "echo > saved; exit" TERM; echo $$ > polite; while :; do sleep 0.1; done' &
        bash -c 'trap "" TERM; echo $$ > stubborn; exec sleep 600'
    """)
    monkeypatch.setattr(commands, "GRACE_S", 3.0)
    found = commands.recipe(tmp_path, [], tmp_path, 6)
    assert found["exit"] is None
    assert found["failed"].startswith("stopped after 6 s, what was done stays: stage 1")
    assert (tmp_path / "recipe").is_dir()
    assert (tmp_path / "saved").exists(), "a training saves its state when it is told to end"
    for name in ("polite", "stubborn"):
        _wait_for_end(int((tmp_path / name).read_text(encoding="utf-8")))


def _wait_for_end(pid):
    """Until a process is gone, or dead and not yet waited for."""
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "."], "--recipe DATA and --held-out FILE... go together: give both, or neither"),
        (["--held-out", "."], "--recipe DATA and --held-out FILE... go together: give both, or neither"),
        (["--recipe", ".", "--held-out", "no-such.json"], "no-such.json is not there: "),
    ],
)
def test_a_recipe_is_told_what_it_must_not_train_on(run_script, capsys, options, message):
    with pytest.raises(SystemExit):
        run_script(*options)
    assert message in capsys.readouterr().err


def test_a_part_that_fails_ends_no_other(benchmarks, tmp_path):
    import gpu_training_parts

    report = gpu_training_parts.Report(tmp_path, seconds=60)
    report.part("bad", lambda: 1 / 0)
    report.part("good", lambda: [1])
    late = gpu_training_parts.Report(tmp_path / "late", seconds=-1)
    late.part("never", lambda: 1 / 0)
    assert report.parts["bad"]["found"] == {"failed": "ZeroDivisionError: division by zero"}
    assert report.parts["good"]["found"] == [1]
    assert json.loads((tmp_path / "gpu_training.json").read_text(encoding="utf-8")) == report.parts
    assert late.parts["never"]["found"] == {"failed": "the time was over"}


def test_the_products_of_a_step_are_counted(benchmarks):
    import gpu_training_parts as parts

    # 6 operations for each weight of the layers and each token, and the two products of the scores.
    config, length = parts.MEGATRON_345M, 384
    weights = config.num_layers * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    scores = config.num_layers * 12 * length * config.hidden_size
    assert parts.flops_per_window(config, length) == length * (6 * weights + scores)


def test_both_loops_are_timed_over_the_same_questions(benchmarks, tiny_checkpoint, real_questions, tmp_path):
    import training_turn

    write_squad(real_questions[:24], tmp_path / "questions.json")
    write_hugging_face(*load_checkpoint(tiny_checkpoint), tmp_path / "hugging-face")
    asked = {"precision": "32", "device": "cpu", "batch_size": 4, "steps": None, "recompute": False}
    asked |= {"by_tokens": False}
    asked |= {"checkpoint": str(tiny_checkpoint), "folder": str(tmp_path)}
    ours, recomputed = training_turn.ours(asked), training_turn.ours({**asked, "recompute": True})
    by_tokens, plain = training_turn.ours({**asked, "by_tokens": True}), training_turn.plain(asked)
    assert all(side[name] > 0 for side in (ours, recomputed, by_tokens, plain) for name in FIGURES)
    assert ours["padding_share"] < plain["padding_share"]
    assert recomputed["steps"] == ours["steps"] > 2
