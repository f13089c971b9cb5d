import itertools
import json
import math
import random

import numpy as np
import pytest

from spanqa.errors import DataError
from spanqa.score_scale import ScoreScale
from spanqa.squad import Example, GoldAnswer
from spanqa_client.reports.breakdown import fields_from_outcomes, question_word
from spanqa_client.reports.calibration import calibration_from_scores, fitted_scale
from spanqa_client.reports.comparison import mcnemar_test
from spanqa_client.reports.comparison_section import verdict
from spanqa_client.reports.outcomes import outcomes_from_scores
from spanqa_client.reports.report import BEST, FORCED, OWN, ZERO, report_from_run
from spanqa_client.reports.resampling import ParagraphDraws
from spanqa_client.reports.runs import Run, Said, read_run, write_run
from spanqa_client.reports.score_table import as_json
from spanqa_client.reports.selection import selection_from_margins

CONTEXT = "The bridge was built in 1907 by Anna Weiss and widened in 1950."


def example(name, question, answer="", *, context=CONTEXT, paragraph=0, title="Bridges"):
    answers = (GoldAnswer(answer, context.index(answer)),) if answer else ()
    return Example(id=name, question=question, context=context, title=title, answers=answers, paragraph=paragraph)


def said(text, *, context=CONTEXT, answered=True, margin=0.0, score=0.5):
    start = context.index(text)
    return Said(
        text=text,
        answered=answered,
        char_start=start,
        char_end=start + len(text),
        margin=margin,
        score=score,
        n_windows=1,
    )


@pytest.fixture(scope="module")
def squad_report(squad_run, squad_examples):
    return report_from_run(squad_run("bert_single_model"), squad_examples, against=squad_run("bidaf_elmo"))


def test_the_numbers_of_a_report_are_those_of_the_official_script(squad_report, squad):
    official = json.loads((squad / "official_scores.json").read_text())["bert_single_model"]["na_seed1_thresh0.5"]
    own = squad_report.rows[0]
    assert (own.name, json.dumps(own.scores)) == (OWN, json.dumps(official))
    best = next(row for row in squad_report.rows if row.name == BEST)
    # The official sweep may stop between equal values and ours may not: here no two of the best are equal.
    assert best.scores["f1"] == pytest.approx(official["best_f1"], abs=1e-9)


def plain_bootstrap(paragraphs, columns, *, n_resamples, seed):
    """Percentile intervals of means, draw after draw of whole paragraphs; NaN in a column counts for nothing."""
    counts, totals = np.zeros((max(paragraphs) + 1, len(columns))), np.zeros((max(paragraphs) + 1, len(columns)))
    for paragraph, *values in zip(paragraphs, *columns, strict=True):
        for place, value in enumerate(values):
            if not math.isnan(value):
                counts[paragraph, place] += 1
                totals[paragraph, place] += value
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(n_resamples):
        drawn = rng.integers(0, len(counts), len(counts))
        means.append(100 * totals[drawn].sum(axis=0) / counts[drawn].sum(axis=0))
    return np.percentile(means, [2.5, 97.5], axis=0).T


def test_intervals_are_those_of_a_plain_bootstrap_and_differences_are_paired(squad_report):
    found = squad_report.comparison
    outcomes, others = squad_report.outcomes, found.others
    columns = [
        [one.f1 for one in outcomes],
        [one.exact for one in outcomes],
        [one.f1 if one.example.answers else math.nan for one in outcomes],
        [math.nan if one.example.answers else one.exact for one in outcomes],
        [one.f1 - other.f1 for one, other in zip(outcomes, others, strict=True)],
    ]
    ours = [squad_report.rows[0].intervals[key] for key in ("f1", "exact", "HasAns_f1", "NoAns_exact")]
    plain = plain_bootstrap([one.example.paragraph for one in outcomes], columns, n_resamples=4000, seed=1)
    for interval, (low, high) in zip([*ours, found.f1.interval], plain, strict=True):
        assert interval == (pytest.approx(low, abs=0.1), pytest.approx(high, abs=0.1))


