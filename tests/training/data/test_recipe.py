"""The default model's recipe: nothing is trained on that is scored on or fitted on, and weights are averaged."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from spanqa.squad import Example
from spanqa_training.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.errors import CheckpointError
from spanqa_training.model import SpanModel

RECIPES = Path(__file__).parents[3] / "training" / "recipes"


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
