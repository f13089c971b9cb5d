"""The default model's recipe: what it trains on, what it averages, and its script from base weights to a repository."""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spanqa.cli import COMMANDS
from spanqa.squad import Example
from spanqa_training.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.errors import CheckpointError
from spanqa_training.model import SpanModel

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
STAND_IN = """\
#!{python} -IS
import json, sys
from pathlib import Path

name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
with open("{calls}", "a") as calls:
    print(json.dumps([name, *arguments]), file=calls)
if arguments[0] == "-c":
    print("/installed")
after = {{one: Path(other) for one, other in zip(arguments, arguments[1:])}}
shares = [Path(one.rpartition("=")[0]) for one in arguments if one[-1].isdigit() and "/" in one and "=" in one]
models = [after["-m"]] if name == "spanqa" and "-m" in after else []
missing = [path for path in shares + models if not path.exists()]
if missing:
    sys.exit(f"{{name}} {{arguments}}: {{missing}} is not there")
for option in ("-o", "-r"):
    if option in after:
        after[option].mkdir(parents=True, exist_ok=True)
if arguments[0] == "train":
    checkpoints = after["-r"] / "checkpoints"
    checkpoints.mkdir()
    for ending in (".tlt", "--val_loss=0.4-step=1803.ckpt", "--val_loss=0.5-step=900.ckpt"):
        (checkpoints / f"trained-model{{ending}}").touch()
"""
"""Notes what it is asked, and writes what training does; what it is to read must be there."""


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    return module_of("minilm_data")


@pytest.fixture(scope="module")
def averaging():
    return module_of("minilm_average")


@pytest.fixture
def run_recipe(tmp_path):
    """Run minilm.sh with stand-ins for `spanqa` and `python`; gives the calls in order."""

    def run(*held_out, **variables):
        calls = tmp_path / "calls.jsonl"
        (tmp_path / "bin").mkdir()
        for name in ("spanqa", "python"):
            (tmp_path / "bin" / name).write_text(STAND_IN.format(python=sys.executable, calls=calls), encoding="utf-8")
            (tmp_path / "bin" / name).chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "SPANQA_BASE"} | variables
        environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
        command = [RECIPES / "minilm.sh", "data", tmp_path / "results", *held_out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]

    return run


def about(context):
    return Example(id=context, title="", paragraph=0, question="?", context=context, answers=())


def test_a_passage_that_shares_eight_words_in_a_row_is_left_out(recipe):
    others = [about("In short, one two three four five six seven eight."), about("too short")]
    eight, seven = about("ONE two three, four five (six) seven eight"), about("one two three four five six seven nine")
    assert recipe.apart([eight, seven, about("too short")], others) == [seven, about("too short")]


def test_no_stage_trains_on_an_article_that_is_held_back(recipe, real_questions, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "N_MADE", 6)
    names = ("articles19.json", *recipe.TRAINING_SET, *recipe.OTHERS, *recipe.LIKE_SQUAD, recipe.STORIES)
    for number, name in enumerate(dict.fromkeys(names)):
        title = recipe.HELD_BACK_TITLES[number % len(recipe.HELD_BACK_TITLES)]
        held_back, trained = real_questions[0], real_questions[1 + 8 * number : 9 + 8 * number]
        write_squad([dataclasses.replace(held_back, id=name, title=title), *trained], tmp_path / name)
    files = recipe.last_stages(tmp_path)
    assert set(files) == {"questions.json", "squad.json", recipe.HELD_BACK}
    assert {example.title for example in files.pop(recipe.HELD_BACK)} <= set(recipe.HELD_BACK_TITLES)
    for examples in files.values():
        assert len(examples) > 40
        assert not {example.title for example in examples} & set(recipe.HELD_BACK_TITLES)


def test_real_passages_are_told_apart(recipe, real_questions):
    held_back, trained = real_questions[:40], real_questions[20:60]
    kept = recipe.apart(trained, held_back)
    assert 0 < len(kept) < len(trained)
    assert not {example.context for example in kept} & {example.context for example in held_back}


def test_weights_are_averaged_and_no_metrics_are_kept(averaging, tiny_checkpoint, tmp_path):
    checkpoint, model = load_checkpoint(tiny_checkpoint)
    other = SpanModel(checkpoint.encoder)
    save_checkpoint(dataclasses.replace(checkpoint, metrics={"f1": 1}), other, tmp_path / "other")
    averaged, weights = averaging.average([(tmp_path / "other", 0.75), (tiny_checkpoint, 0.25)])
    expected = 0.75 * other.head.weight + 0.25 * model.head.weight
    torch.testing.assert_close(weights.head.weight, expected)
    assert averaged.metrics == {}
    told = averaged.provenance["averaged"]
    assert [(Path(one["name"]).name, one["share"]) for one in told] == [("other", 0.75), ("tiny", 0.25)]


def test_what_cannot_be_averaged_is_refused(averaging, tiny_checkpoint, still_checkpoint):
    with pytest.raises(CheckpointError, match=r"shares add up to 0\.75: they must to 1"):
        averaging.average([(tiny_checkpoint, 0.5), (tiny_checkpoint, 0.25)])
    with pytest.raises(CheckpointError, match=r"still: is of another architecture or vocabulary than .*tiny"):
        averaging.average([(tiny_checkpoint, 0.5), (still_checkpoint, 0.5)])


def test_the_script_goes_from_base_weights_to_a_repository_and_scores(run_recipe, tmp_path):
    calls = run_recipe("one.json", "other held out.json", SPANQA_BASE="/weights")
    asked = [arguments for name, *arguments in calls if name == "spanqa"]
    model, repository = str(tmp_path / "results" / "spanqa-minilm"), str(tmp_path / "results" / "model_repository")
    assert not any("pip" in call for call in calls)
    assert asked[0][:2] == ["import", "/weights"]
    assert [arguments[0] for arguments in asked].count("train") == 5
    assert asked[-3:] == [
        ["build", "-m", model, "-o", repository, "--engine", "onnxruntime"],
        ["evaluate", "-m", model, "one.json", "--intervals"],
        ["evaluate", "-m", model, "other held out.json", "--intervals"],
    ]
    [prepared] = [call for call in calls if "--apart-from" in call]
    assert prepared[prepared.index("--apart-from") + 1 :] == ["one.json", "other held out.json"]
    [averaged] = [call for call in calls if call[1].endswith("minilm_average.py")]
    assert sum("step=900.ckpt=0.125" in argument for argument in averaged) == 1, "the end of the first epoch"
    for command, *arguments in asked:
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(COMMANDS[command].module).configure(parser)
        parser.parse_intermixed_args(arguments)


def test_the_script_installs_base_weights_where_none_are_named_and_scores_on_nothing_else(run_recipe):
    calls = run_recipe(SPANQA_BASE="")
    assert calls[0][1:4] == ["-m", "pip", "install"]
    assert calls[2][:3] == ["spanqa", "import", "/installed/model"]
    assert calls[-1][:2] == ["spanqa", "build"]