def test_a_comparison_counts_every_question_once(squad_report):
    found = squad_report.comparison
    pairs = list(zip(squad_report.outcomes, found.others, strict=True))
    assert found.f1.value == pytest.approx(100 * sum(a.f1 - b.f1 for a, b in pairs) / len(pairs))
    assert found.f1.p_value < 0.001
    assert sum(found.counts.values()) == len(pairs)
    assert found.counts["gained"] == sum(a.exact > b.exact for a, b in pairs)
    assert found.counts["lost"] == sum(a.exact < b.exact for a, b in pairs)
    assert sum(found.moves.values()) == found.n_differ


def test_a_run_against_itself_differs_in_nothing(squad_run, squad_examples):
    run = squad_run("bidaf_elmo")
    found = report_from_run(run, squad_examples[:500], against=run).comparison
    assert found.n_differ == 0
    assert (found.f1.value, found.f1.interval, found.f1.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert (found.mcnemar, found.mcnemar_mid) == (1.0, 1.0)


@pytest.mark.parametrize(("n_gained", "n_lost"), [(0, 1), (0, 6), (3, 9), (5, 5), (7, 8), (40, 60), (1102, 360)])
def test_mcnemar_is_the_binomial_sum(n_gained, n_lost):
    n, few = n_gained + n_lost, min(n_gained, n_lost)
    tail = sum(math.comb(n, k) for k in range(few + 1)) / 2**n
    equal = math.comb(n, few) / 2**n
    exact, mid = mcnemar_test(n_gained, n_lost)
    assert exact == pytest.approx(min(1, 2 * tail), rel=1e-9)
    # The mid-p takes half of what is as likely as what was seen, on both sides; at equal counts that is one outcome.
    assert mid == pytest.approx(1 - equal / 2 if n_gained == n_lost else 2 * tail - equal, rel=1e-9)


QUESTIONS = [
    (example("right", "When was it built?", "1907"), said("1907"), "right answer"),
    (example("null", "When did it fall?"), said("1950", answered=False), "right no answer"),
    (example("longer", "Who built it?", "Anna Weiss"), said("by Anna Weiss"), "boundary"),
    (example("elsewhere", "When was it widened?", "1950"), said("1907"), "wrong span"),
    (example("silent", "What was built?", "The bridge"), said("The bridge", answered=False), "false no answer"),
    (example("invented", "When was it sold?"), said("1950"), "false answer"),
    (example("lost", "Who widened it?", "Anna Weiss"), None, "missing"),
]


def run_of(rows, **facts):
    answers = {one.id: what for one, what, _ in rows if what}
    return Run(name="run", said=answers, **facts)


def test_every_outcome_has_its_kind():
    report = report_from_run(run_of(QUESTIONS), [one for one, _, _ in QUESTIONS])
    assert [outcome.kind for outcome in report.outcomes] == [kind for _, _, kind in QUESTIONS]
    assert report.warnings == ["1 question without a prediction, scored 0: lost"]


def test_an_answer_without_a_place_is_judged_by_its_words():
    longer = Said(text="by Anna Weiss", answered=True)
    other = Said(text="1907", answered=True)
    examples = [example("a", "Who?", "Anna Weiss"), example("b", "Who?", "Anna Weiss")]
    report = report_from_run(Run(name="run", said={"a": longer, "b": other}), examples)
    assert [outcome.kind for outcome in report.outcomes] == ["boundary", "wrong span"]


@pytest.mark.parametrize(("n_paragraphs", "is_shown"), [(2, False), (5, False), (12, True)])
def test_what_few_paragraphs_show_is_not_beyond_chance(n_paragraphs, is_shown):
    examples = [example(f"q{n}", "When?", "1907", context=f"{CONTEXT} {n}.", paragraph=n) for n in range(n_paragraphs)]
    right, wrong = (Run(name=text, said={one.id: said(text) for one in examples}) for text in ("1907", "1950"))
    comparison = report_from_run(right, examples, against=wrong).comparison
    assert comparison.f1.interval == pytest.approx((100, 100))
    assert comparison.f1.p_value >= 0.999 * 2 * 0.5**n_paragraphs
    assert ("beyond chance" in verdict(comparison)) == is_shown


def test_scores_are_json_whatever_they_are():
    values = {"threshold": math.inf, "intervals_95": {"f1": [math.nan, -math.inf]}, "f1": 0.5, "n": 3}
    assert as_json(values) == {"threshold": "inf", "intervals_95": {"f1": [None, "-inf"]}, "f1": 0.5, "n": 3}


def test_a_run_over_other_questions_is_no_comparison():
    rows = QUESTIONS[:2]
    with pytest.raises(DataError, match="lacks 1 of 2 questions, such as null"):
        report_from_run(run_of(rows), [one for one, _, _ in rows], against=run_of(rows[:1]))


def test_thresholds_without_margins_are_not_made_up():
    answers = {one.id: Said(text="1907", answered=True) for one, _, _ in QUESTIONS}
    report = report_from_run(Run(name="run", said=answers), [one for one, _, _ in QUESTIONS])
    assert [row.name for row in report.rows] == [OWN]
    assert (report.sweep, report.selection, report.calibrations) == (None, None, [])


def test_each_threshold_is_scored_as_the_margins_say():
    examples = [example(name, "When?", "1907", paragraph=n) for n, name in enumerate("abc")] + [example("d", "Why?")]
    answers = {name: said("1907", margin=margin) for name, margin in zip("abcd", (-3.0, -1.0, 2.0, 1.0), strict=True)}
    report = report_from_run(Run(name="run", said=answers, threshold=-2.0), examples)
    assert {row.name: row.scores["exact"] for row in report.rows} == {OWN: 50.0, ZERO: 75.0, BEST: 75.0, FORCED: 75.0}
    assert report.rows[-1].scores["HasAns_exact"] == 100.0


def naive_selection(margins, right):
    """Mean risk over the answers let in one by one; equal margins share the risk at their end."""
    order = sorted((m, r) for m, r in zip(margins, right, strict=True) if m < math.inf)
    risks = []
    for margin, _ in order:
        let_in = [r for m, r in order if m <= margin]
        risks.append(1 - sum(let_in) / len(let_in))
    return 100 * sum(risks) / len(risks)


def test_risk_over_coverage_is_its_definition():
    rng = random.Random(3)
    margins = [rng.choice([-3.0, -2.0, -1.5, 0.0, 0.5, 2.0, math.inf]) for _ in range(60)]
    right = [float(rng.random() < 0.6) if m < math.inf else 0.0 for m in margins]
    draws = ParagraphDraws(range(60), n_resamples=500)
    found = selection_from_margins(np.array(margins), np.array(right), np.array(right) > 0, draws)
    assert found.aurc == pytest.approx(naive_selection(margins, right))
    assert found.aurc_interval[0] < found.aurc < found.aurc_interval[1]
    assert found.best_aurc <= found.aurc
    answered = [r for m, r in zip(margins, right, strict=True) if m < math.inf]
    best = sorted(answered, reverse=True)
    ideal = [1 - sum(best[:n]) / n for n in range(1, len(best) + 1)]
    assert found.best_aurc == pytest.approx(100 * sum(ideal) / len(ideal))


def test_an_operating_point_answers_as_much_as_its_error_rate_allows():
    margins = np.arange(100.0)
    right = np.ones(100)
    right[[30, 60, 61, 62, 63, 64, 65, 66, 67, 68]] = 0
    found = selection_from_margins(margins, right, np.ones(100, dtype=bool), ParagraphDraws(range(100)))
    at = {point.error_rate: point for point in found.points}
    # One wrong of 30 is 3.3 %: at 1 % only what comes before it can be answered.
    assert (at[1].coverage, at[1].risk, at[1].threshold) == (30.0, 0.0, 29.5)
    # None wrong of 30 does not mean that none ever is: with 11.6 % wrong, that is seen once in 40 times.
    assert at[1].risk_interval == (0.0, pytest.approx(11.57, abs=0.01))
    assert (at[2].coverage, at[2].risk) == (60.0, pytest.approx(100 / 60))
    assert at[10].coverage == 100.0
    assert at[20].recall == 90.0
    for rate, point in at.items():
        assert point.risk <= rate


def test_no_threshold_is_given_where_the_rate_cannot_be_kept():
    found = selection_from_margins(np.arange(3.0), np.zeros(3), np.ones(3, dtype=bool), ParagraphDraws(range(3)))
    assert {point.threshold for point in found.points} == {None}


def test_calibration_is_the_mean_gap_of_ten_equal_bins():
    rng = np.random.default_rng(5)
    scores = rng.random(1000)
    right = (rng.random(1000) < scores**2).astype(float)
    found = calibration_from_scores(scores, right, ParagraphDraws(range(1000)), name="x", scale=None)
    bins = np.stack([scores, right])[:, scores.argsort()]
    gaps = [abs(bins[0, n : n + 100].mean() - bins[1, n : n + 100].mean()) for n in range(0, 1000, 100)]
    assert found.ece == pytest.approx(100 * np.mean(gaps))
    assert [one.n for one in found.bins] == [100] * 10
    assert found.ece_interval[0] < found.ece_interval[1]
    perfect = calibration_from_scores(
        scores, (rng.random(1000) < scores).astype(float), ParagraphDraws(range(1000)), name="x", scale=ScoreScale()
    )
    assert perfect.ece < found.ece


@pytest.mark.parametrize("made_by", [ScoreScale(0.5, 0.3, -0.8), ScoreScale(1.0, 1.0, 0.0), ScoreScale(2.0, 2.5, 1.0)])
def test_the_scale_that_made_the_scores_is_found_again(made_by):
    rng = np.random.default_rng(7)
    margins, gaps = rng.normal(0, 3, 40_000), rng.exponential(2, 40_000)

    def shares_at(temperature):
        # Two spans, the second of them that much behind.
        return 1 / (1 + np.exp(-gaps / temperature))

    answers = np.array([made_by.answer_probability(margin, 1.0) for margin in margins])
    right = (rng.random(40_000) < answers * shares_at(made_by.temperature)).astype(float)
    fitted = fitted_scale(shares_at, margins, right)
    assert fitted.temperature == pytest.approx(made_by.temperature, rel=0.2)
    assert (fitted.slope, fitted.offset) == (
        pytest.approx(made_by.slope, rel=0.1),
        pytest.approx(made_by.offset, abs=0.1),
    )


@pytest.mark.parametrize("shift", [-100.0, -30.0, 20.0, 40.0, 300.0])
@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
def test_where_margins_lie_moves_the_offset_alone(shift, spread):
    rng = np.random.default_rng(3)
    margins = rng.normal(0, spread, 400)
    right = (rng.random(400) < 0.9 / (1 + np.exp(2 * margins / spread))).astype(float)

    def fitted_at(moved):
        return fitted_scale(lambda temperature: np.full(400, 0.9), margins + moved, right)

    here, there = fitted_at(0.0), fitted_at(shift)
    assert there.slope == pytest.approx(here.slope, rel=1e-3)
    assert there.offset == pytest.approx(here.offset + here.slope * shift, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("margins", "right"),
    [
        ([-5.0] * 50 + [5.0] * 50, [1.0] * 50 + [0.0] * 50),
        ([-5.0] * 50 + [5.0] * 50, [0.0] * 50 + [1.0] * 50),
        ([-50.0] * 50 + [50.0] * 50, [1.0] * 100),
        ([0.0] * 100, [0.0] * 100),
    ],
)
def test_questions_that_tell_too_much_or_nothing_fit_a_finite_scale(margins, right):
    fitted = fitted_scale(lambda temperature: np.full(100, 0.99), np.array(margins), np.array(right))
    scores = [0.99 * fitted.answer_probability(margin, 1.0) for margin in sorted(margins)]
    assert fitted.slope > 0
    assert np.mean(scores) == pytest.approx(np.mean(right), abs=0.03)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What is it?", "what"),
        ("In which year?", "which"),
        ("How many people?", "how many"),
        ("How did it end?", "how"),
        ("To whom was it given?", "who"),
        ("Name the city.", "none of these"),
        ("WHERE'S it?", "where"),
    ],
)
def test_question_words(question, word):
    assert question_word(question) == word


