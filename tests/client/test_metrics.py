import json
import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.datasets import read_dataset
from spanqa.errors import DataError
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import (
    GoldQuestion,
    gold_from_examples,
    raw_scores,
    score_predictions,
    token_f1,
    tuned_from_margins,
)
from spanqa_client.normalize import normalized_words
from spanqa_client.predictions import read_na_probs, read_predictions
from spanqa_client.thresholds import tune_threshold


@pytest.fixture(scope="module")
def squad_dev(request):
    data = request.path.parents[1] / "data" / "squad"
    return gold_from_examples(read_dataset(data / "dev-v2.0.json.gz"))


@pytest.mark.parametrize(
    ("system", "variant", "with_na_probs", "options"),
    [
        ("bert_single_model", "plain", False, {}),
        ("bert_single_model", "na_seed1", True, {}),
        ("bert_single_model", "na_seed1_thresh0.5", True, {"na_prob_thresh": 0.5}),
        ("bidaf_elmo", "plain", False, {}),
        ("bidaf_elmo", "na_seed1", True, {}),
    ],
)
def test_every_official_number_is_equal_to_the_last_bit(squad_dev, data, system, variant, with_na_probs, options):
    official = json.loads((data / "official_scores.json").read_text())[system]
    na_probs = read_na_probs(data / "na_probs_seed1.json.gz") if with_na_probs else None
    predictions = read_predictions(data / f"predictions_{system}.json.gz")
    report = score_predictions(squad_dev, predictions, na_probs=na_probs, **options)
    # As text, so that key order and number types count too.
    assert json.dumps(report.scores) == json.dumps(official[variant])
    assert report.missing == report.unknown == ()
    assert report.warnings() == []


def words_by_definition(text):
    without_punctuation = "".join(char for char in text.lower() if char not in string.punctuation)
    return tuple(re.sub(r"\b(a|an|the)\b", " ", without_punctuation).split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Cat's a.m.", ("cats", "am")),
        ("3,000", ("3000",)),
        ("twenty-one", ("twentyone",)),
        ("“the” end", ("“", "”", "end")),
        ("a–b", ("–b",)),
        ("caf\u00e9\u00a0an Élan", ("caf\u00e9", "élan")),
        ("the a an", ()),
        ("a_b an_", ("ab",)),
        ("x\0the", ("x\0",)),
        ("theatre anthem", ("theatre", "anthem")),
    ],
)
def test_words_are_normalised_as_squad_does(text, words):
    assert normalized_words(text) == words == words_by_definition(text)


@settings(deadline=None)  # of texts and not of a busy machine
@given(st.lists(st.sampled_from(["the", "A", "an", " ", "\0", "\x1c", "“", "–", ".", "_", "İ", "é", "x", "\u00a0"])))
def test_normalisation_equals_its_definition_on_hard_texts(pieces):
    text = "".join(pieces)
    assert normalized_words(text) == words_by_definition(text)


@settings(deadline=None)  # of texts and not of a busy machine
@given(st.text())
def test_normalisation_equals_its_definition_on_any_text(text):
    assert normalized_words(text) == words_by_definition(text)


def f1_by_definition(predicted, gold):
    if not predicted or not gold:
        return float(predicted == gold)
    n_same = sum((Counter(predicted) & Counter(gold)).values())
    if n_same == 0:
        return 0.0
    precision, recall = n_same / len(predicted), n_same / len(gold)
    return (2 * precision * recall) / (precision + recall)


@settings(deadline=None)  # of texts and not of a busy machine
@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abcd"), max_size=40))
def test_token_f1_equals_its_definition_bit_by_bit(predicted, gold):
    assert token_f1(predicted, gold) == f1_by_definition(predicted, gold)


def gold(name, *answers, paragraph=0):
    return GoldQuestion(id=name, answers=answers, paragraph=paragraph)


def test_the_best_gold_answer_counts_for_exact_and_f1_separately():
    exact, f1 = raw_scores([gold("q", "red house", "blue")], {"q": "the red car"})
    assert (exact, f1) == ([0.0], [0.5])


def test_gold_answers_of_articles_only_are_dropped():
    questions = [gold("one", "the", "cat"), gold("none", "The")]
    assert raw_scores(questions, {"one": "a", "none": "a"})[0] == [0.0, 1.0]
    report = score_predictions(questions, {"one": "cat", "none": ""})
    assert report.scores["HasAns_total"] == 2
    assert "NoAns_total" not in report.scores
    assert report.scores["exact"] == 100.0


def test_missing_predictions_score_0_and_stay_in_the_denominators():
    questions = [gold("a", "cat"), gold("b", "dog"), gold("c"), gold("d")]
    report = score_predictions(questions, {"a": "cat", "c": "", "zzz": "x"})
    assert report.scores == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }
    assert report.missing == ("b", "d")
    assert report.unknown == ("zzz",)
    assert report.warnings() == [
        "2 questions without a prediction, scored 0: b, d",
        "1 prediction for ids not in the dataset: zzz",
    ]


def test_missing_predictions_gain_nothing_from_a_sweep_either():
    questions = [gold("a", "cat"), gold("b"), gold("c")]
    na_probs = {"a": 0.1, "b": 0.2, "c": 0.3}
    report = score_predictions(questions, {"a": "cat", "b": ""}, na_probs=na_probs, na_prob_thresh=0.0)
    assert report.scores["exact"] == pytest.approx(100 / 3)  # b, by "no answer"; a was withdrawn, c is missing
    assert report.scores["best_exact"] == pytest.approx(200 / 3)
    assert report.tuned["tuned_exact"] == pytest.approx(200 / 3)


