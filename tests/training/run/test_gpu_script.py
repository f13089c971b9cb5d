"""The scripts that measure training go their whole road on a CPU, with a small model."""

import json

import pytest

from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.weights.hugging_face import write_hugging_face

FIGURES = ("questions_per_s", "windows_per_s", "tokens_per_s", "peak_mb")


@pytest.fixture
def benchmarks(root, monkeypatch):
    """The folder of the scripts, to import from."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))


def test_the_gpu_script_does_every_part_and_writes_what_it_found(benchmarks, tmp_path, monkeypatch, capsys):
    import gpu_training

    options = ["-o", str(tmp_path), "--device", "cpu", "--tiny", "--skip-tests"]
    monkeypatch.setattr("sys.argv", ["gpu_training.py", *options])
    assert gpu_training.main() == 0
    parts = json.loads((tmp_path / "gpu_training.json").read_text(encoding="utf-8"))
    assert list(parts) == ["dense rate", "rates", "loss curves", "loss scaling"]
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
    asked |= {"checkpoint": str(tiny_checkpoint), "folder": str(tmp_path)}
    ours, recomputed = training_turn.ours(asked), training_turn.ours({**asked, "recompute": True})
    plain = training_turn.plain(asked)
    assert all(side[name] > 0 for side in (ours, recomputed, plain) for name in FIGURES)
    assert ours["padding_share"] < plain["padding_share"]
    assert recomputed["steps"] == ours["steps"] > 2