def test_parts_add_up_and_a_column_of_ones_own_is_one_of_them():
    examples = [one for one, _, _ in QUESTIONS]
    run = run_of(QUESTIONS)
    outcomes = outcomes_from_scores(run, examples, [1.0, 1, 0, 0, 0, 0, 0], [1.0, 1, 0.8, 0, 0, 0, 0])
    column = {"right": "easy", "null": "easy\0", "longer": "hard"}
    fields = fields_from_outcomes(outcomes, {"level": column}, ParagraphDraws([one.paragraph for one in examples]))
    assert [field.name for field in fields] == [
        *("answerability", "question word", "answer length", "context length", "windows", "level"),
    ]
    assert all(sum(part.n for part in field.parts) == 7 for field in fields)
    level = {part.value: (part.n, part.exact) for part in fields[-1].parts}
    assert level == {"(none)": (4, 0.0), "easy": (1, 100.0), "easy\0": (1, 100.0), "hard": (1, 0.0)}


def test_a_field_of_many_values_shows_the_largest():
    numbers = list(itertools.chain(range(60), range(30), range(30)))
    examples = [example(str(place), "When?", "1907", title=f"t{number}") for place, number in enumerate(numbers)]
    answers = {one.id: said("1907") for one in examples}
    report = report_from_run(Run(name="run", said=answers), examples)
    title = next(field for field in report.fields if field.name == "title")
    assert len(title.parts) == 40
    assert {part.value: part.n for part in title.parts}["all others"] == 120 - 30 * 3 - 9
    others = [example(f"o{place}", "When?", "1907", title="all others") for place in range(5)]
    answers |= {one.id: said("1907") for one in others}
    report = report_from_run(Run(name="run", said=answers), [*examples, *others])
    title = next(field for field in report.fields if field.name == "title")
    assert sum(part.n for part in title.parts) == 125