def test_a_value_equal_to_the_threshold_keeps_the_prediction():
    questions = [gold("a", "cat"), gold("b", "dog")]
    report = score_predictions(
        questions, {"a": "cat", "b": "dog"}, na_probs={"a": 0.5, "b": 0.5000001}, na_prob_thresh=0.5
    )
    assert report.exact == [1.0, 0.0]


def test_the_official_sweep_depends_on_the_order_of_ties_and_ours_does_not():
    questions = [gold("yes", "cat"), gold("no")]
    predictions = {"yes": "cat", "no": "dog"}
    forwards = score_predictions(questions, predictions, na_probs={"yes": 0.0, "no": 0.0})
    backwards = score_predictions(questions, predictions, na_probs={"no": 0.0, "yes": 0.0})
    assert (forwards.scores["best_exact"], backwards.scores["best_exact"]) == (100.0, 50.0)
    assert forwards.tuned["tuned_exact"] == backwards.tuned["tuned_exact"] == 50.0


def test_a_predicted_question_without_a_no_answer_value_is_named():
    with pytest.raises(DataError, match="1 predicted question without a no-answer value: b"):
        score_predictions([gold("a"), gold("b")], {"a": "", "b": ""}, na_probs={"a": 0.0})


def test_an_empty_dataset_is_refused():
    with pytest.raises(DataError, match="nothing to score"):
        score_predictions([], {})


def test_a_threshold_lies_midway_after_the_last_margin_let_in():
    best = tune_threshold(margins=[3.0, -4.0, -1.0], answered_scores=[0.0, 1.0, 1.0], null_scores=[1.0, 0.0, 0.0])
    assert (best.threshold, best.total) == (1.0, 3.0)


def test_nothing_worth_answering_gives_minus_infinity_and_all_worth_it_infinity():
    never = tune_threshold(margins=[0.0, 1.0], answered_scores=[0.0, 0.0], null_scores=[1.0, 0.0])
    always = tune_threshold(margins=[0.0, 1.0], answered_scores=[1.0, 0.5], null_scores=[0.0, 0.0])
    assert (never.threshold, never.total) == (float("-inf"), 1.0)
    assert (always.threshold, always.total) == (float("inf"), 1.5)


def test_a_question_without_any_span_stays_unanswered():
    best = tune_threshold(margins=[0.0, float("inf")], answered_scores=[1.0, 0.0], null_scores=[0.0, 1.0])
    assert best.total == 2.0


@pytest.mark.parametrize("margin", [float("nan"), float("-inf")])
def test_margins_that_cannot_be_ordered_are_refused(margin):
    with pytest.raises(DataError, match="margins must be finite"):
        tune_threshold(margins=[margin], answered_scores=[1.0], null_scores=[0.0])


def test_lengths_that_differ_are_refused():
    with pytest.raises(DataError, match="2 margins, 1 scores of answers and 1 of no answer"):
        tune_threshold(margins=[1.0, 2.0], answered_scores=[1.0], null_scores=[0.0])


@settings(deadline=None)  # of texts and not of a busy machine
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1)
)
def test_the_tuned_threshold_is_the_best_of_all_thresholds(rows):
    margins, answered, null = (list(map(float, column)) for column in zip(*rows, strict=True))

    def total(threshold):
        return sum(a if m <= threshold else n for m, a, n in zip(margins, answered, null, strict=True))

    best = tune_threshold(margins=margins, answered_scores=answered, null_scores=null)
    assert best.total == total(best.threshold)
    assert best.total == max(total(threshold) for threshold in [float("-inf"), *margins])


def test_tuning_a_dataset_counts_every_question():
    questions = [gold("a", "cat"), gold("b"), gold("gone")]
    exact, _ = raw_scores(questions, {"a": "cat", "b": "dog"})
    assert tuned_from_margins(questions, exact, {"a": -1.0, "b": 2.0}) == (pytest.approx(200 / 3), 0.5)


def test_intervals_enclose_the_averages_and_repeat_with_the_seed(squad_dev, data):
    predictions = read_predictions(data / "predictions_bidaf_elmo.json.gz")
    report = score_predictions(squad_dev, predictions)
    intervals = bootstrap_intervals(squad_dev, report.exact, report.f1, n_resamples=200)
    assert list(intervals) == ["exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"]
    for name, (low, high) in intervals.items():
        # About two points wide: 11,873 questions in 1,204 paragraphs.
        assert low < report.scores[name] < high
        assert 1.0 < high - low < 5.0
    assert intervals == bootstrap_intervals(squad_dev, report.exact, report.f1, n_resamples=200)
    assert intervals != bootstrap_intervals(squad_dev, report.exact, report.f1, n_resamples=200, seed=1)


def test_intervals_resample_paragraphs_and_not_questions():
    # 20 paragraphs of 50 questions, each all right or all wrong: only 20 independent draws.
    questions = [gold(f"{p}-{i}", "x", paragraph=p) for p in range(20) for i in range(50)]
    exact = [float(question.paragraph % 2) for question in questions]
    low, high = bootstrap_intervals(questions, exact, exact)["exact"]
    # Binomial with n = 20: 1.96 * sqrt(0.25 / 20) = 22 points to each side; questions would give 3.
    assert 15 < 50 - low < 30
    assert 15 < high - 50 < 30


def test_one_paragraph_gives_an_interval_of_no_width():
    assert bootstrap_intervals([gold("a", "x"), gold("b", "y")], [1.0, 0.0], [1.0, 0.0])["exact"] == (50.0, 50.0)


@pytest.mark.parametrize("options", [{"n_resamples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_intervals_refuse_settings_out_of_range(options):
    with pytest.raises(DataError, match="allowed are"):
        bootstrap_intervals([gold("a", "x")], [1.0], [1.0], **options)
