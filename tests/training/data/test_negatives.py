"""Made unanswerable questions are unanswerable, reproducible and labelled with where they come from."""

import pytest

from spanqa.cli import main
from spanqa.datasets import read_dataset
from spanqa.errors import DataError
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.negatives import make_negatives


def test_a_moved_question_stands_at_another_passage_of_its_article_without_its_answer(real_questions):
    by_id = {example.id: example for example in real_questions}
    moved = [e for e in make_negatives(real_questions, count=20, seed=1) if e.id.startswith("moved-")]
    assert moved
    for negative in moved:
        source = by_id[negative.id.removeprefix("moved-")]
        assert negative.question == source.question
        assert negative.title == source.title
        assert negative.paragraph != source.paragraph
        assert not any(answer.text.lower() in negative.context.lower() for answer in source.answers)
        assert negative.answers == ()


def test_an_edited_question_asks_its_own_passage_for_what_it_does_not_hold(real_questions):
    by_id = {example.id: example for example in real_questions}
    edited = [e for e in make_negatives(real_questions, count=60, seed=1) if e.id.startswith("edited-")]
    assert edited
    for negative in edited:
        source = by_id[negative.id.removeprefix("edited-")]
        assert negative.context == source.context
        before, after = source.question.split(), negative.question.split()
        new = [word.strip("?,.'") for word in after if word not in before]
        assert new
        assert any(word not in source.context for word in new)


def test_the_same_seed_makes_the_same_questions(real_questions):
    made = [[e.id for e in make_negatives(real_questions, count=20, seed=seed)] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_what_is_written_reads_back(real_questions, tmp_path):
    made = make_negatives(real_questions, count=20, seed=1)
    write_squad(made, tmp_path / "made.json")
    back = read_dataset(tmp_path / "made.json")
    assert [(e.id, e.question, e.context, e.answers) for e in back] == [
        (e.id, e.question, e.context, e.answers) for e in made
    ]


def test_questions_that_cannot_be_turned_are_refused(real_questions):
    with pytest.raises(DataError, match="no unanswerable question can be made from 0 answerable ones"):
        make_negatives([e for e in real_questions if not e.answers], count=1, seed=1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-o", "data.json"], "data.json: is the dataset itself, which would be lost"),
        (["-o", "out.json", "--count", "0"], "--count 0: give how many questions to make, 1 or more"),
    ],
)
def test_the_command_writes_over_no_dataset_and_makes_some(
    tmp_path, monkeypatch, real_questions, capsys, more, message
):
    monkeypatch.chdir(tmp_path)
    write_squad(real_questions[:40], tmp_path / "data.json")
    before = (tmp_path / "data.json").read_bytes()
    assert main(["negatives", "data.json", *more]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "data.json").read_bytes() == before
    assert not (tmp_path / "out.json").exists()


def test_fewer_questions_than_asked_for_are_told(tmp_path, real_questions, capsys):
    write_squad(real_questions[:40], tmp_path / "data.json")
    assert main(["negatives", str(tmp_path / "data.json"), "-o", str(tmp_path / "out.json"), "--count", "5000"]) == 0
    assert " of the 5,000 asked for, as the dataset yields no more " in capsys.readouterr().out


def test_a_cut_question_stands_at_its_passage_without_the_sentences_of_its_answer(real_questions):
    by_id = {example.id: example for example in real_questions}
    cut = make_negatives(real_questions, count=20, seed=1, shares={"cut": 1.0})
    assert len(cut) == 20
    for negative in cut:
        source = by_id[negative.id.removeprefix("cut-")]
        assert (negative.question, negative.title, negative.answers) == (source.question, source.title, ())
        assert len(negative.context) < len(source.context)
        assert not any(answer.text.lower() in negative.context.lower() for answer in source.answers)
        kept, words = negative.context.split(), source.context.split()
        assert [word for word in words if word in set(kept)][: len(kept)]
        assert set(kept) <= set(words)


def test_a_negated_question_has_a_not_behind_its_verb(real_questions):
    by_id = {example.id: example for example in real_questions}
    negated = make_negatives(real_questions, count=10, seed=1, shares={"negated": 1.0})
    assert len(negated) == 10
    for negative in negated:
        source = by_id[negative.id.removeprefix("negated-")]
        assert negative.context == source.context
        assert negative.question != source.question
        assert negative.question.replace(" not", "", 1) == source.question.replace(" not", "", 1)


def test_passages_that_were_cut_are_written_apart_from_their_source(real_questions, tmp_path):
    cut = make_negatives(real_questions, count=20, seed=1, shares={"cut": 1.0})
    sources = [e for e in real_questions if e.id in {negative.id.removeprefix("cut-") for negative in cut}]
    mixed = sorted(cut + sources, key=lambda example: example.paragraph)
    write_squad(mixed, tmp_path / "mixed.json")
    back = {example.id: example.context for example in read_dataset(tmp_path / "mixed.json")}
    assert back == {example.id: example.context for example in mixed}


def test_kinds_are_made_in_the_shares_that_are_asked_for(real_questions):
    made = make_negatives(real_questions, count=20, seed=1, shares={"moved": 1, "cut": 2, "edited": 1})
    kinds = [example.id.partition("-")[0] for example in made]
    assert {kind: kinds.count(kind) for kind in kinds} == {"moved": 5, "cut": 10, "edited": 5}


@pytest.mark.parametrize("kinds", ["swapped=1", "moved", "moved=0", "moved=x", "moved=inf", "moved=1,", ""])
def test_kinds_that_are_none_are_told(tmp_path, real_questions, capsys, kinds):
    write_squad(real_questions[:40], tmp_path / "data.json")
    command = ["negatives", str(tmp_path / "data.json"), "-o", str(tmp_path / "out.json"), "--kinds", kinds]
    assert main(command) == 2
    assert f"--kinds {kinds}: give KIND=SHARE" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