def test_a_run_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "run.json"
    run = Run(
        name="half \ud800 of a pair",
        facts={"dataset": "x"},
        threshold=math.inf,
        scale=ScoreScale(1.5, 0.5, -0.25),
        said={
            "a": said("1907"),
            "b": Said(text="", answered=False, margin=math.inf),
            "c": Said(text="x", answered=True),
        },
    )
    write_run(path, run)
    assert read_run(path) == run
    # One of before there was more than a temperature.
    document = json.loads(path.read_text("utf-8"))
    del document["answer_slope"], document["answer_offset"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_run(path).scale == ScoreScale(1.5)
    path.write_text(json.dumps(document | {"temperature": 0.0}), encoding="utf-8")
    with pytest.raises(DataError, match=r"run.json: is damaged .*temperature is 0.0"):
        read_run(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.clear(), "is no run: give a file that --save-run wrote"),
        (lambda document: document.update(format_version=9), "is a run of version 9 and this spanqa reads 1"),
        (lambda document: document["said"]["a"].update(text=5), "is damaged"),
        (lambda document: document["said"]["a"].update(char_start="0"), "is damaged"),
        (lambda document: document["said"]["a"].pop("margin"), "is damaged"),
        (lambda document: document.update(threshold="nan"), "is damaged"),
        (lambda document: document.update(said=[]), "is damaged"),
    ],
)
def test_a_damaged_run_is_one_sentence(tmp_path, change, message):
    path = tmp_path / "run.json"
    write_run(path, Run(name="run", said={"a": said("1907")}))
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        read_run(path)
