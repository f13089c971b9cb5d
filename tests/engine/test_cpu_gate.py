"""A network that rounds passes or not by what it answers and by its logits, on few questions and on many."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa_build.cpu_choice import preferred
from spanqa_build.cpu_gate import MAX_LOGIT_ERROR, Paired, verdict_of
from spanqa_build.errors import BuildError
from spanqa_build.parity import _logit_error
from spanqa_client.gold import GoldQuestion

FEW = settings(max_examples=20, deadline=None, derandomize=True)
FEWER = settings(FEW, max_examples=8)
"""Where each example is an interval over 2,000 questions."""


def paired(differences, *, logit_error=0.04, per_paragraph=1):
    questions = [
        GoldQuestion(id=str(place), answers=("x",) if place % 2 else (), paragraph=place // per_paragraph)
        for place in range(len(differences))
    ]
    return Paired(questions=questions, exact=differences, f1=differences, logit_error=logit_error)


def drawn(n_questions, *, lost, won, seed):
    """Differences of a network that really loses and wins such shares of the questions."""
    rng = random.Random(seed)
    return rng.choices([-1.0, 1.0, 0.0], weights=[lost, won, 1 - lost - won], k=n_questions)


@pytest.mark.parametrize("place", [0, 40, 97])
def test_one_changed_answer_of_98_passes_and_is_no_proof(place):
    differences = [0.0] * 98
    differences[place] = -1.0
    verdict = verdict_of(paired(differences))
    assert verdict.passes
    assert not verdict.is_told
    assert "98 questions are too few to tell a loss of 0.5 points: F1 -1.02 points (95 %: -3.06" in verdict.reason


@FEWER
@given(seed=st.integers(0, 10_000), churn=st.sampled_from([0.0, 0.02, 0.05]))
def test_a_network_really_worse_by_three_points_on_2000_is_refused(seed, churn):
    differences = drawn(2000, lost=0.03 + churn, won=churn, seed=seed)
    verdict = verdict_of(paired(differences, per_paragraph=3))
    if sum(differences) <= -40:  # the draw itself lost two points: chance alone seldom takes a third away
        assert not verdict.passes
        assert verdict.is_told


@FEWER
@given(seed=st.integers(0, 10_000))
def test_a_network_that_changes_nothing_on_average_passes(seed):
    differences = drawn(2000, lost=0.02, won=0.02, seed=seed)
    if sum(differences) > -10:
        assert verdict_of(paired(differences, per_paragraph=3)).passes


def test_many_questions_tell():
    verdict = verdict_of(paired(drawn(20_000, lost=0.003, won=0.003, seed=1), per_paragraph=20))
    assert verdict.passes
    assert verdict.is_told


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_answering_better_is_never_refused(differences):
    assert verdict_of(paired(differences)).passes


@FEW
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5]), min_size=20, max_size=60), st.integers(0, 19))
def test_what_is_refused_is_refused_when_it_answers_worse_still(differences, place):
    worse = [*differences]
    worse[place] -= 0.5
    assert verdict_of(paired(differences)).passes or not verdict_of(paired(worse)).passes


@FEW
@given(logit_error=st.floats(MAX_LOGIT_ERROR, 1e6, exclude_min=True), gain=st.floats(0, 1))
def test_logits_far_off_are_refused_whatever_is_answered(logit_error, gain):
    verdict = verdict_of(paired([gain] * 50, logit_error=logit_error))
    assert not verdict.passes
    assert verdict.is_told


def test_logits_that_are_no_numbers_are_refused():
    assert not verdict_of(paired([0.0] * 50, logit_error=float("nan"))).passes


@FEW
@given(seed=st.integers(0, 10_000), n_windows=st.integers(1, 5))
def test_a_network_of_noise_is_off_by_more_than_the_spread(seed, n_windows):
    rng = np.random.default_rng(seed)
    shape = n_windows, 120
    right = [tuple(rng.normal(scale=2.0, size=shape).astype(np.float32) for _ in range(2))]
    noise = [tuple(rng.normal(scale=2.0, size=shape).astype(np.float32) for _ in range(2))]
    error = _logit_error(right, noise)
    assert error > 1.0 > MAX_LOGIT_ERROR
    assert not verdict_of(paired([0.0] * 50, logit_error=error)).passes
    assert _logit_error(right, right) == 0.0


def test_padding_counts_for_nothing():
    right, built = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32)
    right[0, :4], built[0, :4] = [1, -1, 1, -1], [1.1, -1.1, 0.9, -0.9]
    assert _logit_error([(right, right)], [(built, built)]) == pytest.approx(0.1, rel=1e-5)


def test_a_second_dataset_stands_beside_the_first():
    both = paired([0.0, -1.0], logit_error=0.01).joined(paired([1.0, 0.0, 0.0], logit_error=0.03))
    assert [question.paragraph for question in both.questions] == [0, 1, 2, 3, 4]
    assert both.exact == both.f1 == [0.0, -1.0, 1.0, 0.0, 0.0]
    assert both.logit_error == 0.03


SPEEDS = st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 100), min_size=1)


@FEW
@given(SPEEDS, st.randoms(use_true_random=False))
def test_accuracy_is_the_most_faithful_within_a_tenth_and_speed_the_fastest(speeds, rng):
    errors = {name: rng.random() for name in speeds}
    assert speeds[preferred(speeds, errors, "speed")] == max(speeds.values())
    chosen = preferred(speeds, errors, "accuracy")
    close = [name for name in speeds if speeds[name] >= 0.9 * max(speeds.values())]
    assert chosen in close
    assert errors[chosen] == min(errors[name] for name in close)


def test_nothing_that_passes_is_an_error():
    with pytest.raises(BuildError, match="no network answers as the checkpoint does"):
        preferred({}, {}, "speed")
