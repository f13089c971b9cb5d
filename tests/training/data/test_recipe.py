"""The data of the default model: nothing is trained on that is scored on, or that a threshold is fitted on."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from spanqa.squad import Example
from spanqa_training.commands.negatives import write_squad

RECIPE = Path(__file__).parents[3] / "training" / "recipes" / "minilm_data.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("minilm_data", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
