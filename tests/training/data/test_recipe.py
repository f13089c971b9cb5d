"""The data of the default model: nothing is trained on that is scored on, or that a threshold is fitted on."""

import importlib.util
from pathlib import Path

import pytest

from spanqa.squad import Example

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


def test_real_passages_are_told_apart(recipe, real_questions):
    held_back, trained = real_questions[:40], real_questions[20:60]
    kept = recipe.apart(trained, held_back)
    assert 0 < len(kept) < len(trained)
    assert not {example.context for example in kept} & {example.context for example in held_back}
